"""Constrained MDPs: an agent that may spend no more than a limit, by its Lagrangian."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._answer import differentiable_policy
from ._mdp import MDP, evaluate
from ._oracle import PolicyIteration, cold_start, respond
from ._regularizer import Unregularized
from ._types import Array, Bool, Float, concrete

_ORACLE = PolicyIteration()
_HALVINGS = 40
_ARMIJO = 1e-4
_RIDGE = 1e-12
_NOISE = 1e-10
"""Relative differences of D below this are the oracle's error; Newton's steps are whole there."""


class Lagrangian(eqx.Module):
    """A constrained MDP as a free one: the limits have become prices.

    Attributes:
        mdp: the MDP with reward r - sum_k multipliers[k] c_k. Its best response is the constrained
            optimum.
        multipliers: mu*, shape ``[K]``: what one more unit of each limit is worth in return. NaN
            where they were not found, as where no policy keeps the limits; so is the reward then.
        converged: whether the optimality conditions hold to the tolerance.
    """

    mdp: MDP
    multipliers: Float[Array, " K"]
    converged: Bool[Array, ""]


def lagrangian(
    mdp: MDP,
    costs,
    limits,
    *,
    tol: float = 1e-9,
    max_steps: int = 100,
) -> Lagrangian:
    """The MDP whose best response solves ``max V(rho) s.t. C_k(rho) <= limits[k] for all k``.

    C_k(rho) = E sum_t discount^t c_k(s_t, a_t), summed over contexts. The dual function
    D(mu) = V*_{r - mu c}(rho) + <mu, limits> is convex, and smooth for tau > 0, with gradient
    limits - C(pi*_mu); its minimum over mu >= 0 is the constrained optimum (Altman 1999, chapter
    3). It is found by Newton's method with projection, and differentiable in the MDP, the costs and
    the limits by the implicit function theorem. So ``lower = lambda x: lagrangian(...).mdp`` is a
    lower level for every solver, with its penalty, gradient and certificate: weak duality bounds
    the loss of any policy y against the constrained optimum by gap(y) + <mu, limits - C(y)>.

    Arguments:
        mdp: with tau > 0: at tau = 0 the optimum mixes between policies that tie.
        costs: c_k(s, a), of any sign, shape ``[K, S, A]`` (``[K, N, S, A]`` with contexts).
        limits: b_k, shape ``[K]``.
        tol: the largest of |min(mu_k, limits_k - C_k)| that counts as solved, relative to
            1 + |limits_k|.
        max_steps: of Newton's method.

    ``ValueError`` where a shape is wrong or tau is 0, and, outside compiled functions, where the
    multipliers are not found.
    """
    costs, limits = jnp.asarray(costs, mdp.reward.dtype), jnp.asarray(limits, mdp.reward.dtype)
    _check(mdp, costs, limits)
    held = lax.stop_gradient((mdp, costs, limits))
    found, warm, converged = _minimise(*held, tol, max_steps)
    if concrete(found) and not bool(converged):
        raise ValueError(
            f"lagrangian: no multipliers were found for limits {limits.tolist()}: either no policy "
            f"keeps them all, or max_steps is too small at {max_steps}."
        )

    def condition(mu):
        # Zero at the optimum: mu_k >= 0, limits_k >= C_k, and one of the two with equality.
        priced = _priced(mdp, costs, mu)
        slack = limits - _spent(priced, costs, warm)
        return jnp.where(slack < mu, slack, mu)

    def solve_linear(function, rest):
        return jnp.linalg.solve(jax.jacobian(function)(rest), rest)

    mu = lax.custom_root(condition, found, lambda _, guess: guess, solve_linear)
    mu = jnp.where(converged, mu, jnp.nan)
    return Lagrangian(_priced(mdp, costs, mu), mu, converged)


def _priced(mdp, costs, mu):
    return eqx.tree_at(lambda m: m.reward, mdp, mdp.reward - jnp.tensordot(mu, costs, 1))


def _spent(priced, costs, response):
    """C(pi*), differentiable in the priced MDP, given its response."""
    evaluation = evaluate(priced, differentiable_policy(priced, response))
    return jnp.stack([evaluation.expected_return(cost) for cost in costs])


@eqx.filter_jit  # so that calls outside compiled functions compile its loops only once
def _minimise(mdp, costs, limits, tol, max_steps):
    """mu >= 0 that minimises D, the response there, and whether it meets the tolerance."""
    scale = 1 + jnp.abs(limits)

    def dual(mu, warm):
        priced = _priced(mdp, costs, mu)
        response = lax.stop_gradient(respond(_ORACLE, priced, warm))
        return jnp.sum(mdp.initial * response.values) + mu @ limits, response

    def slope(mu, response):
        slack = lambda mu: limits - _spent(_priced(mdp, costs, mu), costs, response)
        return slack(mu), jax.jacfwd(slack)(mu)

    def residual(mu, gradient):
        return jnp.max(jnp.abs(jnp.minimum(mu, gradient)) / scale)

    def cond(carry):
        mu, _, _, gradient, _, k, stuck = carry
        return (residual(mu, gradient) > tol) & (k < max_steps) & ~stuck

    def body(carry):
        mu, value, response, gradient, hessian, k, _ = carry
        free = (mu > 0) | (gradient < 0)
        ridge = _RIDGE * (1 + jnp.trace(hessian)) * jnp.eye(mu.size)  # bends the step, no more
        matrix = jnp.where(free[:, None] & free, hessian + ridge, jnp.eye(mu.size))
        step = jnp.linalg.solve(matrix, jnp.where(free, -gradient, 0))

        def along(size):
            new = jnp.maximum(mu + size * step, 0)
            return new, *dual(new, response)

        def too_high(search):
            _, (new, at_new, _), j = search
            enough = value + _ARMIJO * gradient @ (new - mu)
            return ~(at_new <= enough + _NOISE * (1 + jnp.abs(value))) & (j < _HALVINGS)

        def halve(search):
            size, _, j = search
            return size / 2, along(size / 2), j + 1

        one = jnp.ones_like(value)
        _, (new, at_new, answer), j = lax.while_loop(too_high, halve, (one, along(one), 0))
        gradient, hessian = slope(new, answer)
        return new, at_new, answer, gradient, hessian, k + 1, j == _HALVINGS

    mu = jnp.zeros_like(limits)
    value, response = dual(mu, cold_start(_ORACLE, mdp))
    start = (mu, value, response, *slope(mu, response), jnp.asarray(0), jnp.asarray(False))
    mu, _, response, gradient, *_ = lax.while_loop(cond, body, start)
    return mu, response, residual(mu, gradient) <= tol


def _check(mdp, costs, limits):
    if isinstance(mdp.regularizer, Unregularized):
        raise ValueError(
            "lagrangian: tau is 0, where the constrained optimum mixes between policies that tie; "
            "give the MDP a positive tau."
        )
    if limits.ndim != 1 or costs.shape != (limits.size, *mdp.reward.shape):
        raise ValueError(
            f"lagrangian: costs has shape {costs.shape} and limits {limits.shape}; with rewards of "
            f"shape {mdp.reward.shape} and K limits they are {('K', *mdp.reward.shape)} and ('K',)."
        )
