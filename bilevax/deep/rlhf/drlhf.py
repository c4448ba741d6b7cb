"""DRLHF: deep RL from human feedback by alternation (Christiano et al. 2017)."""

import equinox as eqx
import jax.numpy as jnp

from ..sampler import NoExtra
from .base import AbstractAlgorithm, Learner, PredictedRate, first_state, renewed_normalizer
from .setup import Setup


class DRLHF(AbstractAlgorithm):
    """Fits the reward model to the labels, improves the policy on it, and starts over.

    Neither step looks at the other: the fit ignores that the policy will move with the reward, the
    policy ignores that it draws the next queries.
    """

    setup: Setup

    @property
    def samplers(self):
        return self.setup.sampler, None

    @property
    def asks(self):
        return True

    def init(self, key):
        return first_state(self.setup, key, self.setup.sampler, None, jnp.nan)

    def fit(self, state, key, steps):
        reward, metrics = self.setup.reward_learner.fit(
            state.reward, state.buffer, key, steps=steps, batch=self.setup.batch
        )
        state = eqx.tree_at(lambda s: s.reward, state, reward)
        return eqx.tree_at(lambda s: s.normalizer, state, renewed_normalizer(state)), metrics

    def improve(self, state, key):
        setup = self.setup
        done = setup.sampler.improve(
            setup.learner,
            state.policy.agent,
            state.policy.actors,
            PredictedRate(state.reward.model, state.normalizer),
            NoExtra(),
            key,
            iterations=setup.iterations,
            window=setup.window,
        )
        policy = Learner(done.agent, done.actors, done.window)
        steps = state.steps + done.summary.steps
        return eqx.tree_at(lambda s: (s.policy, s.steps), state, (policy, steps)), done.summary
