"""Constrained MDPs: an agent that may spend no more than a limit, by its Lagrangian."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._answer import differentiable_policy
from ._evaluation import evaluate
from ._mdp import MDP
from ._oracle import PolicyIteration, cold_start, respond
from ._regularizer import Unregularized
from ._types import Array, Bool, Float, concrete

_ORACLE = PolicyIteration()
_ARMIJO = 1e-4
_NOISE = 1e-10
"""Relative differences of D below this are the oracle's error; Newton's steps are whole there."""
_ROUNDING = 1e3
"""No tolerance is smaller than so many units of rounding."""
_MOST_DAMPED = 1e12


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
    max_steps: int = 300,
) -> Lagrangian:
    """The MDP whose best response solves ``max V(rho) s.t. C_k(rho) <= limits[k] for all k``.

    C_k(rho) = E sum_t discount^t c_k(s_t, a_t), summed over contexts. The dual function
    D(mu) = V*_{r - mu c}(rho) + <mu, limits> is convex, and smooth for tau > 0, with gradient
    limits - C(pi*_mu); its minimum over mu >= 0 is the constrained optimum (Altman 1999, chapter
    3). It is found by damped Newton steps with projection, and differentiable in the MDP, the costs
    and the limits by the implicit function theorem. So ``lower = lambda x: lagrangian(...).mdp`` is
    a lower level for every solver, with its penalty, gradient and certificate: weak duality bounds
    the loss of any policy y against the constrained optimum by gap(y) + <mu, limits - C(y)>. What
    changes tau afterwards (``Annealed``, ``sensitivity``) keeps these prices: the best responses at
    another tau do not keep the limits.

    Arguments:
        mdp: with tau > 0: at tau = 0 the optimum mixes between policies that tie.
        costs: c_k(s, a), of any sign, shape ``[K, S, A]`` (``[K, N, S, A]`` with contexts).
        limits: b_k, shape ``[K]``.
        tol: the largest of |min(mu_k, limits_k - C_k)| that counts as solved, relative to
            1 + |limits_k|; at least 1,000 units of rounding.
        max_steps: solutions of the MDP at most.

    Derivatives need the costs of limits that bind to be independent: two equal ones have no unique
    multipliers. ``ValueError`` where a shape is wrong or tau is 0, and, outside compiled functions,
    where the multipliers are not found.
    """
    costs, limits = jnp.asarray(costs, mdp.reward.dtype), jnp.asarray(limits, mdp.reward.dtype)
    _check(mdp, costs, limits)
    held = lax.stop_gradient((mdp, costs, limits))
    found, warm, converged = _minimise(*held, tol, max_steps)
    if concrete(found) and not bool(converged):
        raise ValueError(
            f"lagrangian: no multipliers were found for limits {limits.tolist()}: most likely no "
            f"policy keeps them all; if one does, raise tol from {tol} or tau."
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
    eps = jnp.finfo(limits.dtype).eps
    tol, noise = jnp.maximum(tol, _ROUNDING * eps), jnp.maximum(_NOISE, 16 * eps)
    # What prices are measured in: the spread of rewards over that of the costs.
    unit = (jnp.ptp(mdp.reward) + mdp.tau.max()) / (jnp.ptp(costs, axis=range(1, costs.ndim)) + eps)

    def look(mu, warm):
        priced = _priced(mdp, costs, mu)
        response = lax.stop_gradient(respond(_ORACLE, priced, warm))

        def slope(mu):
            slack = limits - _spent(_priced(mdp, costs, mu), costs, response)
            return slack, slack

        hessian, gradient = jax.jacfwd(slope, has_aux=True)(mu)
        value = jnp.sum(mdp.initial * response.values) + mu @ limits
        return mu, value, gradient, hessian, response

    def residual(mu, gradient):
        return jnp.max(jnp.abs(jnp.minimum(mu, gradient)) / (1 + jnp.abs(limits)))

    def direction(mu, gradient, hessian, damping):
        # D is flat where no price in sight changes the policy: there the damping decides.
        free = (mu > 0) | (gradient < 0)
        damped = hessian + jnp.diag(damping * jnp.abs(gradient) / unit + eps)
        matrix = jnp.where(free[:, None] & free, damped, jnp.eye(mu.size, dtype=mu.dtype))
        return jnp.linalg.solve(matrix, jnp.where(free, -gradient, 0))

    def cond(carry):
        (mu, _, gradient, *_), damping, k = carry
        return (residual(mu, gradient) > tol) & (damping < _MOST_DAMPED) & (k < max_steps)

    def body(carry):
        # One look a round, whether its step is taken or not; the first is at mu = 0.
        old, damping, k = carry
        mu, value, gradient, hessian, warm = old
        step = jnp.where(k == 0, 0, direction(mu, gradient, hessian, damping))
        new = look(jnp.maximum(mu + step, 0), warm)
        enough = value + _ARMIJO * gradient @ (new[0] - mu) + noise * (1 + jnp.abs(value))
        accepted = (k == 0) | (new[1] <= enough)
        kept = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
        return kept, damping * jnp.where(k == 0, 1, jnp.where(accepted, 0.1, 8)), k + 1

    zero, one = jnp.zeros_like(limits), jnp.ones((), limits.dtype)
    unknown = (zero, jnp.inf * one, zero - jnp.inf, jnp.eye(zero.size, dtype=zero.dtype))
    start = ((*unknown, cold_start(_ORACLE, mdp)), one, jnp.asarray(0))
    (mu, _, gradient, _, response), *_ = lax.while_loop(cond, body, start)
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
