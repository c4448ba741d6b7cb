"""The penalty of PBRL for RLHF, estimated from two policies' steps, against NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bilevax.deep.reward_model import RewardModel
from bilevax.deep.reward_network import AbstractNetwork
from bilevax.deep.rlhf.pbrl import PolicyDifference

TRACKER = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0], [4.0, 3.0, 3.5]])  # environment, step
POLICY = np.array([[0.5, 1.0], [1.5, 0.0], [1.0, 1.0], [0.0, 2.0]])


class Multiple(AbstractNetwork):
    """The reward of a step is a multiple of what is observed."""

    factor: jax.Array

    def __call__(self, observation, action):
        return self.factor * observation


def penalty(tracker, policy, errors, weight=3.0, scale=0.5, factors=(1.0, 3.0)):
    """Under an ensemble whose mean reward is twice what is observed."""
    steps = lambda z: (jnp.asarray(z), jnp.zeros(z.shape, int))
    return PolicyDifference(
        steps(tracker),
        steps(policy),
        jnp.asarray(weight),
        jnp.ones(()),
        jnp.zeros(()),
        (tracker.shape[1], policy.shape[1]),
        errors,
    ).judged_by(RewardModel(Multiple(jnp.asarray(factors))), jnp.asarray(scale))


@pytest.mark.slow
@pytest.mark.parametrize("errors", [0.0, 1.5])
def test_it_is_the_gain_per_step_beyond_its_standard_errors(errors):
    ahead, own = TRACKER.mean(1), POLICY.mean(1)
    statistic, _ = scipy.stats.ttest_ind(ahead, own)  # Student's, with the variance pooled
    error = (ahead.mean() - own.mean()) / statistic
    # Half a standard error is what the square over the first one takes away.
    expected = 3.0 * 2.0 * (ahead.mean() - own.mean() - (errors + 0.5) * error) / 0.5
    found = penalty(TRACKER, POLICY, errors)(Multiple(jnp.asarray(2.0)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_a_gain_within_its_noise_or_a_loss_costs_nothing_and_moves_nothing():
    slope = eqx.filter_grad(lambda member, difference: difference(member))
    member = Multiple(jnp.asarray(2.0))
    for difference in (penalty(TRACKER, POLICY, 50.0), penalty(POLICY, TRACKER, 0.0)):
        assert difference(member) == 0
        assert slope(member, difference).factor == 0


@pytest.mark.parametrize("errors", [0.0, 1.5])
def test_its_slope_in_the_reward_is_the_difference_of_expectations(errors):
    slope = eqx.filter_grad(lambda member: penalty(TRACKER, POLICY, errors)(member))
    expected = 3.0 * (TRACKER.mean() - POLICY.mean()) / 0.5
    np.testing.assert_allclose(slope(Multiple(jnp.asarray(2.0))).factor, expected, rtol=1e-9)


@pytest.mark.slow
def test_the_margin_is_that_of_the_reward_that_judged_and_without_a_reward_nothing_counts():
    ahead, own = TRACKER.mean(1), POLICY.mean(1)
    statistic, _ = scipy.stats.ttest_ind(ahead, own)
    error = 2.0 * (ahead.mean() - own.mean()) / statistic
    member = Multiple(jnp.asarray(5.0))  # of another size than the ensemble's mean
    expected = 3.0 * (5.0 * (ahead.mean() - own.mean()) - (1.0 + 0.5) * error) / 0.5
    np.testing.assert_allclose(penalty(TRACKER, POLICY, 1.0)(member), expected, rtol=1e-9)
    assert penalty(TRACKER, POLICY, 0.0, factors=(0.0, 0.0))(member) == 0
