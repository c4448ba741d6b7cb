"""Reward models fitted to all labels at once, by proximal gradient descent."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._types import Array, Bool, Float, PyTree, Scalar
from .reward_model import (
    AbstractRewardLearner,
    RewardModel,
    RewardState,
    all_finite,
    fit_data,
    metrics_of,
    terms,
)
from .reward_network import split

_FIRST_CURVATURE = 1e-3, 64.0
"""A fit starts within these: what a steep penalty needed once shall not slow the next one down."""


class ProximalRewardLearner(AbstractRewardLearner):
    """Accelerated proximal gradient descent (Beck and Teboulle 2009) on the Bradley-Terry loss.

    For rewards whose loss is convex, such as ``PatternReward``: every step looks at all training
    pairs, the proximal map of the reward (``AbstractReward.shrunk``) sets weights to exactly 0,
    and there is neither a learning rate nor the noise of minibatches. A step is the inverse of a
    curvature, which is doubled until it bounds the loss (each time for one of the steps); momentum
    restarts where it leads uphill (O'Donoghue and Candes 2015). Each member weighs every pair by a
    draw from the exponential distribution that stays with it (the Bayesian bootstrap, Rubin 1981).
    Held-out pairs only measure the model. A penalty has to be smooth: no curvature bounds a kink.
    """

    def init(self, model):
        dtype = jax.tree.leaves(split(model.members)[0])[0].dtype
        return RewardState(model, jnp.ones(model.size, dtype))

    @eqx.filter_jit
    def fit(self, state, buffer, key, *, steps, batch, penalty=None):
        del key, batch
        if steps < 1:
            raise ValueError(f"ProximalRewardLearner: steps is {steps}; give at least 1.")
        data, weight, held_out, members = fit_data(state.model, buffer)
        answered = lambda weight: data._replace(
            answers=eqx.tree_at(lambda a: a.weight, data.answers, weight)
        )
        fit = lambda member, weight, curvature: self._fit_one(
            member, curvature, lambda member: terms(penalty, member, answered(weight)), steps
        )
        found = eqx.filter_vmap(fit)(members, weight, state.memory)
        sample = answered(buffer.training_weight)
        extra = eqx.filter_vmap(lambda member: terms(penalty, member, sample)[1])(found.member)
        model = RewardModel(found.member)
        taken, fine = jnp.asarray(float(steps)), jnp.all(found.fine, axis=0)
        metrics = metrics_of(model, sample, held_out, jnp.mean(extra), taken, fine)
        return RewardState(model, found.curvature), metrics

    def _fit_one(self, member, curvature, parts, steps):
        """One member's fit; ``parts(member)`` are those of its loss."""
        parameters, rest = split(member)

        def loss(parameters):
            preference, extra, cost = parts(eqx.combine(parameters, rest))
            return preference + extra + cost, jnp.stack([all_finite(preference), all_finite(extra)])

        def shrunk(parameters, step):
            return split(eqx.combine(parameters, rest).shrunk(step))[0]

        def step(now: _Walk, _):
            (value, fine), gradient = jax.value_and_grad(loss, has_aux=True)(now.ahead)
            fine = jnp.append(fine, all_finite(gradient))
            moved = jax.tree.map(lambda p, g: p - g / now.curvature, now.ahead, gradient)
            new = shrunk(moved, 1 / now.curvature)
            change = jax.tree.map(jnp.subtract, new, now.ahead)
            bound = value + _dot(gradient, change) + now.curvature / 2 * _dot(change, change)
            # What is left near the optimum is rounding, which no curvature bounds.
            bound += 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)
            bounded = loss(new)[0] <= bound
            uphill = _dot(change, jax.tree.map(jnp.subtract, new, now.parameters)) < 0
            momentum = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * now.momentum**2)) / 2)
            share = jnp.where(uphill, 0, (now.momentum - 1) / momentum)
            ahead = jax.tree.map(lambda a, b: a + share * (a - b), new, now.parameters)
            taken = _Walk(new, ahead, momentum, now.curvature, now.fine)
            wait = now._replace(curvature=2 * now.curvature)
            pick = lambda go: lambda a, b: jnp.where(go, a, b)
            after = jax.tree.map(pick(bounded), taken, wait)
            after = jax.tree.map(pick(jnp.all(fine)), after, now)
            return after._replace(fine=now.fine & fine), None

        one = jnp.ones_like(curvature)
        first = jnp.clip(curvature / 2, *_FIRST_CURVATURE)
        start = _Walk(parameters, parameters, one, first, jnp.ones(3, bool))
        end, _ = lax.scan(step, start, None, length=steps)
        return _Fit(eqx.combine(end.parameters, rest), end.curvature, end.fine)


class _Walk(NamedTuple):
    """A member on its way: where it is, and where momentum has carried it."""

    parameters: PyTree
    ahead: PyTree
    momentum: Scalar
    curvature: Scalar
    fine: Bool[Array, " 3"]


class _Fit(NamedTuple):
    member: PyTree
    curvature: Float[Array, ""]
    fine: Bool[Array, " 3"]


def _dot(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
