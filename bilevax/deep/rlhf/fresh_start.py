"""A policy that no answer speaks for starts again."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._types import Array, Bool, Key
from ..teacher import Answers
from .base import AbstractAlgorithm, Learner, RLHFState, first_agent

RARE = 1 / 20
"""The share of answers below which a reward rests on luck."""


@eqx.filter_jit
def unguided(fresh: Answers, known: Answers) -> Bool[Array, ""]:
    """Whether all answers of a round, ``fresh``, are "equal", and nearly all ``known`` ones too.

    Where reward is rare, the first answer that prefers a segment also speaks for whatever else
    that segment showed. A policy that learns to do that walks segments which are all alike, and
    says no more about what was wrong: pairs are drawn from the policy itself. Such a round has
    taught nothing, and the policy has nothing to lose by starting again. One that does well walks
    equal segments too, but many answers have preferred a segment by then. While none ever has,
    the policy is still the random one that it would start from.
    """
    given, preferring = _counts(fresh)
    in_all, ever = _counts(known)
    return (given > 0) & (preferring == 0) & (ever > 0) & (ever < RARE * in_all)


def _counts(answers: Answers):
    """How many answers there are, and how many of them prefer a segment."""
    known = answers.weight > 0
    return jnp.sum(known), jnp.sum(known & (answers.second != 0.5))


def started_again(algorithm: AbstractAlgorithm, state: RLHFState, key: Key) -> RLHFState:
    """The state with random networks for its policies, where they stand; labels are kept."""

    def again(learner: Learner, sampler, key: Key) -> Learner:
        agent = first_agent(algorithm.setup, sampler.spec, sampler.count, key)
        return eqx.tree_at(lambda one: one.agent, learner, agent)

    acting, tracking = algorithm.samplers
    first, second = jax.random.split(key)
    policy, tracker = again(state.policy, acting, first), state.tracker
    if tracker is not None:
        tracker = again(tracker, tracking, second)
    return eqx.tree_at(
        lambda s: (s.policy, s.tracker), state, (policy, tracker), is_leaf=lambda x: x is None
    )
