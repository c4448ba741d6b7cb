"""Monte-Carlo estimates of a return and of its gradients, with tables as control variates.

Let Q be *any* table, V(s) = <pi(.|s), Q(s,.)> - tau h(pi(.|s)), and along an episode that survives
each step with probability discount

    delta_t = r_t + discount V(s_{t+1}) - Q(s_t, a_t),        D_t = delta_t + delta_{t+1} + ...

(V is 0 where the problem ends). Then Q(s_t, a_t) + D_t is an unbiased estimate of Q^pi(s_t, a_t),
whatever the table, and V(s_0) + D_0 of V^pi(s_0): in expectation the sum telescopes, and what is
left of it, V - Q at the later states, is their regulariser. The better the table, the smaller D;
exact, it keeps only what chance adds in each step. A table must not have seen the episodes it
serves. At zero the estimates are the plain ones.

Episodes of several policies serve each of them. With w_k the probability of the actions up to a_k
under the policy asked for, over its mean for the policies that played (the balance heuristic of
Veach and Guibas 1995), D_t is the sum of w_k delta_k. These weights are at most the number of
policies. Of two policies that are epsilon apart they differ by about epsilon: so does the estimate
of a difference of two returns, noise and all, which a penalty multiplies by a weight of the order
1/epsilon.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..._types import Array, Float, PyTree, Scalar, ScalarLike
from ._rollout import Rollout
from ._simulator import AbstractDynamics, AbstractSimulator


class Player(eqx.Module):
    """Whose return is estimated: the follower's regularised one, or the leader's plain one."""

    upper: bool = eqx.field(static=True)

    def reward(self, replay):
        """This player's reward in a replay."""
        return replay.upper_reward if self.upper else replay.reward

    def cost(self, dynamics: AbstractDynamics, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
        """tau h(pi(.|s)), 0 for the leader."""
        if self.upper:
            return jnp.zeros(policy.shape[:-1], policy.dtype)
        return dynamics.tau * dynamics.regularizer.value(policy)


FOLLOWER, LEADER = Player(upper=False), Player(upper=True)


class Returns(eqx.Module):
    """The residual sums D of a rollout, ``[T, M]``, and what else its gradients are made of.

    Attributes:
        rollout, policy, table: as given.
        values: V of the table, ``[S]``.
        before, weight: w of the actions before a step, and with the step's own; 0 in padding.
        residual: D_t, 0 in padding.
        player: whose return.
    """

    rollout: Rollout
    policy: Float[Array, "S A"]
    table: Float[Array, "S A"]
    values: Float[Array, " S"]
    before: Float[Array, "T M"]
    weight: Float[Array, "T M"]
    residual: Float[Array, "T M"]
    player: Player


def returns(
    dynamics: AbstractDynamics,
    rollout: Rollout,
    player: Player,
    table: Float[Array, "S A"] | None = None,
    *,
    policy: int = 0,
    trace: ScalarLike = 1.0,
) -> Returns:
    """D_t = w_t delta_t + trace D_{t+1} within each episode, for one of the rollout's policies.

    With ``trace`` 1 every estimate is unbiased. Less, as in generalised advantage estimation
    (Schulman et al. 2016), leans on the table: lower variance, and a bias that vanishes as the
    table becomes exact.
    """
    pi = rollout.policies[policy]
    table = jnp.zeros_like(pi) if table is None else table
    values = jnp.sum(pi * table, axis=-1) - player.cost(dynamics, pi)
    before, weight = _weights(rollout, policy)
    replay = dynamics.replay(rollout.state, rollout.action, rollout.outcome)
    after = jnp.where(rollout.ended, 0, values[rollout.next_state])
    delta = player.reward(replay) + dynamics.discount * after - table[rollout.state, rollout.action]
    delta = jnp.where(rollout.active, weight * delta, 0)

    def back(later, step):
        delta, over = step
        now = delta + trace * jnp.where(over, 0, later)
        return now, now

    _, residual = lax.scan(back, jnp.zeros_like(delta[0]), (delta, rollout.over), reverse=True)
    return Returns(rollout, pi, table, values, before, weight, residual, player)


def _weights(rollout, policy):
    """w before each step's action and with it, ``[T, M]``."""
    count = rollout.policies.shape[0]
    if count == 1:
        weight = rollout.active.astype(rollout.policies.dtype)
        return weight, weight
    # [T, M, G]: an impossible action has logarithm minus infinity, which the sum keeps.
    chance = jnp.moveaxis(rollout.policies, 0, -1)[rollout.state, rollout.action]
    logs = jnp.log(jnp.where(rollout.active[..., None], chance, 1))

    def along(total, step):
        logs, first = step
        total = jnp.where(first[:, None], 0, total)
        return total + logs, (total, total + logs)

    _, sums = lax.scan(along, jnp.zeros_like(logs[0]), (logs, rollout.first))
    share = lambda total: count * jax.nn.softmax(total, axis=-1)[..., policy]
    return tuple(jnp.where(rollout.active, share(total), 0) for total in sums)


def value_samples(dynamics: AbstractDynamics, found: Returns) -> Float[Array, " M"]:
    """Independent estimates of V(rho), each from one stream of every policy that played."""
    rollout = found.rollout
    value = jnp.where(rollout.first, found.values[rollout.state] + found.residual, 0)
    streams, count = value.shape[-1], rollout.policies.shape[0]
    each = dynamics.mass * jnp.sum(value, axis=0) * streams / rollout.episodes
    return jnp.mean(each.reshape(count, -1), axis=0)


def policy_gradient(dynamics: AbstractDynamics, found: Returns) -> Float[Array, "S A"]:
    """The gradient of V(rho) in the policy's table: sum over visits of Q(s,.) - tau grad h(pi).

    Q(s,.) is the table, corrected by D / pi(a|s) at the action taken. Equal to d(s) (Q^pi(s,a) -
    tau h'(pi(a|s))) in expectation (spec (M8)).
    """
    rollout, policy = found.rollout, found.policy
    visits = jnp.zeros_like(policy[:, 0]).at[rollout.state].add(found.before)
    chosen = policy[rollout.state, rollout.action]
    # Where the other policy alone plays an action, w and D are 0.
    ratio = found.residual / jnp.where(rollout.active & (chosen > 0), chosen, 1)
    corrected = jnp.zeros_like(policy).at[rollout.state, rollout.action].add(ratio)
    slope = jax.grad(lambda p: jnp.sum(found.player.cost(dynamics, p)))(policy)
    total = visits[:, None] * (found.table - slope) + corrected
    return dynamics.mass * total / rollout.episodes


def gradient_in_x(simulator: AbstractSimulator, x: PyTree, found: Returns) -> PyTree:
    """The gradient of V(rho) in x at the policy held fixed: rewards pathwise, chance by its score.

    sum over visits of grad r_x + D_t grad log P(outcome), plus (V(s_0) + D_0) grad log rho(s_0)
    (spec (M7), (M8)). The baseline of an outcome is the table at the state and action before it,
    that of a start the mean of V over the starts of the table itself.
    """

    def surrogate(x):
        return return_surrogate(simulator.at(x), found)

    return jax.grad(surrogate)(x)


def return_surrogate(dynamics: AbstractDynamics, found: Returns) -> Scalar:
    """A function of x (through the dynamics) whose derivative is ``gradient_in_x``."""
    rollout = found.rollout
    replay = dynamics.replay(rollout.state, rollout.action, rollout.outcome)
    weight, residual = lax.stop_gradient((found.weight, found.residual))
    steps = weight * found.player.reward(replay) + residual * replay.chance
    mass = lax.stop_gradient(dynamics.mass)
    path = mass * jnp.sum(jnp.where(rollout.active, steps, 0)) / rollout.episodes
    # A constant that did not see these episodes: unbiased with the mass's own derivative added.
    baseline = lax.stop_gradient(jnp.mean(found.values))
    value = lax.stop_gradient(found.values[rollout.state] + found.residual) - baseline
    starts = mass * jnp.sum(jnp.where(rollout.first, value * replay.start, 0)) / rollout.episodes
    return path + starts + baseline * dynamics.mass
