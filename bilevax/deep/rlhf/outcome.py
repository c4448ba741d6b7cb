"""Where a run over several seeds stands, what it gives back, and what that says of all seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._median import median_interval
from ..._types import Float
from ..buffer import Pairs
from .base import RLHFState


@dataclass(frozen=True)
class RLHFProgress:
    """Where a run stands, for a progress display.

    Attributes:
        latest: each seed's last history line, ``None`` before its first. Where no episode ended
            in that round, ``true_return`` is that of the last round in which one did.
        rounds: rounds done, over all seeds.
        max_rounds: rounds in all, over all seeds.
        seconds: since the run began, earlier sessions of a resumed run counted in.
        steps_per_second: environment steps over all seeds since the first line of this session;
            NaN before the second.
        seconds_left: an estimate, NaN before that.
        waiting_for: how many answers of a labeller a round waits for.
    """

    latest: tuple[dict[str, Any] | None, ...]
    rounds: int
    max_rounds: int
    seconds: float
    steps_per_second: float
    seconds_left: float
    waiting_for: int


@dataclass(frozen=True)
class SeedRun:
    """How one seed ended.

    Attributes:
        seed: which one.
        state: the last good state; ``state.policy.agent.network`` is the scored policy.
        returns: the true return of the final evaluation's episodes; none where it was stopped.
        reward_accuracy: the share of held-out answers that the reward model gets right; NaN
            without a reward model, or without a held-out pair.
        steps: environment steps, over every policy trained.
        labels: pairs labelled.
        fault: why the seed was stopped before its end, or that it asked and no answer came; empty
            where all went well.
    """

    seed: int
    state: RLHFState
    returns: Float[np.ndarray, " E"]
    reward_accuracy: float
    steps: int
    labels: int
    fault: str

    @property
    def held_out(self) -> int:
        """How many answers ``reward_accuracy`` rests on: held out, and not "equal"."""
        buffer = self.state.buffer
        return int(jnp.sum(buffer.held_out & (buffer.pairs.answers.second != 0.5)))

    @property
    def true_return(self) -> float:
        """The mean true return of the final evaluation; NaN where the seed was stopped."""
        return float(np.mean(self.returns)) if self.returns.size else math.nan

    @property
    def standard_error(self) -> float:
        """Of ``true_return``, over the episodes of the evaluation; NaN for fewer than two."""
        count = self.returns.size
        return float(np.std(self.returns, ddof=1)) / count**0.5 if count > 1 else math.nan


@dataclass(frozen=True)
class RLHFRun:
    """What ``run_rlhf`` gives back.

    Attributes:
        seeds: one entry per seed.
        history: a line per round and seed, seed by seed: seed, round, steps, labels, true_return
            (the mean over episodes that ended in the round; NaN if none did), episodes,
            predicted_reward (the learned reward per step as the policy sees it), reward_accuracy
            (on held-out pairs), reward_loss, correlation (of predicted and true returns of
            segments; NaN where all the true ones are the same), penalty, penalty_weight, entropy,
            equal_share (of this round's answers), started_again (whether random policies took the
            place of the old ones before this round's learning), seconds.
        wall_seconds: all in all, earlier sessions of a resumed run counted in.
    """

    seeds: tuple[SeedRun, ...]
    history: tuple[dict[str, Any], ...]
    wall_seconds: float

    @property
    def true_returns(self) -> Float[np.ndarray, " K"]:
        """Every seed's final true return."""
        return np.asarray([one.true_return for one in self.seeds])

    @property
    def true_return(self) -> float:
        """The median over seeds of the final true return; NaN if every seed was stopped."""
        return median(self.true_returns)

    @property
    def interval(self) -> tuple[float, float]:
        """A 95% interval for that median; of fewer than six seeds only their range."""
        return interval_or_range(self.true_returns)

    @property
    def reward_accuracy(self) -> float:
        """The median over seeds of the final held-out accuracy; NaN if there is none."""
        return median([one.reward_accuracy for one in self.seeds])

    @property
    def faults(self) -> tuple[str, ...]:
        """One sentence for every seed that was stopped, or had no answer."""
        return tuple(one.fault for one in self.seeds if one.fault)


def labelled_pairs(run: RLHFRun) -> Pairs:
    """The pairs in the buffers of all seeds, oldest first within a seed."""

    def one(buffer):
        size, added = int(buffer.size), int(buffer.added)
        return buffer.pairs.take((added + jnp.arange(size)) % size if size else jnp.arange(0))

    parts = [one(seed.state.buffer) for seed in run.seeds]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def median(values: Sequence[float] | Sequence[int] | np.ndarray) -> float:
    """The median of the values that are numbers; NaN if none is."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if known.size else math.nan


LEAST = 6
"""The fewest values whose median has a 95% interval; ``interval_or_range`` of fewer is a range."""


def interval_or_range(
    values: Sequence[float] | Sequence[int] | np.ndarray,
) -> tuple[float, float]:
    """``median_interval`` at 95%; of fewer than ``LEAST`` values the smallest and the largest.

    For 5 values these hold the median with 93.75%. NaN for fewer than 2 values; values that are NaN
    are left out.
    """
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if known.size < 2:
        return math.nan, math.nan
    low, high = median_interval(known) or (known.min(), known.max())
    return float(low), float(high)


def to_fields(run: RLHFRun) -> dict[str, Any]:
    """The outcome as ``result.json`` holds it: medians, an interval, and every seed.

    ``interval`` is that of the median true return with 95%, and of fewer than ``LEAST`` seeds their
    range, which is no 95% interval. ``held_out`` is how many answers the accuracy rests on.
    """
    return dict(
        true_return=run.true_return,
        interval=run.interval,
        labels=int(median([one.labels for one in run.seeds])),
        steps=int(median([one.steps for one in run.seeds])),
        reward_accuracy=run.reward_accuracy,
        held_out=int(median([one.held_out for one in run.seeds])),
        wall_seconds=round(run.wall_seconds, 3),
        faults=run.faults,
        seeds=[
            dict(
                seed=one.seed,
                true_return=one.true_return,
                standard_error=one.standard_error,
                reward_accuracy=one.reward_accuracy,
                held_out=one.held_out,
                steps=one.steps,
                labels=one.labels,
                fault=one.fault,
            )
            for one in run.seeds
        ],
    )
