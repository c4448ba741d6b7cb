"""Policies that next to no answer speaks for start again."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._types import Array, Bool, Int, Key
from ..buffer import PreferenceBuffer
from .base import AbstractAlgorithm, Learner, RLHFState, first_agent


@eqx.filter_jit
def unguided(buffer: PreferenceBuffer, before: Int[Array, ""], share: float) -> Bool[Array, ""]:
    """Whether this round's answers are all "equal", as are nearly all in the buffer.

    This round's are those that came after the first ``before``; there has to be one. Of all answers
    less than ``share``, but at least one, prefer a segment.

    Where reward is rare, the first answer that prefers a segment also speaks for whatever else
    that segment showed. A policy that learns to do that walks segments which are all alike, and
    says no more about what was wrong: pairs are drawn from the policy itself. Such a round has
    taught nothing, and the policy has nothing to lose by starting again. One that does well walks
    equal segments too, but many answers have preferred a segment by then. While none has,
    ``PatternReward`` is 0 and the policy the random one that it would start from.
    """
    answers = buffer.pairs.answers
    known = buffer.filled & (answers.weight > 0)
    preferring = known & (answers.second != 0.5)
    this_round = buffer.serial >= before
    ever = jnp.sum(preferring)
    rare = (ever > 0) & (ever < share * jnp.sum(known))
    return rare & jnp.any(known & this_round) & ~jnp.any(preferring & this_round)


def started_again(algorithm: AbstractAlgorithm, state: RLHFState, key: Key) -> RLHFState:
    """The state with random networks for its policies, where they stand; labels are kept.

    The round's pairs are another policy's now, and no longer count as drawn from this one. Rewards
    keep the unit and the zero of the old policy's steps until the next fit.
    """

    def again(learner: Learner, sampler, key: Key) -> Learner:
        agent = first_agent(algorithm.setup, sampler.spec, sampler.count, key)
        return eqx.tree_at(lambda one: one.agent, learner, agent)

    acting, tracking = algorithm.samplers
    first, second = jax.random.split(key)
    policy, tracker = again(state.policy, acting, first), state.tracker
    if tracker is not None:
        tracker = again(tracker, tracking, second)
    state = eqx.tree_at(
        lambda s: (s.policy, s.tracker), state, (policy, tracker), is_leaf=lambda x: x is None
    )
    return eqx.tree_at(lambda s: s.fresh.answers.weight, state, replace_fn=jnp.zeros_like)
