"""What commands share: a run behind a progress bar, what it needs and refuses, its early end."""

import contextlib
import importlib.util
import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._driver import default_workers, run
from .._run import Run
from ..tasks.settings import Task
from .polishing import polished
from .terminal import ProgressDisplay

INTERRUPTED = 130


def run_task(task: Task, out: Path | None, resume: bool, quiet: bool, workers: int | None) -> Run:
    """The run of a task from all its starts, polished where the settings say so."""
    settings, zoo = task.settings, task.zoo
    with ProgressDisplay(settings.solver, maximize=zoo.maximize, quiet=quiet) as display:
        result = run(
            zoo.problem,
            task.solver,
            task.starts,
            max_steps=settings.steps or zoo.steps,
            tol=settings.tol,
            gap_tol=settings.gap_tol,
            key=task.key,
            directory=out,
            resume=resume,
            config=None if out is None else task.config(out),
            keep_checkpoint=True,
            workers=workers,
            on_progress=display,
        )
        if not settings.polish:
            return result
        display.polishing()
        return polished(
            result,
            zoo.problem,
            tol=settings.tol or 1e-8,
            gap_tol=settings.gap_tol,
            workers=workers or default_workers(),
        )


def need(*modules: str) -> None:
    """``ModuleNotFoundError`` that names the first of these missing: before the work, not after."""
    for name in modules:
        found = None
        with contextlib.suppress(ImportError):
            found = importlib.util.find_spec(name)
        if found is None:
            raise ModuleNotFoundError(f"{name} is needed", name=name)


def refuse_beside_resume(command: Callable[..., Any], given: dict[str, Any], *flags: str) -> None:
    """``ValueError`` names what was given beside ``--resume``, where it would have no effect.

    That is what is ``given`` to the command with another value than its default, and ``flags``.
    """
    parameters = inspect.signature(command).parameters
    argument = next(iter(parameters))
    names = [name for name, value in given.items() if value != parameters[name].default]
    dashed = lambda name: "--" + name.replace("_", "-")
    shown = [name.upper() if name == argument else dashed(name) for name in names]
    extra = " and ".join([*shown, *flags])
    if extra:
        raise ValueError(f"--resume takes everything from the folder: leave out {extra}.")


def interrupted(command: str, out: Path | None) -> int:
    """Says how a command that Ctrl-C ended is continued; the exit code."""
    message = "interrupted"
    if out is not None and out.is_dir():
        message += f"; continue with: bilevax {command} --resume {shlex.quote(str(out))}"
    elif out is None:
        message += " (with --out DIR a run can be continued)"
    print(f"bilevax: {message}", file=sys.stderr)
    return INTERRUPTED
