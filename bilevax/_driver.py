"""The host driver: many starts in compiled chunks, with progress, history, checkpoints, Ctrl-C.

``solve`` is one pure function. ``run`` is what long work needs around it. It compiles once and
advances every start a chunk of steps at a time on a pool of threads (JAX releases the interpreter's
lock). Between chunks a start can be looked at, recorded, saved and stopped. The chunks change
nothing in the numbers: a run that was stopped and resumed equals one that was not, bit for bit.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._check import check_limits
from ._estimator import AbstractEstimator
from ._interval import Interval
from ._problem import Problem
from ._program import compile_program
from ._run import Run, RunProgress
from ._session import Session
from ._solve import as_estimator
from ._solver.base import AbstractSolver
from ._starts import check_first, points_of
from ._types import Key, PyTree
from .io import checkpoint
from .io.run_folder import CHECKPOINT, check_new_folder, check_unfinished, held

_POINTS = 150
"""History lines per start, unless ``chunk`` says otherwise: enough for a curve."""


def run(
    problem: Problem | AbstractEstimator,
    solver: AbstractSolver,
    starts: PyTree,
    *,
    max_steps: int = 1000,
    tol: float = 0.0,
    gap_tol: float = 1e-3,
    key: Key | None = None,
    directory: str | os.PathLike | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    checkpoint_every: float = 30.0,
    keep_checkpoint: bool = False,
    workers: int | None = None,
    chunk: int | None = None,
    on_progress: Callable[[RunProgress], None] | None = None,
) -> Run:
    """The solutions from several starts, found in compiled chunks; see ``solve`` for one start.

    Arguments:
        problem: as for ``solve``.
        solver: as for ``solve``.
        starts: x0 with a leading axis of starts, or a list of x0.
        max_steps: steps in all, per start.
        tol: a start stops where its gradient's norm falls to this; 0 runs all steps.
        gap_tol: the largest certified gap that counts as feasible, in units of return.
        key: split between the starts.
        directory: an empty or new folder for ``history.jsonl``, ``checkpoint`` while unfinished,
            and ``solution.npz`` at the end.
        resume: continue the unfinished run in ``directory``; everything else must be as it was.
        config: saved in the folder as ``config.json``, for whoever wants to repeat the run.
        checkpoint_every: seconds between checkpoints.
        keep_checkpoint: leave the last checkpoint in the folder of the finished run, for a caller
            who has more to do before the run counts as finished.
        workers: threads; as many as there are CPUs by default, one on an accelerator.
        chunk: steps between two looks at a start; by default the run has 150 of them.
        on_progress: called from this thread several times a second.

    Ctrl-C lets the chunks under way end, saves them where there is a ``directory``, and raises
    ``KeyboardInterrupt``. ``ValueError`` says what is wrong with the arguments, the folder or the
    checkpoint before anything is written.
    """
    began = time.perf_counter()
    points = points_of(starts)
    count = len(points)
    check_limits(max_steps, tol, gap_tol)
    for name, value in (("workers", workers), ("chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"run: {name} is {value}; give at least 1.")
    folder = None if directory is None else Path(directory)
    if folder is None and resume:
        raise ValueError("run: resume needs the directory of the run.")
    header = {}
    if folder is not None:
        (check_unfinished if resume else check_new_folder)(folder)
        saved = folder / CHECKPOINT
        header = checkpoint.load_header(saved) if saved.exists() else {}
    chunk = int(chunk or header.get("chunk") or -(-max_steps // _POINTS))
    if on_progress is not None:
        nothing = (None,) * count
        total = max_steps * count
        on_progress(RunProgress("compiling", nothing, 0, total, 0.0, 0.0, np.nan, np.nan))

    estimator = as_estimator(problem)
    check_first(problem, starts, points[0])
    key = jax.random.key(0) if key is None else key
    keys = list(jax.random.split(key, count))
    program = compile_program(
        estimator,
        solver,
        points,
        keys,
        max_steps=max_steps,
        tol=tol,
        gap_tol=gap_tol,
        chunk=chunk,
    )
    if isinstance(program.finish(program.states[0]).upper_value, Interval):
        raise ValueError(
            f"run: {type(estimator).__name__} certifies by intervals, of which a run keeps no "
            "record yet; call solve for each start."
        )
    if not any(jnp.isfinite(program.finish(state).upper_value) for state in program.states):
        value = float(program.finish(program.states[0]).upper_value)
        raise ValueError(
            f"run: upper(x, policy, evaluation) is {value} at x0 and the first policy, from every "
            "start; it must be finite there."
        )
    if header:
        _check_fingerprint(program, saved, header)
        program.states = checkpoint.load(saved, program.states)
    with held(folder):
        if folder is not None:  # another process may have been at work here meanwhile
            (check_unfinished if resume else check_new_folder)(folder)
        session = Session(program, folder, header, began, config)
        session.work(workers or default_workers(), checkpoint_every, on_progress)
        return session.end(keep_checkpoint)


def default_workers() -> int:
    """Threads: as many as there are CPUs, one on an accelerator."""
    return (os.cpu_count() if jax.default_backend() == "cpu" else 1) or 1


def _check_fingerprint(program, path, header):
    if header["fingerprint"] != program.fingerprint:
        raise ValueError(
            f"{path} belongs to another problem, solver, set of starts or version (it was written "
            f"by bilevax {header['bilevax']} with jax {header['jax']}): resume with exactly what "
            "the run was started with, or start anew in another folder."
        )
