"""Reward models learned from preferences: an ensemble, its loss, and what every fit needs.

Bradley and Terry (1952), Christiano et al. (2017): the second of two segments is preferred with
probability ``sigmoid(sum r(second) - sum r(first))``.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Bool, Float, Int, Key, PyTree, Scalar, Shaped
from .buffer import Pairs, PreferenceBuffer
from .preference_loss import accuracy, bradley_terry_loss
from .reward_network import AbstractReward
from .segments import Segments
from .teacher import Answers


class RewardModel(eqx.Module):
    """An ensemble of M networks of one shape, stacked along a leading axis of every array."""

    members: AbstractReward

    @classmethod
    def create(
        cls, key: Key, network: Callable[[Key], AbstractReward], *, members: int = 3
    ) -> "RewardModel":
        """M networks drawn by ``network(key)``."""
        if members < 1:
            raise ValueError(f"RewardModel: members is {members}; give at least 1.")
        return cls(eqx.filter_vmap(network)(jax.random.split(key, members)))

    @property
    def size(self) -> int:
        """M, the number of members."""
        return jax.tree.leaves(eqx.filter(self.members, eqx.is_array))[0].shape[0]

    @property
    def _first(self) -> AbstractReward:
        """One member, to ask what is the same for all."""
        return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, self.members)

    def predict(
        self, observation: Shaped[Array, "..."], action: Int[Array, "*B"]
    ) -> Float[Array, "M *B"]:
        """Every member's reward of every step."""
        one = lambda member: member(observation, action)
        return eqx.filter_vmap(one)(self.members)

    def __call__(
        self, observation: Shaped[Array, "..."], action: Int[Array, "*B"]
    ) -> Float[Array, "*B"]:
        """The mean of the members' rewards."""
        return jnp.mean(self.predict(observation, action), axis=0)

    def summary(self, observation: Shaped[Array, "P L ..."], action: Int[Array, "P L"]) -> PyTree:
        """What every member's sums over P segments depend on (``AbstractReward.summary``)."""
        return self._first.summary(observation, action)

    def sums(self, segments: Segments) -> Float[Array, "M P"]:
        """Every member's sum of rewards over each segment."""
        return self.totals(self.summary(segments.observation, segments.action))

    def totals(self, summary: PyTree) -> Float[Array, "M P"]:
        """Every member's sum of rewards over each segment, from the segments' summary."""
        return eqx.filter_vmap(lambda member: member.total(summary))(self.members)

    def novelty(self, first: PyTree, second: PyTree) -> Float[Array, " P"]:
        """How unlike the other pairs each pair is, from the summaries of its segments."""
        return self._first.novelty(first, second)


class RewardState(eqx.Module):
    """A reward model and what its learner remembers of the last fit, such as Adam's moments."""

    model: RewardModel
    memory: PyTree


class FitMetrics(eqx.Module):
    """What a fit found. Losses are means over members, accuracies those of the ensemble's mean.

    Attributes:
        loss, accuracy: on training pairs: those of the last minibatches, or all where a learner
            takes none.
        held_out_loss, held_out_accuracy: on the held-out pairs; NaN while there is none.
        penalty: the penalty term; 0 without one.
        kept_step: after how many of the fit's steps the kept parameters were seen, the mean over
            members.
        preference_finite, penalty_finite, gradient_finite: whether that term stayed finite at
            every step; a step where it did not was not taken.
    """

    loss: Scalar
    accuracy: Scalar
    held_out_loss: Scalar
    held_out_accuracy: Scalar
    penalty: Scalar
    kept_step: Scalar
    preference_finite: Bool[Array, ""]
    penalty_finite: Bool[Array, ""]
    gradient_finite: Bool[Array, ""]

    @property
    def finite(self) -> Bool[Array, ""]:
        """Whether every term stayed finite."""
        return self.preference_finite & self.penalty_finite & self.gradient_finite

    def fault(self) -> str:
        """The term that was not finite, in words; empty if all were. Not under ``jit``."""
        if not self.preference_finite:
            return "the preference loss became NaN or infinite"
        if not self.penalty_finite:
            return "the penalty term became NaN or infinite"
        if not self.gradient_finite:
            return "the gradient of the reward model's loss became NaN or infinite"
        return ""


Penalty = Callable[[AbstractReward], Scalar]
"""A cost of a reward network beside its labels'."""


class AbstractRewardLearner(eqx.Module):
    """Fits a reward model to the training pairs of a buffer."""

    @abc.abstractmethod
    def init(self, model: RewardModel) -> RewardState:
        """The state before the first fit."""

    @abc.abstractmethod
    def fit(
        self,
        state: RewardState,
        buffer: PreferenceBuffer,
        key: Key,
        *,
        steps: int,
        batch: int,
        penalty: Penalty | None = None,
    ) -> tuple[RewardState, FitMetrics]:
        """``steps`` steps for each member, from where it stood.

        ``penalty(member)`` is added to every member's loss. A module keeps the compiled program
        from one call to the next; a fresh closure compiles anew. ``batch`` is the number of pairs
        in a minibatch, for a learner that takes them.
        """


class Digest(NamedTuple):
    """Pairs of segments, as far as their sums of rewards depend on them."""

    first: PyTree
    second: PyTree
    answers: Answers


def _evaluate(model, pairs):
    """The members' mean loss on these pairs, and the accuracy of the ensemble's mean reward."""
    first, second = model.totals(pairs.first), model.totals(pairs.second)
    loss = jnp.mean(jax.vmap(bradley_terry_loss, (0, 0, None))(first, second, pairs.answers))
    return loss, accuracy(jnp.mean(first, 0), jnp.mean(second, 0), pairs.answers)


def digest(model: RewardModel, pairs: Pairs) -> Digest:
    """All that a fit needs to know of these pairs."""
    summary = lambda part: model.summary(part.observation, part.action)
    return Digest(summary(pairs.first), summary(pairs.second), pairs.answers)


class FitData(NamedTuple):
    """What a fit starts from.

    Attributes:
        pairs: all pairs of the buffer.
        weight: how much each counts for each member: its answer's weight times the member's draw,
            and 0 where it is held out.
        held_out: the pairs that only measure the model.
        members: the members to start from, prepared for the training pairs.
    """

    pairs: Digest
    weight: Float[Array, "M C"]
    held_out: Digest
    members: AbstractReward


def fit_data(model: RewardModel, buffer: PreferenceBuffer) -> FitData:
    """What a fit of this model to this buffer starts from."""
    pairs, training = digest(model, buffer.pairs), buffer.training_weight
    weight = bootstrap(model.size, buffer.serial) * training
    held_out = weighted(pairs, *buffer.held_out_rows())
    return FitData(pairs, weight, held_out, prepared(pairs, training, model.members))


def weighted(pairs: Digest, row: Int[Array, "..."], weight: Float[Array, "..."]) -> Digest:
    """These rows, with these weights of their answers."""
    taken = jax.tree.map(lambda leaf: leaf[row], pairs)
    return taken._replace(answers=eqx.tree_at(lambda a: a.weight, taken.answers, weight))


def bootstrap(members: int, serial: Int[Array, " C"]) -> Float[Array, "M C"]:
    """Each member's factor on each pair's weight, the same whenever the pair is met."""
    if members == 1:
        return jnp.ones((1, serial.size))
    base = jax.random.key(0)
    one = lambda pair: jax.random.exponential(jax.random.fold_in(base, pair), (members,))
    return jax.vmap(one, out_axes=1)(serial)


def terms(
    penalty: Penalty | None, member: AbstractReward, pairs: Digest
) -> tuple[Scalar, Scalar, Scalar]:
    """A member's preference loss, its penalty, and what its parameters cost."""
    first, second = member.total(pairs.first), member.total(pairs.second)
    loss = bradley_terry_loss(first, second, pairs.answers)
    extra = jnp.zeros_like(loss) if penalty is None else penalty(member)
    return loss, extra, member.cost()


def prepared(pairs: Digest, weight: Float[Array, " C"], members: AbstractReward) -> AbstractReward:
    """All members, ready to be fitted to these pairs (``AbstractReward.prepared``)."""
    change = lambda a, b: b - a if jnp.issubdtype(a.dtype, jnp.floating) else None
    difference = jax.tree.map(change, pairs.first, pairs.second)

    def one(member):
        odds = jax.nn.sigmoid(member.total(pairs.second) - member.total(pairs.first))
        return member.prepared(difference, odds - pairs.answers.second, weight)

    return eqx.filter_vmap(one)(members)


def metrics_of(
    model: RewardModel,
    sample: Digest,
    held_out: Digest,
    penalty: Scalar,
    step: Scalar,
    fine: Bool[Array, " 3"],
) -> FitMetrics:
    """What a fit found, from training pairs and held-out ones."""
    loss, right = _evaluate(model, sample)
    held_out_loss, held_out_right = _evaluate(model, held_out)
    empty = jnp.sum(held_out.answers.weight) == 0
    held_out_loss = jnp.where(empty, jnp.nan, held_out_loss)
    return FitMetrics(loss, right, held_out_loss, held_out_right, penalty, step, *fine)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of these is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
