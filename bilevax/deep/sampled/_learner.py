"""Action values from transitions: expected SARSA for a policy, soft Q-learning for the best one."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ..._types import Array, Float, Int
from ._estimates import Player
from ._rollout import Rollout
from ._simulator import AbstractDynamics


class Transitions(eqx.Module):
    """Recorded steps in one row, whatever policy took them; ``alive`` is 0 where the problem ended.

    What was padding has ``active`` 0.
    """

    state: Int[Array, " L"]
    action: Int[Array, " L"]
    reward: Float[Array, " L"]
    next_state: Int[Array, " L"]
    alive: Float[Array, " L"]
    active: Float[Array, " L"]


class Learned(eqx.Module):
    """A table of action values, and how many visits of each pair it remembers."""

    table: Float[Array, "S A"]
    visits: Float[Array, "S A"]


def transitions(dynamics: AbstractDynamics, rollout: Rollout, player: Player) -> Transitions:
    """The steps of a rollout, with the player's reward."""
    reward = player.reward(dynamics.replay(rollout.state, rollout.action, rollout.outcome))
    flat = (rollout.state, rollout.action, reward, rollout.next_state)
    flags = ((~rollout.ended).astype(reward.dtype), rollout.active.astype(reward.dtype))
    return Transitions(*(z.reshape(-1) for z in (*flat, *flags)))


def learn(
    learned: Learned,
    seen: Transitions,
    values: Callable[[Float[Array, "S A"]], Float[Array, " S"]],
    discount: Array,
    *,
    window: float,
    decay: float,
    sweeps: int,
) -> Learned:
    """The table after ``sweeps`` steps Q <- Q + rate (mean of r + discount V(s') - Q).

    The rate is (n/(n + N))^decay, with n how often a pair occurs in the batch and N how often
    before, counted up to ``window``: it falls at first, and then follows x. A decay of 1 averages
    most, but forgets the first values only as fast as values mix; see ``Sampled``. With V = <pi, Q>
    - tau h it is expected SARSA, with V = max over pi of that, soft Q-learning; neither asks which
    policy chose the actions.
    """
    table = learned.table
    at = seen.state, seen.action
    total = lambda z: jnp.zeros_like(table).at[at].add(seen.active * z)
    visits = total(jnp.ones_like(seen.reward))
    # A pair that was not seen keeps its value.
    count = jnp.maximum(visits, 1)
    rate = (visits / (count + learned.visits)) ** decay
    reward, weight = total(seen.reward), discount * seen.alive
    # Raising Q by a constant c lowers the errors by c times this.
    loss = 1 - total(weight) / count
    leak = jnp.sum(visits * loss)

    def sweep(_, table):
        target = (reward + total(weight * values(table)[seen.next_state])) / count
        error = target - table
        # The level of V is what discounted backups learn last: it is set by the mean error.
        level = jnp.sum(visits * error) / jnp.where(leak > 0, leak, 1)
        return table + level + rate * (error - level * loss)

    table = lax.fori_loop(0, sweeps, sweep, table)
    return Learned(table, jnp.minimum(learned.visits + visits, window))
