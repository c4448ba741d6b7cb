"""Episodes with geometric stopping, many side by side, of any simulator."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..._types import Array, Bool, Float, Int, Key, Scalar
from ._simulator import AbstractDynamics


class Rollout(eqx.Module):
    """M streams of at most T steps, each of K episodes one after the other; shapes ``[T, M]``.

    Attributes:
        state, action, outcome, next_state: what was seen; ``outcome`` is ``[T, M, K]``.
        ended: whether the problem itself ended the episode here.
        over: whether the episode is over after this step: ended, or stopped by the discount.
        first: whether an episode begins here.
        active: whether the step was taken; all else is padding.
        policies: the G policies, ``[G, S, A]``; each played M/G streams next to each other.
        episodes: asked for in all, M K.
        cut: the share of the streams whose last episode was cut off at T.
    """

    state: Int[Array, "T M"]
    action: Int[Array, "T M"]
    outcome: Int[Array, "T M K"]
    next_state: Int[Array, "T M"]
    ended: Bool[Array, "T M"]
    over: Bool[Array, "T M"]
    first: Bool[Array, "T M"]
    active: Bool[Array, "T M"]
    policies: Float[Array, "G S A"]
    episodes: int = eqx.field(static=True)
    cut: Scalar

    @property
    def steps(self) -> Int[Array, ""]:
        """Environment steps taken."""
        return jnp.sum(self.active)


def buffer_length(discount: float, episodes: int, tolerance: float = 1e-6) -> int:
    """T such that a stream of so many episodes is longer with at most probability ``tolerance``.

    The length is at most a sum of geometric variables, which exceeds t where fewer than
    ``episodes`` of t coins stop: at most exp(-t kl(episodes/t, 1 - discount)) (Chernoff).
    """
    if not 0 <= discount < 1:
        raise ValueError(
            f"buffer_length: discount is {discount}; it must lie in [0, 1) (where discount is 1 "
            "only the problem ends an episode: give max_steps)."
        )
    if discount == 0:
        return episodes
    log = lambda z: float(jnp.log(z))
    stop, length = 1 - discount, episodes / (1 - discount)
    while True:
        share = episodes / length
        kl = share * log(share / stop) + (1 - share) * log((1 - share) / discount)
        if share < stop and length * kl >= -log(tolerance):
            return int(length) + 1
        length *= 1.05


def rollout(
    dynamics: AbstractDynamics,
    policies: Float[Array, "G S A"],
    key: Key,
    *,
    streams: int,
    episodes: int,
    max_steps: int,
) -> Rollout:
    """``streams * episodes`` episodes from rho, stopped geometrically; each policy plays its share.

    After every step an episode goes on with probability ``discount``, and a visit then counts one:
    E sum over the steps of g = E sum_t discount^t g_t, unbiased without any truncation in time. (A
    sum weighted by discount^t up to a horizon H misses discount^H of it, and spends most of its
    steps on small weights.) Only the buffer's end at ``max_steps`` can cut an episode: see
    ``buffer_length``; ``cut`` reports it.
    """
    cumulative = jnp.cumsum(policies, axis=-1)
    player = jnp.arange(streams) // (streams // policies.shape[0])

    def act(state, uniform):
        rows = cumulative[player, state]
        return jnp.sum(rows <= uniform[:, None] * rows[:, -1:], axis=-1)

    def cond(carry):
        t, _, left, _, _ = carry
        return (t < max_steps) & jnp.any(left > 0)

    def body(carry):
        t, state, left, first, record = carry
        own, for_step, for_reset = jax.random.split(jax.random.fold_in(for_steps, t), 3)
        for_action, for_stop = jax.random.uniform(own, (2, streams), policies.dtype)
        action = act(state, for_action)
        outcome, after, ended = dynamics.step(state, action, for_step)
        stopped = for_stop >= dynamics.discount
        over, active = ended | stopped, left > 0
        seen = (state, action, outcome, after, ended, over, first & active, active)
        record = jax.tree.map(
            lambda buffer, row: lax.dynamic_update_index_in_dim(buffer, row, t, 0), record, seen
        )
        state = jnp.where(over, dynamics.reset(for_reset, streams), after)
        return t + 1, state, left - over, over, record

    for_start, for_steps = jax.random.split(key)
    state = dynamics.reset(for_start, streams)
    begin = jnp.ones(streams, bool)
    outcome, *_ = jax.eval_shape(dynamics.step, state, state, key)
    row = jnp.zeros((max_steps, streams), state.dtype)
    flag = jnp.zeros((max_steps, streams), bool)
    chance = jnp.zeros((max_steps, *outcome.shape), outcome.dtype)
    record = (row, row, chance, row, flag, flag, flag, flag)
    carry = (jnp.asarray(0), state, jnp.full(streams, episodes), begin, record)
    _, _, left, _, record = lax.while_loop(cond, body, carry)
    cut = jnp.mean((left > 0).astype(policies.dtype))
    return Rollout(*record, policies, episodes=streams * episodes, cut=cut)
