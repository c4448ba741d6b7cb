"""Segments of trajectories, and where they may be cut from a rollout.

A rollout is a set of arrays with time first, ``[T, N]``: step t of environment n. A segment is
``length`` consecutive steps of one environment that belong to one episode.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Bool, Float, Int, Key, Shaped


class Segments(eqx.Module):
    """P segments of L steps each.

    Attributes:
        observation: what the policy saw before each step, in the environment's own dtype.
        action: the action taken, from 0.
        log_prob: log pi(a|s) under the policy that drew the segment.
        reward: the true reward of each step, for scripted teachers and reports only: nothing that
            learns a reward may read it.
    """

    observation: Shaped[Array, "P L *obs"]
    action: Int[Array, "P L"]
    log_prob: Float[Array, "P L"]
    reward: Float[Array, "P L"]

    @property
    def count(self) -> int:
        """P, the number of segments."""
        return self.action.shape[0]

    @property
    def length(self) -> int:
        """L, the steps of each segment."""
        return self.action.shape[1]

    def take(self, index: Int[Array, "*K"] | slice) -> "Segments":
        """The segments at these positions of the leading axis, as ``Segments``."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def valid_starts(
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    fake: Bool[Array, "T N"],
    length: int,
) -> Bool[Array, "S N"]:
    """Where a segment of ``length`` steps may start, shape ``[T - length + 1, N]``.

    Steps t, ..., t + length - 1 must hold no fake step (one that only resets the environment), and
    no episode may end at any of them but the last.
    """
    steps = terminated.shape[0]
    if not 1 <= length <= steps:
        raise ValueError(
            f"valid_starts: length is {length} for a rollout of {steps} steps; give at least 1 and "
            "at most the rollout's length, or roll out longer."
        )
    # Running counts turn "none within a window" into one difference per start.
    ended = _before(terminated | truncated)
    faked = _before(fake)
    starts = steps - length + 1
    crosses = ended[length - 1 : length - 1 + starts] > ended[:starts]
    reset = faked[length:] > faked[:starts]
    return ~crosses & ~reset


def draw_segments(
    key: Key,
    observation: Shaped[Array, "T N *obs"],
    action: Int[Array, "T N"],
    log_prob: Float[Array, "T N"],
    reward: Float[Array, "T N"],
    valid: Bool[Array, "S N"],
    length: int,
    count: int,
) -> tuple[Segments, Bool[Array, ""]]:
    """``count`` segments whose starts are drawn uniformly from ``valid``, and whether it held them.

    Starts are drawn without replacement; two segments may still share steps. With fewer valid
    starts than asked each is used about equally often and ``enough`` is false; with none at all
    the segments are meaningless.
    """
    starts, envs = valid.shape
    if starts != action.shape[0] - length + 1:
        raise ValueError(
            f"draw_segments: valid has {starts} starts for segments of {length} steps from a "
            f"rollout of {action.shape[0]}; take it from valid_starts with the same length."
        )
    flat = valid.reshape(-1)
    # A random order with the valid starts in front: its head is a draw without replacement.
    order = jnp.argsort(jnp.where(flat, jax.random.uniform(key, flat.shape), 2.0))
    total = jnp.sum(flat)
    chosen = order[jnp.arange(count) % jnp.clip(total, 1, flat.size)]
    time = (chosen // envs)[:, None] + jnp.arange(length)
    env = (chosen % envs)[:, None]
    rollout = (observation, action, log_prob, reward)
    return Segments(*(leaf[time, env] for leaf in rollout)), total >= count


def _before(event):
    """The number of events strictly before each step, ``[T + 1, N]``."""
    counts = jnp.cumsum(event.astype(jnp.int32), axis=0)
    return jnp.concatenate([jnp.zeros_like(counts[:1]), counts])
