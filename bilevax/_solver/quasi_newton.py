"""Quasi-Newton descent on F(x) = f(x, pi*_x): the fast way to a local optimum's last digits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._oracle import AbstractOracle, PolicyIteration
from .._types import Array, Bool, PyTree, Scalar
from .base import AbstractSolver, Progress, first_policy, first_state, next_state, step_key
from .update import projected_gradient

_SUFFICIENT = 1e-4  # Armijo's share of the decrease that the gradient promises
_SHORTEST = 2.0**-10  # a direction good for no longer step than this is given up


class Search(eqx.Module):
    """The best point so far and the line searched from it.

    Attributes:
        x, value, gradient: the point, F and its gradient there.
        direction: x - length * direction, projected, is the point tried next.
        length: in (0, 1], halved after a failure.
        steepest: whether the direction is the gradient's.
        curvature: the memory of past steps.
    """

    x: PyTree
    value: Scalar
    gradient: PyTree
    direction: PyTree
    length: Scalar
    steepest: Bool[Array, ""]
    curvature: PyTree


class QuasiNewton(AbstractSolver):
    """Descends F(x) = f(x, pi*_x) along L-BFGS directions, with a line search along the projection.

    F never rises. One step is one evaluation of F and its exact hypergradient, whether the point is
    taken or the step then halved (Liu and Nocedal 1989; Armijo's rule along the projection arc,
    Bertsekas 1976). Where X is curved or many of its constraints bind it falls back on projected
    gradients and is slow. Finds the optimum nearest to its start; needs tau > 0.

    Attributes:
        memory_size: past steps that the curvature is estimated from.
        oracle: solves the lower level.
    """

    memory_size: int = 20
    oracle: AbstractOracle = PolicyIteration()

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        zero, dtype = jax.tree.map(jnp.zeros_like, x), jnp.result_type(*jax.tree.leaves(policy))
        search = Search(
            x=x,
            value=jnp.asarray(jnp.inf, dtype),
            gradient=zero,
            direction=zero,
            length=jnp.asarray(1.0, dtype),
            steepest=jnp.asarray(True),
            curvature=self._lbfgs().init(x),
        )
        return first_state(x, policy, search, memory, jnp.nan, key)

    def step(self, estimator, state):
        search = state.update
        terms, gradient, policy, memory = estimator.hypergradient(
            self.oracle, state.x, state.memory, step_key(state)
        )
        move = jax.tree.map(jnp.subtract, state.x, search.x)
        promised = jnp.minimum(optax.tree.vdot(search.gradient, move), 0)
        # Not a number, where F is not finite, is never taken; at the very first step all else is.
        taken = terms.upper <= search.value + _SUFFICIENT * promised
        search = lax.cond(
            taken,
            lambda: self._onward(estimator, state.x, terms.upper, gradient, search.curvature),
            lambda: self._shorter(search),
        )
        first = state.step == 0
        progress = Progress(
            jnp.where(first, terms.upper, search.value),
            terms.penalty,
            state.weight,
            optax.tree.norm(projected_gradient(estimator, search.x, search.gradient)),
            terms.converged,
        )
        return next_state(
            eqx.tree_at(lambda s: s.policy, state, policy),
            x=self._trial(estimator, search),
            policy=policy,
            update=search,
            memory=jax.tree.map(lambda a, b: jnp.where(taken, a, b), memory, state.memory),
            progress=progress,
        )

    @property
    def compares_values(self):
        return True

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        x = state.update.x
        found = estimator.best_response_value(self.oracle, x, state.memory, step_key(state))
        return x, found[1]

    def _lbfgs(self):
        return optax.scale_by_lbfgs(self.memory_size)

    def _onward(self, estimator, x, value, gradient, curvature):
        direction, renewed = self._lbfgs().update(gradient, curvature, x)
        direction = jax.tree.map(lambda d, g: d.astype(g.dtype), direction, gradient)
        one = jnp.ones_like(value)
        search = Search(x, value, gradient, direction, one, jnp.asarray(False), renewed)
        move = jax.tree.map(jnp.subtract, self._trial(estimator, search), x)
        # Past steps over negative curvature can turn the direction uphill.
        downhill = jnp.less(optax.tree.vdot(gradient, move), 0)
        return lax.cond(downhill, lambda: search, lambda: self._steepest(search))

    def _shorter(self, search):
        halved = eqx.tree_at(lambda s: s.length, search, search.length / 2)
        useless = (halved.length < _SHORTEST) & ~search.steepest
        return lax.cond(useless, lambda: self._steepest(search), lambda: halved)

    def _steepest(self, search):
        scale = 1 / jnp.maximum(optax.tree.norm(search.gradient), 1)
        direction = jax.tree.map(lambda g: scale * g, search.gradient)
        lbfgs = self._lbfgs()
        _, curvature = lbfgs.update(search.gradient, lbfgs.init(search.x), search.x)
        one = jnp.ones_like(search.length)
        return Search(
            search.x, search.value, search.gradient, direction, one, jnp.asarray(True), curvature
        )

    def _trial(self, estimator, search):
        return estimator.project(
            jax.tree.map(lambda x, d: x - search.length * d, search.x, search.direction)
        )
