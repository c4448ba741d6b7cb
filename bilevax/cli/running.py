"""What the commands that solve share: a run behind a progress bar."""

import importlib.util
from pathlib import Path

from .._driver import Run, default_workers, run
from ..tasks.settings import Task
from .polishing import polished
from .terminal import ProgressDisplay


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


def need_matplotlib() -> None:
    """``ModuleNotFoundError`` where no figure can be drawn."""
    # Said before the work rather than after it.
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("matplotlib is needed", name="matplotlib")
