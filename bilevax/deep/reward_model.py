"""Reward models learned from preferences: an ensemble, its loss and its training.

Bradley and Terry (1952), Christiano et al. (2017): the second of two segments is preferred with
probability ``sigmoid(sum r(second) - sum r(first))``.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._types import Array, Bool, Float, Int, Key, PyTree, Scalar, Shaped
from .buffer import Pairs, PreferenceBuffer, draw_rows
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

    def sums(self, segments: Segments) -> Float[Array, "M P"]:
        """Every member's sum of rewards over each segment."""
        return jnp.sum(self.predict(segments.observation, segments.action), axis=-1)


def bradley_terry_loss(
    first_sum: Float[Array, "*M Q"], second_sum: Float[Array, "*M Q"], answers: Answers
) -> Float[Array, "*M"]:
    """The weighted mean of ``-p log sigmoid(z) - (1 - p) log sigmoid(-z)``, z = second - first.

    p is the probability that the answer gives to the second segment; 0 if every weight is 0.
    """
    margin = second_sum - first_sum
    return _weighted_mean(jax.nn.softplus(margin) - answers.second * margin, answers.weight)


def accuracy(
    first_sum: Float[Array, "*M Q"], second_sum: Float[Array, "*M Q"], answers: Answers
) -> Float[Array, "*M"]:
    """The weighted share of pairs that are ordered as answered; NaN if none is.

    Pairs answered "equal" say nothing about an order and do not count; equal sums count half.
    """
    right = 0.5 + 0.5 * jnp.sign(second_sum - first_sum) * jnp.sign(answers.second - 0.5)
    weight = answers.weight * (answers.second != 0.5)
    return jnp.sum(weight * right, axis=-1) / jnp.sum(weight, axis=-1)


class RewardState(eqx.Module):
    """A reward model and the moments of its optimiser."""

    model: RewardModel
    moments: PyTree


class FitMetrics(eqx.Module):
    """What a fit found. Losses are means over members, accuracies those of the ensemble's mean.

    Attributes:
        loss, accuracy: on training pairs.
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


class RewardLearner(eqx.Module):
    """Adam with decoupled weight decay on the Bradley-Terry loss, stopped early.

    Each member sees minibatches of its own. ``checks`` times in a fit its loss on the held-out
    pairs, plus the penalty, is looked at, and it ends with the parameters where that was lowest,
    those of the start included. With ``checks = 0``, or while no pair is held out, it ends with
    the last parameters.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    checks: int = eqx.field(static=True, default=8)

    def init(self, model: RewardModel) -> RewardState:
        """The state before the first fit."""
        return RewardState(
            model, self._optimizer().init(eqx.filter(model.members, eqx.is_inexact_array))
        )

    @eqx.filter_jit
    def fit(
        self,
        state: RewardState,
        buffer: PreferenceBuffer,
        key: Key,
        *,
        steps: int,
        batch: int,
        penalty: Callable[[AbstractReward], Scalar] | None = None,
    ) -> tuple[RewardState, FitMetrics]:
        """``steps`` minibatch steps of ``batch`` pairs for each member, from where it stood.

        ``penalty(member)`` is added to every member's loss. A module keeps the compiled program
        from one call to the next; a fresh closure compiles anew.
        """
        count = state.model.size
        rows_key, sample_key = jax.random.split(key)
        usable = buffer.filled & ~buffer.held_out
        rows = draw_rows(rows_key, usable, (steps, count, batch))
        held_out = buffer.held_out_pairs()
        parameters, static = eqx.partition(state.model.members, eqx.is_inexact_array)
        terms = jax.vmap(_terms(static, penalty))
        judge = lambda parameters: jnp.add(*terms(parameters, _shared(held_out, count)))
        every = max(1, steps // self.checks) if self.checks else steps + 1

        def step(carry, now):
            parameters, moments, best, fine = carry
            row, k = now
            pairs = buffer.take_training(row)
            total = lambda parameters: _total(terms(parameters, pairs))
            gradient, (preference, extra) = jax.grad(total, has_aux=True)(parameters)
            now_fine = jnp.stack([_finite(preference), _finite(extra), _finite(gradient)])
            update, moved = self._optimizer().update(gradient, moments, parameters)
            new = optax.apply_updates(parameters, update), moved
            keep = lambda new, old: jnp.where(jnp.all(now_fine), new, old)
            parameters, moments = jax.tree.map(keep, new, (parameters, moments))
            look = (k % every == 0) | (k == steps)
            seen = lambda: _better(best, _Best(parameters, judge(parameters), jnp.full(count, k)))
            best = lax.cond(look, seen, lambda: best) if self.checks else best
            return (parameters, moments, best, fine & now_fine), None

        best = _Best(parameters, judge(parameters), jnp.zeros(count, int))
        carry = (parameters, state.moments, best, jnp.ones(3, bool))
        carry, _ = lax.scan(step, carry, (rows, jnp.arange(1, steps + 1)))
        parameters, moments, best, fine = carry
        judged = (self.checks > 0) & (jnp.sum(held_out.answers.weight) > 0)
        last = _Best(parameters, best.value, jnp.full(count, steps))
        kept = jax.tree.map(lambda a, b: jnp.where(judged, a, b), best, last)
        model = RewardModel(eqx.combine(kept.parameters, static))

        sample = buffer.sample(sample_key, max(batch, buffer.most_held_out))
        extra = terms(kept.parameters, _shared(sample, count))[1]
        metrics = _metrics(model, sample, held_out, jnp.mean(extra), jnp.mean(kept.step), fine)
        return RewardState(model, moments), metrics

    def _optimizer(self):
        return optax.adamw(self.learning_rate, weight_decay=self.weight_decay)


class _Best(NamedTuple):
    """Every member's best parameters, their value and the step they were seen at."""

    parameters: PyTree
    value: Float[Array, " M"]
    step: Int[Array, " M"]


def evaluate(model: RewardModel, pairs: Pairs) -> tuple[Scalar, Scalar]:
    """The members' mean loss on these pairs, and the accuracy of the ensemble's mean reward."""
    first, second = model.sums(pairs.first), model.sums(pairs.second)
    loss = jnp.mean(jax.vmap(bradley_terry_loss, (0, 0, None))(first, second, pairs.answers))
    return loss, accuracy(jnp.mean(first, 0), jnp.mean(second, 0), pairs.answers)


def _terms(static, penalty):
    """One member's preference loss and penalty, as a function of its parameters and pairs."""

    def terms(parameters, pairs):
        member = eqx.combine(parameters, static)
        total = lambda part: jnp.sum(member(part.observation, part.action), axis=-1)
        loss = bradley_terry_loss(total(pairs.first), total(pairs.second), pairs.answers)
        return loss, jnp.zeros_like(loss) if penalty is None else penalty(member)

    return terms


def _total(parts):
    return jnp.sum(parts[0] + parts[1]), parts


def _shared(pairs, count):
    """The same pairs for each member."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), pairs)


def _better(best, new):
    """Each member's better one of two; a value that is NaN never wins."""
    wins = (new.value < best.value) | jnp.isnan(best.value)
    pick = lambda a, b: jnp.where(wins.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, new, best)


def _metrics(model, sample, held_out, penalty, step, fine):
    loss, right = evaluate(model, sample)
    held_out_loss, held_out_right = evaluate(model, held_out)
    empty = jnp.sum(held_out.answers.weight) == 0
    held_out_loss = jnp.where(empty, jnp.nan, held_out_loss)
    return FitMetrics(loss, right, held_out_loss, held_out_right, penalty, step, *fine)


def _finite(tree):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _weighted_mean(value, weight):
    total = jnp.sum(weight, axis=-1)
    return jnp.sum(weight * value, axis=-1) / jnp.where(total > 0, total, 1)
