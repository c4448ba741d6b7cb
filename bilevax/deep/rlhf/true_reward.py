"""RL on the true reward: the ceiling that learning from preferences is measured against."""

import equinox as eqx
import jax.numpy as jnp

from ..sampler import NoExtra, TrueRate
from .base import AbstractAlgorithm, Learner, first_state
from .setup import Setup


class TrueReward(AbstractAlgorithm):
    """The same policy, learner and environment steps, on the environment's own reward."""

    setup: Setup

    @property
    def samplers(self):
        return self.setup.sampler, None

    @property
    def asks(self):
        return False

    def init(self, key):
        return first_state(self.setup, key, self.setup.sampler, None, jnp.nan)

    def fit(self, state, key, steps):
        raise NotImplementedError("TrueReward has no reward model to fit.")

    def improve(self, state, key):
        setup = self.setup
        done = setup.sampler.improve(
            setup.learner,
            state.policy.agent,
            state.policy.actors,
            TrueRate(),
            NoExtra(),
            key,
            iterations=setup.iterations,
            window=setup.window,
        )
        policy = Learner(done.agent, done.actors, done.window)
        steps = state.steps + done.summary.steps
        return eqx.tree_at(lambda s: (s.policy, s.steps), state, (policy, steps)), done.summary
