"""A whole run: several seeds side by side, with progress, history, checkpoints and Ctrl-C.

A seed's numbers depend on the seed alone: not on the other seeds, on threads, or on whether the run
was stopped and resumed.
"""

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._driver import default_workers
from ...io import checkpoint
from ...io.files import write_json
from ...io.run_folder import HISTORY, RESULT, history_line
from ..buffer import Pairs
from ..labeller import AbstractLabeller
from ..sampler import HostSampler
from ..teacher import AbstractTeacher, ScriptedTeacher
from .base import AbstractAlgorithm, RLHFState, add_labels
from .evaluation import evaluate
from .folder import (
    check_unfinished_rlhf,
    checkpoint_path,
    fingerprint,
    load_state,
    need_safetensors,
    open_folder,
    rewrite_history,
    save_networks,
    save_segments,
    save_state,
    sync,
)
from .outcome import RLHFRun, SeedRun, to_fields
from .rounds import one_round


@dataclass(frozen=True)
class RLHFProgress:
    """Where a run stands, for a progress display.

    Attributes:
        latest: each seed's last history line, ``None`` before its first.
        rounds: rounds done, over all seeds.
        max_rounds: rounds in all, over all seeds.
        seconds: since the run began, earlier sessions of a resumed run counted in.
        steps_per_second: environment steps over all seeds since the first line of this session;
            NaN before the second.
        seconds_left: an estimate, NaN before that.
    """

    latest: tuple[dict[str, Any] | None, ...]
    rounds: int
    max_rounds: int
    seconds: float
    steps_per_second: float
    seconds_left: float


def run_rlhf(
    algorithm: AbstractAlgorithm,
    seeds: int | Sequence[int],
    *,
    teacher: AbstractTeacher | None = None,
    labeller: AbstractLabeller | None = None,
    known: Pairs | None = None,
    directory: str | os.PathLike | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    checkpoint_every: float = 30.0,
    tensorboard: bool = False,
    episodes: int = 64,
    workers: int | None = None,
    on_progress: Callable[[RLHFProgress], None] | None = None,
) -> RLHFRun:
    """A policy, and the reward it was taught, for each seed.

    Arguments:
        algorithm: ``PBRL``, ``DRLHF`` or ``TrueReward``, with its setup.
        seeds: the seeds themselves, or their number K for 0 to K - 1.
        teacher: answers from the true rewards, the oracle by default.
        labeller: answers in the teacher's place, now or later; for a run of one seed.
        known: labelled pairs that every seed has from the start. They count as labels.
        directory: an empty or new folder for history, checkpoints and networks.
        resume: continue the unfinished run in ``directory``; everything else must be as it was.
        config: saved in the folder as ``config.json``.
        checkpoint_every: seconds between two checkpoints of a seed.
        tensorboard: also write event files, into ``directory/tensorboard``.
        episodes: of the final evaluation, which counts in no step.
        workers: threads; as many as there are CPUs by default, one on an accelerator.
        on_progress: called from this thread several times a second.

    Everything is computed in float32, whatever ``jax_enable_x64`` says. Environments outside JAX
    cannot be saved: they start new episodes a few times in a run, and checkpoints are made there;
    their seeds run one after another.

    A seed whose reward model is no longer finite is stopped and keeps its last good state; the
    others go on. Ctrl-C lets the rounds under way end, saves them where there is a ``directory``,
    and raises ``KeyboardInterrupt``. ``ValueError`` says what is wrong with the arguments, the
    folder or a checkpoint before anything is written.
    """
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"run_rlhf: seeds is {seeds}; give at least one, each once.")
    if labeller is not None and len(numbers) > 1:
        raise ValueError(
            f"run_rlhf: one labeller cannot answer {len(numbers)} seeds; run them one by one."
        )
    if labeller is not None and teacher is not None:
        raise ValueError("run_rlhf: both a teacher and a labeller were given; leave one out.")
    if workers is not None and workers < 1:
        raise ValueError(f"run_rlhf: workers is {workers}; give at least 1.")
    folder = None if directory is None else Path(directory)
    if folder is None and (resume or tensorboard):
        raise ValueError("run_rlhf: resume and tensorboard need the directory of the run.")
    if folder is not None:
        need_safetensors()
        check_unfinished_rlhf(folder) if resume else open_folder(folder, config)
    answers = labeller or teacher or ScriptedTeacher.oracle()
    writers = _writers(folder, numbers) if tensorboard and folder is not None else {}
    if isinstance(algorithm.setup.sampler, HostSampler):
        workers = 1
    session = _Session(algorithm, numbers, answers, known, folder, resume, episodes, writers)
    session.work(workers or default_workers(), checkpoint_every, on_progress)
    return session.end()


class _Session:
    """One process's share of a run: the threads, the history file and the checkpoints."""

    def __init__(self, algorithm, seeds, answers, known, folder, resume, episodes, writers):
        self.algorithm, self.seeds, self.answers, self.known = algorithm, seeds, answers, known
        self.folder, self.episodes, self.writers = folder, episodes, writers
        self.rounds = algorithm.setup.rounds
        # What is compiled for one seed serves the others: they wait for it in these rounds.
        self.first_time = {0: threading.Lock(), 1: threading.Lock()}
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.states: dict[int, RLHFState] = {}
        self.marks: dict[int, str] = {}
        self.results: dict[int, SeedRun] = {}
        self.file, self.history = None, []
        self.earlier = 0.0
        with jax.enable_x64(False):
            self._start(resume)
        self.began = time.perf_counter() - self.earlier
        self.latest = {line["seed"]: line for line in self.history}
        self.speed = None

    def _start(self, resume):
        """First states, or those of the checkpoints; the history up to there."""
        for seed in self.seeds:
            state = _strong(self.algorithm.init(jax.random.key(seed)))
            if self.folder is not None:
                self.marks[seed] = fingerprint(self.algorithm, self.answers, seed, state)
                path = checkpoint_path(self.folder, seed)
                if resume and path.exists():
                    like = _windowed(self.algorithm.setup, state, path)
                    self.states[seed], seconds = load_state(path, like, self.marks[seed])
                    self.earlier = max(self.earlier, seconds)
                    continue
            if self.known is not None:
                state = _with_known(self.algorithm, state, self.known)
            self.states[seed] = state
        if self.folder is not None:
            if resume:
                done = {seed: int(state.round) for seed, state in self.states.items()}
                self.history = rewrite_history(self.folder, done)
            self.file = open(self.folder / HISTORY, "ab")  # noqa: SIM115 (closed by work)

    def work(self, workers, checkpoint_every, on_progress):
        try:
            with ThreadPoolExecutor(workers, "bilevax") as pool:
                pending = {pool.submit(self._one_seed, s, checkpoint_every) for s in self.seeds}
                try:
                    while pending:
                        done, pending = concurrent.futures.wait(
                            pending, timeout=0.1, return_when=concurrent.futures.FIRST_COMPLETED
                        )
                        for future in done:
                            future.result()
                        if on_progress is not None:
                            on_progress(self._progress())
                except BaseException:
                    self.stop.set()
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            for writer in self.writers.values():
                writer.close()
            if self.file is not None:
                self.file.close()

    def _one_seed(self, seed, checkpoint_every):
        with jax.enable_x64(False):
            saved, fault = time.perf_counter(), ""
            while (number := int(self.states[seed].round)) < self.rounds and not self.stop.is_set():
                fault = self._one_round(seed, number)
                if fault:
                    break
                if time.perf_counter() - saved >= checkpoint_every and self._may_save(seed):
                    self._save(seed)
                    saved = time.perf_counter()
            if self._may_save(seed):
                self._save(seed)
            if not self.stop.is_set():
                self._finish(seed, number, fault)

    def _one_round(self, seed, number):
        state = self.states[seed]
        if self._restarts(number):
            state = _restarted(self.algorithm, state)
        with self.first_time.get(number, contextlib.nullcontext()):
            state, numbers, fault = one_round(self.algorithm, state, self.answers)
        if fault:
            return fault
        line = {"seed": seed, "round": number, **numbers}
        line["seconds"] = round(time.perf_counter() - self.began, 3)
        with self.lock:
            self.states[seed] = state
            self.latest[seed] = line
            self.history.append(line)
            self.speed = self.speed or (time.perf_counter(), self._steps())
            if self.file is not None:
                self.file.write(history_line(line))
                self.file.flush()
        if seed in self.writers:
            _write_scalars(self.writers[seed], line)
        return ""

    def _restarts(self, number):
        """Whether environments outside JAX start anew before this round."""
        if not isinstance(self.algorithm.setup.sampler, HostSampler):
            return False
        return number % -(-self.rounds // 10) == 0

    def _may_save(self, seed):
        if self.folder is None:
            return False
        number = int(self.states[seed].round)
        host = isinstance(self.algorithm.setup.sampler, HostSampler)
        return not host or number == self.rounds or self._restarts(number)

    def _save(self, seed):
        with self.lock:
            sync(self.file)
        path = checkpoint_path(self.folder, seed)
        seconds = time.perf_counter() - self.began
        save_state(path, self.states[seed], self.marks[seed], seconds)

    def _finish(self, seed, number, fault):
        state, line = self.states[seed], self.latest.get(seed)
        if fault:
            fault = f"seed {seed} stopped in round {number}: {fault}"
            if self.folder is not None:
                fault += f"; its last good state is in {checkpoint_path(self.folder, seed)}"
            returns = np.zeros(0, np.float32)
        else:
            key = jax.random.fold_in(state.key, self.rounds)
            network = state.policy.agent.network
            sampler = self.algorithm.setup.sampler
            returns = evaluate(sampler, network, key, episodes=self.episodes)
        if self.folder is not None:
            save_networks(self.folder, seed, state, self.algorithm.setup.sampler.spec.name)
        self.results[seed] = SeedRun(
            seed=seed,
            state=state,
            returns=returns,
            reward_accuracy=line["reward_accuracy"] if line else float("nan"),
            steps=int(state.steps),
            labels=int(state.labels),
            fault=fault,
        )

    def _steps(self):
        return sum(line["steps"] for line in self.latest.values())

    def _progress(self):
        with self.lock:
            latest = tuple(self.latest.get(seed) for seed in self.seeds)
            speed, steps = self.speed, self._steps()
        now = time.perf_counter()
        rounds = sum(line["round"] + 1 for line in latest if line)
        total = self.rounds * len(self.seeds)
        rate = (steps - speed[1]) / (now - speed[0]) if speed and steps > speed[1] else np.nan
        all_steps = self.algorithm.setup.steps * len(self.seeds)
        left = max(all_steps - steps, 0) / rate if rate > 0 else np.nan
        return RLHFProgress(latest, rounds, total, now - self.began, rate, left)

    def end(self):
        history = tuple(sorted(self.history, key=lambda line: (line["seed"], line["round"])))
        results = tuple(self.results[seed] for seed in self.seeds)
        run = RLHFRun(results, history, time.perf_counter() - self.began)
        if self.folder is not None:
            save_segments(self.folder, self.algorithm, run)
            write_json(self.folder / RESULT, to_fields(run))
            for one in results:
                if not one.fault:
                    checkpoint_path(self.folder, one.seed).unlink()
        return run


def _strong(state):
    """The state without weak types, which would have every program compiled a second time."""
    is_key = lambda z: jnp.issubdtype(z.dtype, jax.dtypes.prng_key)
    one = lambda z: (
        z if not isinstance(z, jax.Array) or is_key(z) else lax.convert_element_type(z, z.dtype)
    )
    return jax.tree.map(one, state)


def _windowed(setup, state, path):
    """A first state in the shapes of the one that was saved.

    The first window is walked whole; a round with fewer rollouts than that leaves a shorter one.
    """
    if not checkpoint.load_header(path).get("round"):
        return state
    steps = min(setup.window, setup.iterations) * setup.sampler.length

    def cut(learner):
        window = jax.tree.map(lambda z: z[:steps], learner.window)
        whole = learner.window.last_value
        window = eqx.tree_at(lambda w: w.last_value, window, whole)
        return eqx.tree_at(lambda z: z.window, learner, window)

    state = eqx.tree_at(lambda s: s.policy, state, cut(state.policy))
    if state.tracker is None:
        return state
    return eqx.tree_at(lambda s: s.tracker, state, cut(state.tracker))


def _with_known(algorithm, state, known):
    """The state with these pairs in the buffer."""
    count, wanted = known.answers.second.shape[0], algorithm.setup
    if not algorithm.asks:
        raise ValueError(f"run_rlhf: {type(algorithm).__name__} has no use for labelled pairs.")
    if count > wanted.capacity:
        raise ValueError(
            f"run_rlhf: known holds {count} pairs and the buffer {wanted.capacity}; raise "
            "Setup.capacity."
        )
    if known.first.length != wanted.segment:
        raise ValueError(
            f"run_rlhf: known holds segments of {known.first.length} steps and the setup asks for "
            f"{wanted.segment}; give the same."
        )
    fresh = state.fresh
    state = add_labels(state, known, jax.random.fold_in(state.key, 2**31 - 1))
    return eqx.tree_at(lambda s: s.fresh, state, fresh)


def _restarted(algorithm, state):
    """The state with every environment at the start of an episode."""

    def one(learner, sampler, key):
        actors, running = sampler.start(key), jnp.zeros_like(learner.agent.scale.running)
        return eqx.tree_at(lambda z: (z.actors, z.agent.scale.running), learner, (actors, running))

    acting, tracking = algorithm.samplers
    keys = jax.random.split(jax.random.fold_in(state.key, 2**30 + state.round))
    state = eqx.tree_at(lambda s: s.policy, state, one(state.policy, acting, keys[0]))
    if tracking is None:
        return state
    return eqx.tree_at(lambda s: s.tracker, state, one(state.tracker, tracking, keys[1]))


def _writers(folder, seeds):
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tensorboardX is needed: install it with pip install 'bilevax[tensorboard]'.",
            name=error.name,
        ) from None
    return {seed: SummaryWriter(str(folder / "tensorboard" / f"seed{seed}")) for seed in seeds}


def _write_scalars(writer, line):
    for name, value in line.items():
        if name not in ("seed", "round", "steps") and np.isfinite(value):
            writer.add_scalar(name, value, line["steps"])
