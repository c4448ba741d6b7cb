"""The seeds of a run at work, side by side in threads: rounds, history, checkpoints and Ctrl-C."""

import contextlib
import threading
import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._threads import work_through
from ...io import checkpoint
from ...io.files import write_json
from ...io.run_folder import HISTORY, RESULT, history_line
from ..buffer import Pairs
from ..labeller import AbstractLabeller
from ..sampler import HostSampler
from .base import AbstractAlgorithm, RLHFState
from .evaluation import evaluate
from .folder import (
    checkpoint_path,
    fingerprint,
    load_state,
    open_folder,
    rewrite_history,
    save_networks,
    save_segments,
    save_state,
    sync,
)
from .outcome import RLHFProgress, RLHFRun, SeedRun, to_fields
from .patience import Patience, Stopped
from .queries import add_labels
from .rounds import one_round


class Session:
    """One process's share of a run: the threads, the history file and the checkpoints."""

    def __init__(self, algorithm, seeds, answers, known, folder, resume, episodes, patience):
        self.algorithm, self.seeds, self.answers, self.known = algorithm, seeds, answers, known
        self.labeller = answers if isinstance(answers, AbstractLabeller) else None
        self.folder, self.resume, self.episodes = folder, resume, episodes
        self.rounds = algorithm.setup.rounds
        # What is compiled for one seed serves the others: they wait for it in these rounds.
        self.first_time = {0: threading.Lock(), 1: threading.Lock()}
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.patience = Patience(patience, self.stop)
        self.states: dict[int, RLHFState] = {}
        self.marks: dict[int, str] = {}
        self.results: dict[int, SeedRun] = {}
        self.file, self.history, self.writers = None, [], {}
        self.latest: dict[int, dict[str, Any]] = {}
        self.earlier, self.speed = 0.0, None
        with jax.enable_x64(False):
            self._start()
        self.began = time.perf_counter() - self.earlier

    def _start(self):
        """First states, or those of the checkpoints."""
        for seed in self.seeds:
            state = _strong(self.algorithm.init(jax.random.key(seed)))
            if self.folder is not None:
                self.marks[seed] = fingerprint(self.algorithm, self.answers, seed, state)
                path = checkpoint_path(self.folder, seed)
                if self.resume and path.exists():
                    like = _windowed(self.algorithm.setup, state, path)
                    self.states[seed], seconds = load_state(path, like, self.marks[seed])
                    self.earlier = max(self.earlier, seconds)
                    continue
            if self.known is not None:
                state = _with_known(state, self.known)
            self.states[seed] = state

    def open(self, config, writer):
        """Makes the folder, or cuts its history where the checkpoints are."""
        if self.folder is None:
            return
        if self.resume:
            done = {seed: int(state.round) for seed, state in self.states.items()}
            self.history = rewrite_history(self.folder, done)
        else:
            open_folder(self.folder, config)
        self.file = open(self.folder / HISTORY, "ab")  # noqa: SIM115 (closed by work)
        for line in self.history:
            self._note(line)
        if writer is not None:
            events = self.folder / "tensorboard"
            self.writers = {seed: writer(str(events / f"seed{seed}")) for seed in self.seeds}

    def work(self, workers, checkpoint_every, on_progress):
        def look():
            if on_progress is not None:
                on_progress(self._progress())

        if self.labeller is not None:
            self.labeller.begin()
        seeds = [partial(self._one_seed, seed, checkpoint_every) for seed in self.seeds]
        try:
            work_through(seeds, workers, self.stop, look)
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
                # People's answers are precious, and a round may wait for them for hours.
                late = time.perf_counter() - saved >= checkpoint_every
                if (late or self.labeller is not None) and self._may_save(seed):
                    self._save(seed)
                    saved = time.perf_counter()
            if self._may_save(seed):
                self._save(seed, acknowledge=not fault)
            if not self.stop.is_set():
                self._finish(seed, number, fault)

    def _one_round(self, seed, number):
        state = self.states[seed]
        if self._restarts(number):
            state = _restarted(self.algorithm, state)
        with self.first_time.get(number, contextlib.nullcontext()):
            try:
                state, numbers, fault = one_round(
                    self.algorithm, state, self.answers, self.patience
                )
            except Stopped:
                return ""
        if fault:
            return fault
        line = {"seed": seed, "round": number, **numbers}
        line["seconds"] = round(time.perf_counter() - self.began, 3)
        with self.lock:
            self.states[seed] = state
            self._note(line)
            self.history.append(line)
            self.speed = self.speed or (time.perf_counter(), self._steps())
            if self.file is not None:
                self.file.write(history_line(line))
                self.file.flush()
        if seed in self.writers:
            _write_scalars(self.writers[seed], line)
        return ""

    def _note(self, line: dict[str, Any]) -> None:
        """Keeps a seed's last line; where no episode ended, with the true return from before."""
        if not np.isfinite(line["true_return"]):
            before = self.latest.get(line["seed"], line)
            line = line | {"true_return": before["true_return"]}
        self.latest[line["seed"]] = line

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

    def _save(self, seed, acknowledge=True):
        with self.lock:
            sync(self.file)
        path = checkpoint_path(self.folder, seed)
        seconds = time.perf_counter() - self.began
        save_state(path, self.states[seed], self.marks[seed], seconds)
        # What a round with a fault has collected is in no state: a later run is given it again.
        if acknowledge and self.labeller is not None:
            self.labeller.acknowledge()

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
            fault = self._unanswered(seed, state)
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

    def _unanswered(self, seed, state):
        """That a seed which asked has no label at all; empty where it has."""
        asked = self.algorithm.setup.labels if self.algorithm.asks else 0
        if not asked or int(state.labels):
            return ""
        return f"seed {seed} learned from nothing: to {asked} questions no answer came"

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
        return RLHFProgress(
            latest, rounds, total, now - self.began, rate, left, self.patience.waiting_for
        )

    def end(self):
        history = tuple(sorted(self.history, key=lambda line: (line["seed"], line["round"])))
        results = tuple(self.results[seed] for seed in self.seeds)
        run = RLHFRun(results, history, time.perf_counter() - self.began)
        whole = all(int(one.state.round) == self.rounds for one in results)
        if self.folder is None and whole and self.labeller is not None:
            self.labeller.acknowledge()  # nothing is saved on the way that could be lost
        if self.folder is not None:
            save_segments(self.folder, self.algorithm, run)
            write_json(self.folder / RESULT, to_fields(run))
            for one in results:
                if int(one.state.round) == self.rounds:
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


def check_known(algorithm: AbstractAlgorithm, known: Pairs) -> None:
    """``ValueError`` where a run of the algorithm cannot start from these pairs."""
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


def _with_known(state, known):
    """The state with these pairs in the buffer."""
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


def _write_scalars(writer, line):
    for name, value in line.items():
        if name not in ("seed", "round", "steps") and np.isfinite(value):
            writer.add_scalar(name, value, line["steps"])
