"""One process's share of a run: the threads, the history file and the checkpoint."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ._program import Program
from ._run import Run, RunProgress, best_start
from ._solution import Solution
from ._solver.base import State
from ._threads import work_through
from .io import checkpoint
from .io.provenance import installed
from .io.run_folder import CHECKPOINT, history_line, open_history, save_solutions


class Session:
    """The starts of a program at work, and what they leave in the folder of the run.

    Arguments:
        program: compiled, with the state that every start goes on from.
        folder: of the run, or ``None``.
        header: of the checkpoint that is resumed; empty for a new run.
        began: when ``run`` was called, by ``time.perf_counter``.
        config: kept in the folder.
    """

    def __init__(
        self,
        program: Program,
        folder: Path | None,
        header: dict[str, Any],
        began: float,
        config: dict[str, Any] | None,
    ):
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

    def work(
        self,
        workers: int,
        checkpoint_every: float,
        on_progress: Callable[[RunProgress], None] | None,
    ) -> None:
        """Advance every start to its end; an interrupt saves what there is, and is raised again."""
        saved = time.perf_counter()

        def look():
            nonlocal saved
            if on_progress is not None:
                on_progress(self._progress())
            if time.perf_counter() - saved >= checkpoint_every:
                self._save()
                saved = time.perf_counter()

        starts = [partial(self._one_start, i) for i in range(len(self.states))]
        try:
            work_through(starts, workers, self.stop, look)
            self._save()
        except KeyboardInterrupt:
            self._save()
            raise
        finally:
            if self.file is not None:
                self.file.close()

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

    def end(self, keep_checkpoint: bool) -> Run:
        """The run, its solutions saved in the folder."""
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
