"""What every algorithm of a comparison shares: environment, networks, labels and budgets."""

from collections.abc import Callable

import equinox as eqx

from ..._types import Key
from ..actor_critic import AbstractLearner
from ..adam_learner import AdamRewardLearner
from ..reward_model import AbstractRewardLearner
from ..reward_network import AbstractReward
from ..sampler import AbstractSampler
from ..schedule import AbstractSchedule, Decreasing
from ..selection import AbstractSelection, DisagreementPairs


class Setup(eqx.Module):
    """An experiment but for the algorithm and the seed.

    Attributes:
        sampler: where the policy acts.
        learner: how policies learn.
        width, depth: of the policy's network.
        steps: environment steps of all rounds, over every policy that an algorithm trains. The
            first window, walked before any learning, comes on top, and is counted in a run's steps.
        rounds: how often the reward model is renewed; labels are asked for at the start of each.
        labels: how many pairs are labelled in all.
        schedule: how many labels in each round.
        segment: the length L of a segment.
        window: how many of a round's last rollouts segments are cut from; together at least L.
        candidates: pairs to choose from, for each one asked.
        selection: which candidates are asked about.
        members: of the reward ensemble.
        reward_learner: how the reward model learns.
        fit_steps, first_fit_steps, batch: steps of the reward learner a round, those in the first
            round, and pairs in a minibatch for one that takes them.
        capacity: pairs in the buffer, the oldest replaced first.
        held_out: the share of pairs that only measure the reward model.
        reward_network: makes a reward network from a key and the sampler; ``None`` chooses by the
            shape of observations. Its real arrays become float32.
        center: the quantile of predicted rewards that becomes 0 unless their mean is less;
            ``None`` for their mean.
        rare: policies start again from random networks after a round whose answers are all "equal",
            while of all answers in the buffer less than this share, but one at least, prefers a
            segment; 0 for never.
    """

    sampler: AbstractSampler
    learner: AbstractLearner
    width: int = eqx.field(static=True, default=64)
    depth: int = eqx.field(static=True, default=2)
    steps: int = eqx.field(static=True, default=1_000_000)
    rounds: int = eqx.field(static=True, default=25)
    labels: int = eqx.field(static=True, default=1000)
    schedule: AbstractSchedule = Decreasing(initial=0.25, half=0.5)
    segment: int = eqx.field(static=True, default=25)
    window: int = eqx.field(static=True, default=8)
    candidates: int = eqx.field(static=True, default=4)
    selection: AbstractSelection = DisagreementPairs()
    members: int = eqx.field(static=True, default=3)
    reward_learner: AbstractRewardLearner = AdamRewardLearner()
    fit_steps: int = eqx.field(static=True, default=200)
    first_fit_steps: int = eqx.field(static=True, default=400)
    batch: int = eqx.field(static=True, default=32)
    capacity: int = eqx.field(static=True, default=3000)
    held_out: float = eqx.field(static=True, default=0.15)
    center: float | None = eqx.field(static=True, default=0.5)
    rare: float = eqx.field(static=True, default=0.0)
    reward_network: Callable[[Key, AbstractSampler], AbstractReward] | None = eqx.field(
        static=True, default=None
    )

    def __check_init__(self):
        for name in ("steps", "rounds", "segment", "window", "candidates", "members", "batch"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"Setup: {name} is {value}; give at least 1.")
        if self.labels < 0:
            raise ValueError(f"Setup: labels is {self.labels}; give at least 0.")
        if not 0 <= self.rare <= 1:
            raise ValueError(f"Setup: rare is {self.rare}; give a share in [0, 1].")
        self._check_segment()
        self._check_labels()

    def _check_segment(self):
        """A round has to have rollouts, and its window to hold a segment."""
        length, count = self.sampler.length, self.sampler.count
        needed = -(-self.segment // length)
        enough = f"give at least {self.rounds * needed * length * count} steps"
        enough += " or fewer rounds" if self.rounds > 1 else ""
        if self.iterations < 1:
            raise ValueError(
                f"Setup: {self.steps} steps in all, rounds {self.rounds}, leave no rollout of "
                f"{length} steps in {count} environments; {enough}."
            )
        if self._held * length < self.segment:
            other = enough if self.window >= needed else f"widen the window to {needed} rollouts"
            raise ValueError(
                f"Setup: segment is {self.segment} steps, but a round's window holds {self._held} "
                f"rollouts of {length}; shorten the segment, or {other}."
            )

    def _check_labels(self):
        """A round's pairs have to fit into its window side by side."""
        pairs = self._held * self.sampler.length // self.segment * self.sampler.count // 2
        if self.most_asked > pairs:
            wider = "take more rounds, a wider window or more environments"
            other = wider if self._held < self.iterations else "give more steps"
            raise ValueError(
                f"Setup: labels is {self.labels}, of which up to {self.most_asked} are asked in "
                f"one round, but a round's window holds {pairs} pairs of separate segments of "
                f"{self.segment} steps; ask for fewer labels, shorten the segment, or {other}."
            )

    @property
    def _held(self):
        """Rollouts in a round's window."""
        return min(self.window, self.iterations)

    @property
    def asked(self) -> tuple[int, ...]:
        """Labels in each round."""
        return self.schedule(self.labels, self.rounds)

    @property
    def most_asked(self) -> int:
        """Labels in the round that asks for the most."""
        return max(self.asked)

    @property
    def iterations(self) -> int:
        """Rollouts of all environments in a round."""
        return self.steps // (self.rounds * self.sampler.length * self.sampler.count)
