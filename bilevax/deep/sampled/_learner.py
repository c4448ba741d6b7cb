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


def transitions(dynamics: AbstractDynamics, rollout: Rollout, player: Player) -> Transitions:
    """The steps of a rollout, with the player's reward."""
    reward = player.reward(dynamics.replay(rollout.state, rollout.action, rollout.outcome))
    flat = (rollout.state, rollout.action, reward, rollout.next_state)
    flags = ((~rollout.ended).astype(reward.dtype), rollout.active.astype(reward.dtype))
    return Transitions(*(z.reshape(-1) for z in (*flat, *flags)))


def learn(
    table: Float[Array, "S A"],
    seen: Transitions,
    values: Callable[[Float[Array, "S A"]], Float[Array, " S"]],
    discount: Array,
    *,
    window: float,
    sweeps: int,
) -> Float[Array, "S A"]:
    """The table after ``sweeps`` steps Q <- Q + n/(n + window) (mean of r + discount V(s') - Q).

    n is how often a pair occurs in the batch: ``window`` visits' worth of the past is kept. With V
    = <pi, Q> - tau h it is expected SARSA, with V = max over pi of that, soft Q-learning; neither
    asks which policy chose the actions.
    """
    at = seen.state, seen.action
    total = lambda z: jnp.zeros_like(table).at[at].add(seen.active * z)
    visits = total(jnp.ones_like(seen.reward))
    # A pair that was not seen keeps its value.
    rate = visits / (visits + window)
    count = jnp.maximum(visits, 1)
    reward, weight = total(seen.reward), discount * seen.alive

    def sweep(_, table):
        target = (reward + total(weight * values(table)[seen.next_state])) / count
        return table + rate * (target - table)

    return lax.fori_loop(0, sweeps, sweep, table)
