"""Reward models fitted to minibatches of labels by Adam, and stopped early."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._types import Array, Float, Int, PyTree
from .reward_model import (
    AbstractRewardLearner,
    RewardModel,
    RewardState,
    all_finite,
    fit_data,
    metrics_of,
    terms,
    weighted,
)
from .reward_network import split


class AdamRewardLearner(AbstractRewardLearner):
    """Adam with decoupled weight decay on the Bradley-Terry loss, stopped early.

    Each member sees minibatches of its own, and, where there are several, weighs every pair by a
    draw from the exponential distribution that stays with it (the Bayesian bootstrap, Rubin
    1981). ``checks`` times in a fit its loss on the held-out pairs, plus the penalty, is looked
    at, and it ends with the parameters where that was lowest. The start is no candidate: a few
    held-out pairs can rate it best by chance, and new answers would then never count. With
    ``checks = 0``, or while no pair is held out, it ends with the last parameters.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    checks: int = eqx.field(static=True, default=8)

    def init(self, model):
        return RewardState(model, self._optimizer().init(split(model.members)[0]))

    @eqx.filter_jit
    def fit(self, state, buffer, key, *, steps, batch, penalty=None):
        if steps < 1 or batch < 1:
            raise ValueError(f"AdamRewardLearner: {steps} steps of {batch} pairs; give at least 1.")
        count = state.model.size
        data, weight, held_out, members = fit_data(state.model, buffer)
        parameters, rest = split(members)
        shared = lambda parameters, pairs: _all_terms(penalty, None)(parameters, rest, pairs)
        each = lambda parameters, pairs: _all_terms(penalty, 0)(parameters, rest, pairs)
        judge = lambda parameters: jnp.add(*shared(parameters, held_out)[:2])
        every = max(1, steps // self.checks) if self.checks else steps + 1

        def step(carry, now):
            parameters, moments, best, fine = carry
            row, k = now
            pairs = weighted(data, row, jnp.take_along_axis(weight, row, axis=1))
            total = lambda parameters: _total(each(parameters, pairs))
            gradient, (preference, extra) = jax.grad(total, has_aux=True)(parameters)
            now_fine = jnp.stack([all_finite(preference), all_finite(extra), all_finite(gradient)])
            update, moved = self._optimizer().update(gradient, moments, parameters)
            new = optax.apply_updates(parameters, update), moved
            keep = lambda new, old: jnp.where(jnp.all(now_fine), new, old)
            parameters, moments = jax.tree.map(keep, new, (parameters, moments))
            look = (k % every == 0) | (k == steps)
            seen = lambda: _better(best, _Best(parameters, judge(parameters), jnp.full(count, k)))
            best = lax.cond(look, seen, lambda: best) if self.checks else best
            return (parameters, moments, best, fine & now_fine), None

        best = _Best(parameters, jnp.full(count, jnp.inf), jnp.zeros(count, int))
        carry = (parameters, state.memory, best, jnp.ones(3, bool))
        rows = buffer.training_rows(key, (steps, count, batch))
        carry, _ = lax.scan(step, carry, (rows, jnp.arange(1, steps + 1)))
        parameters, moments, best, fine = carry
        judged = (self.checks > 0) & (jnp.sum(held_out.answers.weight) > 0)
        last = _Best(parameters, best.value, jnp.full(count, steps))
        kept = jax.tree.map(lambda a, b: jnp.where(judged, a, b), best, last)
        model = RewardModel(eqx.combine(kept.parameters, rest))

        row = rows[-1].reshape(-1)
        sample = weighted(data, row, buffer.training_weight[row])
        extra = shared(kept.parameters, sample)[1]
        metrics = metrics_of(model, sample, held_out, jnp.mean(extra), jnp.mean(kept.step), fine)
        return RewardState(model, moments), metrics

    def _optimizer(self):
        return optax.adamw(self.learning_rate, weight_decay=self.weight_decay)


class _Best(NamedTuple):
    """Every member's best parameters, their value and the step they were seen at."""

    parameters: PyTree
    value: Float[Array, " M"]
    step: Int[Array, " M"]


def _all_terms(penalty, pairs_axis):
    """The terms of every member, from parameters, all else, and pairs."""
    one = lambda parameters, rest, pairs: terms(penalty, eqx.combine(parameters, rest), pairs)
    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), eqx.if_array(0), pairs_axis))


def _total(parts):
    return jnp.sum(sum(parts)), parts[:2]


def _better(best, new):
    """Each member's better one of two; a value that is NaN never wins."""
    wins = new.value < best.value
    pick = lambda a, b: jnp.where(wins.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, new, best)
