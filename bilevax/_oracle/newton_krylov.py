"""Newton's method with inexact solves: policy iteration for large models."""

import jax.numpy as jnp
from jax import lax

from .._linear import bicgstab, solves_densely, system_matrix
from .._mdp import MDP, greedy_policy
from .._regularizer import Unregularized
from .._types import Array, Float, Scalar
from .base import MOVING, AbstractOracle, Response, first_response

_SWEEPS = 20
"""Sweeps between two improvements of a moving policy; they cost about as much as one of these."""


class NewtonKrylov(AbstractOracle):
    """Inexact Newton: each policy is evaluated no further than it deserves.

    While the policy still moves a step is a few sweeps: modified policy iteration (Puterman and
    Shin 1978), the constant mode removed. Where it settles, sweeps are followed by BiCGSTAB, the
    more accurately the better the linear model foresaw the last residual (Eisenstat and Walker
    1996, choice 1). Dense systems on which that is slow are factorised.
    """

    tol: float = 1e-12
    max_steps: int = 500

    def init(self, mdp):
        return first_response(mdp, None, MOVING)

    def evaluate(self, mdp, response):
        return krylov_step(mdp, response, self.tol)

    def improve(self, mdp, q, response):
        return greedy_policy(mdp, q)


def krylov_step(mdp: MDP, response: Response, tol: float) -> tuple[Float[Array, " S"], Scalar]:
    """V + about (I - discount P_pi)^-1 (T V - V), and the residual where pi stays."""
    if isinstance(mdp.regularizer, Unregularized):
        kernel = mdp.transition.select(jnp.argmax(response.policy, axis=-1))
    else:
        kernel = mdp.transition.under(response.policy)
    matvec = lambda v: v - mdp.discount * kernel.apply(v)
    delta = response.backup - response.values
    # As accurate as the policy is settled, and ever more accurate if this goes on, up to exact
    # policy iteration, which converges; but no more than the tolerance asks.
    size = jnp.linalg.norm(delta)
    enough = 0.3 * tol * jnp.max(jnp.abs(response.backup)) / response.residual
    share = jnp.clip(response.rate, 1e-4, 0.1 * 0.9**response.steps)
    target = jnp.maximum(share, enough) * size
    moving = response.rate > 0.5
    correction, rest = _sweeps(
        matvec, delta, enough * size, target, mdp.num_actions, jnp.where(moving, _SWEEPS, 0)
    )
    dense = solves_densely(kernel)
    limit = 10 + mdp.num_states // 10 if dense else 1000
    more, rest = bicgstab(matvec, rest, target, jnp.where(moving, 0, limit))
    # Where the iteration failed, one sweep: delta itself.
    failed = ~(jnp.linalg.norm(rest) <= size)
    correction = jnp.where(failed, delta, correction + more)
    foreseen = jnp.max(jnp.abs(rest))
    if dense:
        # By now a factorisation is cheaper.
        slow = ~moving & ~(jnp.linalg.norm(rest) <= target)
        exact = lambda: jnp.linalg.solve(system_matrix(kernel, mdp.discount), delta)
        correction = lax.cond(slow, exact, lambda: correction)
        foreseen = jnp.where(slow, 0, foreseen)
    return response.values + correction, foreseen


def _sweeps(matvec, b, enough, target, free, most):
    """v and b - matvec(v) after sweeps without the constant mode, while they go fast.

    The first ``free`` ones cost no more than the improvement that they may save.
    """
    losses = matvec(jnp.ones_like(b))
    mean = jnp.mean(losses)
    # Constants are a mode where every state loses the same; elsewhere shifts could build up.
    uniform = jnp.max(jnp.abs(losses - mean)) <= 0.01 * mean
    share = jnp.where(uniform & (mean > 0), 1 / mean, 0)

    def cond(carry):
        _, _, size, before, k = carry
        wanted = (size > target) & ((size < 0.7 * before) | (k < most))
        return (size > enough) & (wanted | (k < free))

    def body(carry):
        v, r, size, _, k = carry
        constant = jnp.mean(r) * share
        r = r - constant * losses
        v = v + constant + r
        r = r - matvec(r)
        return v, r, jnp.linalg.norm(r), size, k + 1

    size = jnp.linalg.norm(b)
    v, r, _, _, _ = lax.while_loop(cond, body, (jnp.zeros_like(b), b, size, jnp.inf * size, 0))
    return v, r
