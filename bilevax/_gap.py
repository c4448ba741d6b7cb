"""The certificate: an upper bound on what the lower level's players could still gain.

If T U <= U for the Bellman operator T (U is a *supersolution*) then V* <= U, because T is monotone.
U = V + c w is tested against that inequality itself, so the bound holds however V, c and w were
found. From below, V_pi is the solution of a linear system, bounded through its residual. Both tests
allow for rounding, so a gap is never understated by it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._mdp import MDP, Evaluation, action_values, evaluate, per_context, soft_maximum
from ._oracle import PolicyIteration, Response, cold_start, respond
from ._penalty import is_mdp
from ._types import Array, Float, PyTree, Scalar

_ENLARGEMENTS = 40


class Gap(eqx.Module):
    """A certified bound, summed over players and contexts.

    Attributes:
        absolute: sum of rho(s) (U(s) - V_pi(s)), an upper bound on the duality gap.
        relative: ``absolute`` over ``sum rho |U|``.
        largest: the largest U(s) - V_pi(s) over start states (rho > 0), contexts and players.
    """

    absolute: Scalar
    relative: Scalar
    largest: Scalar


def best_responses(
    mdps: PyTree[MDP], *, tol: float = 1e-12, max_steps: int = 500
) -> PyTree[Response]:
    """Each player's optimal policy and values, from a cold start, by Newton's method."""
    oracle = PolicyIteration(tol=tol, max_steps=max_steps)
    return jax.tree.map(
        lambda mdp: respond(oracle, mdp, cold_start(oracle, mdp)), mdps, is_leaf=is_mdp
    )


def duality_gap(
    mdps: PyTree[MDP], policy: PyTree, responses: PyTree[Response] | None = None
) -> Gap:
    """A certified upper bound on sum over players of (best-response value - current value).

    Arguments:
        mdps: the players' induced MDPs at ``policy`` (with one player, the lower level itself).
        policy: each player's policy.
        responses: candidates for the best responses; computed where not given. The bound holds
            whatever they are, and is the tighter the better they are.
    """
    responses = best_responses(mdps) if responses is None else responses
    bounds = []
    jax.tree.map(
        lambda *player: bounds.append(_player_gap(*player)), mdps, policy, responses, is_leaf=is_mdp
    )
    loss, scale, largest = (jnp.stack(column) for column in zip(*bounds, strict=True))
    absolute, scale = jnp.sum(loss), jnp.sum(scale)
    return Gap(absolute, absolute / jnp.where(scale > 0, scale, 1), jnp.max(largest))


def _player_gap(mdp, policy, response):
    upper = supersolution(mdp, response)
    lower = subsolution(mdp, evaluate(mdp, policy))
    loss = upper - lower
    weighted = jnp.sum(jnp.where(mdp.initial > 0, mdp.initial * loss, 0))
    scale = jnp.sum(jnp.where(mdp.initial > 0, mdp.initial * jnp.abs(upper), 0))
    return weighted, scale, jnp.max(jnp.where(mdp.initial > 0, loss, 0))


@per_context
def supersolution(mdp: MDP, response: Response) -> Float[Array, " S"]:
    """U >= V*, verified: T U <= U in every state up to rounding; infinite where none was found.

    U = V + c w with (I - discount P_pi) w = 1 for the response's policy: w is the expected remaining
    discounted time, which serves discount 1 as well, and is smaller than 1/(1-discount) where
    episodes end. c is raised until the inequality holds.
    """
    v = response.values
    w = evaluate(mdp, response.policy, None).system.solve(jnp.ones_like(v))

    def excess(u):
        q = action_values(mdp, u)
        rounding = 8 * jnp.finfo(v.dtype).eps * (jnp.max(jnp.abs(q)) + jnp.max(jnp.abs(u)))
        return jnp.max(soft_maximum(mdp, q) - u) + rounding

    def cond(carry):
        c, k = carry
        return ~(excess(v + c * w) <= 0) & (k < _ENLARGEMENTS)

    def body(carry):
        c, k = carry
        return 2 * c, k + 1

    residual = jnp.maximum(excess(v), 0)
    c, _ = lax.while_loop(cond, body, (residual, 0))
    u = v + c * w
    # With discount < 1, w = 1/(1-discount) always serves; the smaller of the two valid bounds counts.
    plain = v + jnp.where(mdp.discount < 1, residual / (1 - mdp.discount), jnp.inf)
    return jnp.where(excess(u) <= 0, jnp.minimum(u, plain), plain)


def subsolution(mdp: MDP, evaluation: Evaluation) -> Float[Array, "*N S"]:
    """L <= V_pi: the computed values less their residual's largest effect."""

    @per_context
    def one(mdp, policy, system, v):
        own = jnp.sum(policy * mdp.reward, -1) - mdp.tau * mdp.regularizer.value(policy)
        backup = own + mdp.discount * system.kernel.apply(v)
        rounding = 8 * jnp.finfo(v.dtype).eps * 2 * jnp.max(jnp.abs(v))
        shortfall = jnp.maximum(jnp.max(v - backup), 0) + rounding
        time = system.solve(jnp.ones_like(v))
        return v - shortfall * time

    return one(mdp, evaluation.policy, evaluation.system, evaluation.values())
