"""Oracles for the lower level: the optimal regularised policy of an MDP.

An oracle is a pair of pure functions: ``init(mdp)`` and ``step(mdp, response)``. A ``Response`` is
its own warm start. ``respond`` repeats the step until the Bellman residual is small and says
whether it got there; one step alone tracks a slowly moving MDP (single-loop methods).
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ._linear import policy_system, solves_densely, system_matrix
from ._mdp import MDP, action_values, greedy_policy, per_context, soft_maximum
from ._types import Array, Bool, Float, Int, Scalar


class Response(eqx.Module):
    """An approximately optimal policy, and what the next call can start from.

    Attributes:
        policy: greedy with respect to ``q``, shape ``[S, A]``.
        values: V, shape ``[S]``.
        q: r + discount P V, shape ``[S, A]``.
        residual: max |T V - V|, the Bellman residual of ``values``.
        converged: whether the residual met the oracle's tolerance.
        steps: oracle steps taken by the last call.
        inverse: the inverse of a nearby policy's system, or ``None`` where none is kept.
    """

    policy: Float[Array, "*N S A"]
    values: Float[Array, "*N S"]
    q: Float[Array, "*N S A"]
    residual: Float[Array, "*N"]
    converged: Bool[Array, "*N"]
    steps: Int[Array, "*N"]
    inverse: Float[Array, "*N S S"] | None


class AbstractOracle(eqx.Module):
    """A way to solve a regularised MDP.

    Attributes:
        tol: the largest Bellman residual accepted, relative to the largest |T V|.
        max_steps: a limit; a response that meets it says ``converged = False``.
    """

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, mdp: MDP) -> Response:
        """A cold start."""

    @abc.abstractmethod
    def step(self, mdp: MDP, response: Response, progress: Scalar) -> Response:
        """One step. ``progress`` is the last step's ratio of residuals (infinite at the start)."""


class PolicyIteration(AbstractOracle):
    """Newton's method on V = T V: soft policy iteration, quadratically convergent.

    Dense chains keep the inverse of an earlier policy's system and refresh it only where it no
    longer halves the residual (a chord method: each step then costs two products).
    """

    tol: float = 1e-12
    max_steps: int = 200

    def init(self, mdp):
        return _cold_start(mdp, keep_inverse=True)

    def step(self, mdp, response, progress):
        delta = soft_maximum(mdp, response.q) - response.values
        if response.inverse is None:
            kernel = mdp.transition.under(greedy_policy(mdp, response.q))
            correction = policy_system(kernel, mdp.discount).solve(delta)
            return _observe(mdp, response.values + correction, None, self.tol)

        def fresh():
            kernel = mdp.transition.under(greedy_policy(mdp, response.q))
            return jnp.linalg.inv(system_matrix(kernel, mdp.discount))

        inverse = lax.cond(progress <= 0.5, lambda: response.inverse, fresh)
        return _observe(mdp, response.values + inverse @ delta, inverse, self.tol)


def respond(oracle: AbstractOracle, mdp: MDP, warm: Response) -> Response:
    """The oracle's response to an MDP, to tolerance, from a warm start."""

    def one(mdp, warm):
        first = _observe(mdp, warm.values, warm.inverse, oracle.tol)
        # A kept inverse deserves a first try; a cold one is NaN, and no NaN is below any threshold.
        unknown = jnp.zeros_like(first.residual)
        if warm.inverse is not None:
            unknown = unknown * warm.inverse[0, 0]

        def cond(carry):
            response, _, _, k = carry
            return ~response.converged & (k < oracle.max_steps)

        def body(carry):
            response, progress, erratic, k = carry
            new = oracle.step(mdp, response, progress)
            ratio = new.residual / response.residual
            # Chord steps that raise the residual can go round in circles; Newton's alone cannot.
            erratic = erratic | ~(ratio <= 1)
            return new, jnp.where(erratic, jnp.inf, ratio), erratic, k + 1

        start = (first, unknown, jnp.asarray(False), 0)
        response, _, _, k = lax.while_loop(cond, body, start)
        return eqx.tree_at(lambda r: r.steps, response, jnp.asarray(k))

    return per_context(one)(mdp, warm)


def track(oracle: AbstractOracle, mdp: MDP, warm: Response) -> Response:
    """One oracle step from a warm start: the response of a single-loop method."""

    def one(mdp, warm):
        first = _observe(mdp, warm.values, warm.inverse, oracle.tol)
        return oracle.step(mdp, first, first.residual / jnp.maximum(warm.residual, first.residual))

    return per_context(one)(mdp, warm)


def cold_start(oracle: AbstractOracle, mdp: MDP) -> Response:
    """The oracle's cold start in every context."""
    return per_context(oracle.init)(mdp)


def _cold_start(mdp, keep_inverse):
    states = mdp.num_states
    values = jnp.zeros(states, mdp.reward.dtype)
    dense = solves_densely(mdp.transition.under(mdp.uniform_policy()))
    inverse = (
        jnp.full((states, states), jnp.nan, mdp.reward.dtype) if keep_inverse and dense else None
    )
    return _observe(mdp, values, inverse, 0.0)


def _observe(mdp, values, inverse, tol):
    q = action_values(mdp, values)
    backup = soft_maximum(mdp, q)
    residual = jnp.max(jnp.abs(backup - values))
    converged = residual <= tol * jnp.max(jnp.abs(backup))
    policy = greedy_policy(mdp, q)
    return Response(policy, values, q, residual, converged, jnp.asarray(0), inverse)
