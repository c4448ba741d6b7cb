"""DRLHF: deep RL from human feedback by alternation (Christiano et al. 2017)."""

import jax.numpy as jnp

from .base import AbstractAlgorithm, PredictedRate, first_state, fitted, one_policy_round
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
        return fitted(self.setup, state, key, steps)

    def improve(self, state, key):
        rate = PredictedRate(state.reward.model, state.normalizer)
        return one_policy_round(self.setup, state, rate, key)
