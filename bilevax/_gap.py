"""The certificate: an upper bound on what the lower level's players could still gain.

If T U < U for the Bellman operator T (U is a *supersolution*) then V* <= U, because T is monotone.
The inequality is strict so that it also serves discount 1: summed over a policy that never ends, it
says that the policy's average reward is negative. Likewise L < T_pi L gives L <= V_pi. Both are
tested on the computed U and L themselves, with room for rounding, so the bounds hold however the
values, the direction w and the step c of U = V + c w were found.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._linear import policy_system
from ._mdp import MDP, action_values, per_context, regularization, soft_maximum
from ._oracle import PolicyIteration, Response, cold_start, respond
from ._penalty import is_mdp
from ._solution import readable
from ._transition import SuccessorList
from ._types import Array, Float, PyTree

_ENLARGEMENTS = 60


class Gap(eqx.Module):
    """A certified bound, summed over players and contexts.

    Attributes:
        absolute: sum of rho(s) (U(s) - L(s)), an upper bound on the duality gap; infinite where no
            bound was found, or where a policy is no probability vector over the available actions;
            NaN where a player faces no MDP, as after a step in x that made a probability negative.
        relative: ``absolute`` over ``sum rho |U|``.
        largest: the largest U(s) - L(s) over start states (rho > 0), contexts and players.

    From samples ``absolute`` is an interval, and what is not known is ``None``.
    """

    absolute: Any  # Scalar | Interval
    relative: Any  # Scalar | None
    largest: Any  # Scalar | None

    def __str__(self):
        return readable(self)


@eqx.filter_jit
def best_responses(
    mdps: PyTree[MDP], *, tol: float = 1e-12, max_steps: int = 500
) -> PyTree[Response]:
    """Each player's optimal policy and values, from a cold start, by Newton's method."""
    oracle = PolicyIteration(tol=tol, max_steps=max_steps)
    return jax.tree.map(
        lambda mdp: respond(oracle, mdp, cold_start(oracle, mdp)), mdps, is_leaf=is_mdp
    )


@eqx.filter_jit
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
    relative = jnp.where(scale < jnp.inf, absolute / jnp.where(scale > 0, scale, 1), jnp.inf)
    return Gap(absolute, relative, jnp.max(largest))


def _player_gap(mdp, policy, response):
    # A GPU multiplies float32 matrices in fewer bits unless asked, which no rounding bound covers.
    with jax.default_matmul_precision("highest"):
        upper = supersolution(mdp, response)
        lower = subsolution(mdp, policy)
    starts = mdp.initial > 0
    loss = jnp.where(_is_legal(mdp), jnp.where(starts, upper - lower, 0), jnp.nan)
    scale = jnp.sum(jnp.where(starts, mdp.initial * jnp.abs(upper), 0))
    return jnp.sum(jnp.where(starts, mdp.initial * loss, 0)), scale, jnp.max(loss)


def _is_legal(mdp):
    """Whether the numbers are those of an MDP: what its constructor cannot check under ``jit``."""
    discount = jnp.all((mdp.discount >= 0) & (mdp.discount <= 1))
    finite = jnp.all(jnp.isfinite(mdp.reward)) & jnp.all((mdp.tau >= 0) & jnp.isfinite(mdp.tau))
    return (
        mdp.transition.substochastic()
        & discount
        & finite
        & jnp.all((mdp.initial >= 0) & jnp.isfinite(mdp.initial))
    )


@per_context
def supersolution(mdp: MDP, response: Response) -> Float[Array, " S"]:
    """U >= V*, verified: T U < U in every state; infinite where none was found.

    U = V + c w with (I - discount P_pi) w = 1 for the response's policy: w is the expected
    remaining discounted time, which serves discount 1 as well, and is smaller than 1/(1-discount)
    where episodes end. c is raised until the inequality holds.
    """

    def excess(u):
        q = action_values(mdp, u)
        scale = jnp.maximum(jnp.max(jnp.abs(q)), jnp.max(jnp.abs(u))) + mdp.tau
        return jnp.max(soft_maximum(mdp, q) - u) + _rounding(mdp, scale)

    system = policy_system(mdp.transition.under(response.policy), mdp.discount)
    return _verified(mdp, response.values, system, excess, 1.0)


@per_context
def subsolution(mdp: MDP, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """L <= V_pi, verified: L < T_pi L in every state; minus infinity where none was found.

    L = V - c w, as in ``supersolution``. The policy is normalised first; one that is no probability
    vector, or that plays an action which is not available, gets minus infinity.
    """
    total = jnp.sum(policy, axis=-1, keepdims=True)
    slack = jnp.sqrt(jnp.finfo(policy.dtype).eps)
    legal = jnp.all(policy >= 0) & jnp.all(jnp.abs(total - 1) <= slack)
    if mdp.available is not None:
        legal &= jnp.all(mdp.available | (policy == 0))
    policy = policy / total
    reward = jnp.sum(policy * mdp.reward, axis=-1)
    cost = regularization(mdp, policy)
    kernel = mdp.transition.under(policy)
    system = policy_system(kernel, mdp.discount)
    v = system.solve(reward - cost)
    fixed = jnp.max(jnp.sum(policy * jnp.abs(mdp.reward), axis=-1) + jnp.abs(cost)) + mdp.tau

    def excess(lower):
        backup = reward - cost + mdp.discount * kernel.apply(lower)
        return jnp.max(lower - backup) + _rounding(mdp, fixed + jnp.max(jnp.abs(lower)))

    return jnp.where(legal, _verified(mdp, v, system, excess, -1.0), -jnp.inf)


def _verified(mdp, v, system, excess, sign):
    """The best of v + sign c w with excess <= 0, over two directions w; sign * infinity if none.

    With discount < 1, w = 1/(1-discount) always serves; the time until the end under the policy is
    the smaller direction, and serves where the policy is close to the one that matters.
    """
    endless = jnp.where(mdp.discount < 1, 1 / (1 - mdp.discount), jnp.nan)
    directions = jnp.stack([system.solve(jnp.ones_like(v)), jnp.full_like(v, endless)])

    def along(w):
        at = lambda c: jnp.where(c > 0, v + sign * c * w, v)  # w may be NaN at discount 1

        def enlarge(carry):
            c, verdict, k = carry
            # v itself first. Then the least step that can do, (I - discount P) w being 1, and 1%
            # for what rounding it adds; then twice as much, and so on.
            least = 1.01 * jnp.maximum(verdict, 0)
            c = jnp.where(k == 0, 0, jnp.where(k == 1, least, 2 * c))
            # The verdict travels with c: computed a second time it may round to the other side.
            return c, excess(at(c)), k + 1

        failing = lambda carry: ~(carry[1] <= 0) & (carry[2] < _ENLARGEMENTS + 2)
        zero = jnp.zeros((), v.dtype)
        c, verdict, _ = lax.while_loop(failing, enlarge, (zero, zero + jnp.inf, 0))
        return jnp.where(verdict <= 0, at(c), sign * jnp.inf)

    bounds = lax.map(along, directions)
    return jnp.min(bounds, axis=0) if sign > 0 else jnp.max(bounds, axis=0)


def _rounding(mdp, scale):
    """A bound on the rounding of one backup of terms of this size.

    A sum of n terms is off by about sqrt(n) units, eps/2 each (Higham and Mary 2019, whose bound is
    probabilistic; the worst case, n, does not occur in sums taken in blocks). The rest of a backup
    takes a few more. Measured errors are below a tenth of this.
    """
    states, actions = mdp.reward.shape
    sparse = isinstance(mdp.transition, SuccessorList)
    successors = mdp.transition.probability.shape[-1] * actions if sparse else states
    return (0.5 * (successors + actions) ** 0.5 + 4) * jnp.finfo(mdp.reward.dtype).eps * scale
