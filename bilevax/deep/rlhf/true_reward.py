"""RL on the true reward: the ceiling that learning from preferences is measured against."""

import jax.numpy as jnp

from ..sampler import TrueRate
from .base import AbstractAlgorithm, first_state, one_policy_round
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
        return one_policy_round(self.setup, state, TrueRate(), key)
