"""The scale of a learned reward, and correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevax.deep.reward_scale import RewardNormalizer, correlation

pytestmark = pytest.mark.slow


def test_the_normaliser_standardises_all_it_has_seen():
    chance = np.random.default_rng(0)
    batches = chance.normal(2, 3, size=(3, 4, 5))
    normaliser = RewardNormalizer.create(decay=1.0)
    np.testing.assert_array_equal(normaliser.apply(jnp.asarray(batches)), batches)
    for batch in batches:
        normaliser = normaliser.update(jnp.asarray(batch))
    standard = (batches - batches.mean()) / batches.std()
    np.testing.assert_allclose(normaliser.apply(jnp.asarray(batches)), standard, rtol=1e-12)


def test_the_normaliser_forgets_and_can_put_the_usual_step_at_zero():
    rare = jnp.asarray([0.4] * 9 + [1.4])
    normaliser = RewardNormalizer.create(decay=0.0, quantile=0.5)
    normaliser = normaliser.update(100 * rare).update(rare)
    # Nine of ten steps are 0; the variance is 0.1 * 0.9.
    np.testing.assert_allclose(normaliser.apply(rare), [0] * 9 + [1 / 0.3], atol=1e-12)
    # Where rare steps cost, what is done as a whole does not: the mean is 0.
    costly = normaliser.update(-rare).apply(-rare)
    np.testing.assert_allclose(jnp.mean(costly), 0, atol=1e-12)
    assert costly[0] > 0 > costly[-1]


def test_constant_predictions_become_zero_not_infinite():
    normaliser = RewardNormalizer.create().update(jnp.full(4, 7.0))
    np.testing.assert_array_equal(normaliser.apply(jnp.full(4, 7.0)), 0)


@pytest.mark.parametrize("quantile", [None, 0.5])
def test_what_is_not_real_counts_nothing(quantile):
    reward = jnp.asarray([[1.0, 99.0, 2.0], [4.0, -7.0, 99.0]])
    real = jnp.asarray([[True, False, True], [True, True, False]])
    before = RewardNormalizer.create(quantile=quantile).update(jnp.asarray([3.0, 5.0]))
    found, wanted = before.update(reward, real), before.update(reward[real])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    everything = before.update(reward, jnp.ones_like(real))
    np.testing.assert_allclose(everything.variance, before.update(reward).variance, rtol=1e-12)


@pytest.mark.parametrize(("name", "value"), [("decay", 1.5), ("quantile", -0.1)])
def test_a_normaliser_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        RewardNormalizer.create(**{name: value})


def test_correlation_is_pearsons_and_zero_where_one_side_is_constant():
    a, b = np.random.default_rng(0).normal(size=(2, 20))
    np.testing.assert_allclose(
        correlation(jnp.asarray(a), jnp.asarray(b)), np.corrcoef(a, b)[0, 1], rtol=1e-12
    )
    assert correlation(jnp.asarray(a), jnp.full(20, 3.0)) == 0
