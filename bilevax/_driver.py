"""The host driver: many starts in compiled chunks, with progress, history, checkpoints, Ctrl-C.

``solve`` is one pure function. ``run`` is what long work needs around it. It compiles once and
advances every start a chunk of steps at a time on a pool of threads (JAX releases the interpreter's
lock). Between chunks a start can be looked at, recorded, saved and stopped. The chunks change
nothing in the numbers: a run that was stopped and resumed equals one that was not, bit for bit.
"""

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._check import check_limits
from ._estimator import AbstractEstimator
from ._interval import Interval
from ._problem import Problem
from ._program import Program, compile_program
from ._solution import RESULTS, Solution
from ._solve import as_estimator
from ._solver.base import AbstractSolver, State
from ._starts import check_first, points_of
from ._types import Float, Key, PyTree
from .io import checkpoint
from .io.provenance import installed
from .io.run_folder import (
    CHECKPOINT,
    check_new_folder,
    check_unfinished,
    held,
    history_line,
    open_history,
    save_solutions,
)

_POINTS = 150
"""History lines per start, unless ``chunk`` says otherwise: enough for a curve."""


@dataclass(frozen=True)
class RunProgress:
    """Where a run stands, for a progress display.

    Attributes:
        phase: "compiling", "running" or "certifying".
        latest: each start's last history line, ``None`` before its first.
        steps: steps taken, over all starts.
        max_steps: steps to take at most, over all starts.
        seconds: since the run began, earlier sessions of a resumed run counted in.
        compile_seconds: of those, spent on compilation.
        steps_per_second: over all starts, in this session; NaN before the first chunk.
        seconds_left: an estimate, NaN before the first chunk.
    """

    phase: str
    latest: tuple[dict[str, Any] | None, ...]
    steps: int
    max_steps: int
    seconds: float
    compile_seconds: float
    steps_per_second: float
    seconds_left: float

    @property
    def best(self) -> dict[str, Any] | None:
        """The last line of the start with the lowest f(x, policy) so far."""
        lines = [line for line in self.latest if line and np.isfinite(line["upper_value"])]
        return min(lines, key=lambda line: line["upper_value"], default=None)


@dataclass(frozen=True)
class Run:
    """What ``run`` gives back.

    Attributes:
        solutions: one per start, each with its certificate and its result.
        best_start: the start with the lowest F(x) = f(x, pi*_x) among the feasible ones. If none is
            feasible, among the finite ones; ``best.result`` then says so.
        history: a line per chunk and start, in order of steps: start, step, upper_value, penalty
            (by the solver's own oracle), penalty_weight, gradient_norm, converged, seconds.
        wall_seconds: all in all, earlier sessions of a resumed run counted in.
        compile_seconds: of those, spent on compilation.
    """

    solutions: tuple[Solution, ...]
    best_start: int
    history: tuple[dict[str, Any], ...]
    wall_seconds: float
    compile_seconds: float

    @property
    def best(self) -> Solution:
        """The best start's solution."""
        return self.solutions[self.best_start]

    @property
    def best_response_values(self) -> Float[np.ndarray, " N"]:
        """F(x) at the end of every start: the spread that local optima cause."""
        return np.asarray([float(s.best_response_value) for s in self.solutions])


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
        session = _Session(program, folder, header, began, config)
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


class _Session:
    """One process's share of a run: the threads, the history file and the checkpoint."""

    def __init__(self, program: Program, folder, header, began, config):
        self.program, self.folder = program, folder
        self.began = began - header.get("seconds", 0.0)
        self.compile_seconds = program.seconds + header.get("compile_seconds", 0.0)
        self.states: list[State] = list(program.states)
        self.solutions: list[Solution | None] = [None] * len(self.states)
        self.first_step = sum(int(state.step) for state in self.states)
        self.ready = time.perf_counter()
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.file, self.history = None, []
        if folder is not None:
            self.file, self.history = open_history(folder, header.get("history_bytes", 0), config)
        self.latest = {line["start"]: line for line in self.history}

    def work(self, workers, checkpoint_every, on_progress):
        try:
            with ThreadPoolExecutor(workers, "bilevax") as pool:
                try:  # from the first submission on: a start may be at work before the last is in
                    pending = {pool.submit(self._one_start, i) for i in range(len(self.states))}
                    self._attend(pending, checkpoint_every, on_progress)
                    self._save()
                except BaseException as error:
                    self.stop.set()
                    pool.shutdown(cancel_futures=True)
                    if isinstance(error, KeyboardInterrupt):
                        self._save()
                    raise
        finally:
            if self.file is not None:
                self.file.close()

    def _attend(self, pending, checkpoint_every, on_progress):
        saved = time.perf_counter()
        while pending:
            done, pending = concurrent.futures.wait(
                pending, timeout=0.1, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                future.result()
            if on_progress is not None:
                on_progress(self._progress())
            if time.perf_counter() - saved >= checkpoint_every:
                self._save()
                saved = time.perf_counter()

    def _one_start(self, i):
        targets = list(self.program.targets)
        for target in targets:
            state = self.states[i]
            before = int(state.step)
            if target <= before:
                continue
            if self.stop.is_set():
                return
            state = self.program.advance(state, self.program.targets[target])
            if int(state.step) > before:
                self._record(i, state)
            if int(state.step) < target:  # it converged or failed
                break
        if not self.stop.is_set():
            self.solutions[i] = self.program.finish(self.states[i])

    def _record(self, i, state):
        progress = state.progress
        line = dict(
            start=i,
            step=int(state.step),
            upper_value=float(progress.upper_value),
            penalty=float(progress.penalty),
            penalty_weight=float(progress.penalty_weight),
            gradient_norm=float(progress.gradient_norm),
            converged=bool(progress.converged),
            seconds=round(time.perf_counter() - self.began, 3),
        )
        with self.lock:
            self.states[i] = state
            self.latest[i] = line
            self.history.append(line)
            if self.file is not None:
                self.file.write(history_line(line))
                self.file.flush()

    def _progress(self):
        with self.lock:
            latest = tuple(self.latest.get(i) for i in range(len(self.states)))
        now = time.perf_counter()
        steps = sum(line["step"] for line in latest if line)
        total = max(self.program.targets) * len(self.states)
        speed = (steps - self.first_step) / (now - self.ready)
        known = steps > self.first_step
        return RunProgress(
            phase="running" if steps < total else "certifying",
            latest=latest,
            steps=steps,
            max_steps=total,
            seconds=now - self.began,
            compile_seconds=self.compile_seconds,
            steps_per_second=speed if known else np.nan,
            seconds_left=(total - steps) / speed if known else np.nan,
        )

    def _save(self):
        if self.folder is None or self.file is None:
            return
        with self.lock:
            states, length = list(self.states), self.file.tell()
        # What the checkpoint counts as written must be on the disk before it is.
        os.fsync(self.file.fileno())
        header = dict(
            fingerprint=self.program.fingerprint,
            **installed("bilevax", "jax"),
            starts=len(states),
            chunk=min(self.program.targets),
            history_bytes=length,
            seconds=time.perf_counter() - self.began,
            compile_seconds=self.compile_seconds,
        )
        checkpoint.save(self.folder / CHECKPOINT, header, states)

    def end(self, keep_checkpoint):
        solutions = tuple(s for s in self.solutions if s is not None)
        run = Run(
            solutions=solutions,
            best_start=best_start(solutions),
            history=tuple(sorted(self.history, key=lambda line: (line["start"], line["step"]))),
            wall_seconds=time.perf_counter() - self.began,
            compile_seconds=self.compile_seconds,
        )
        if self.folder is not None:
            save_solutions(self.folder, run.best, solutions)
            if not keep_checkpoint:
                (self.folder / CHECKPOINT).unlink()
        return run


def best_start(solutions: Sequence[Solution]) -> int:
    """The start with the lowest F(x), the feasible ones first; see ``Run``."""
    finite = [i for i, s in enumerate(solutions) if jnp.isfinite(s.best_response_value)]
    out = (RESULTS.infeasible, RESULTS.no_model, RESULTS.nonfinite)
    feasible = [i for i in finite if not any(bool(solutions[i].result == r) for r in out)]
    value = lambda i: float(solutions[i].best_response_value)
    return min(feasible or finite or [0], key=value)
