"""Reward networks: what they see."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from touching import drawn_reward, touching

from bilevax.deep.networks import im2col
from bilevax.deep.pattern_reward import PatternReward
from bilevax.deep.reward_network import ConvReward, MLPReward, StridedReward

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
ACTIONS, LENGTH = 2, 4


def test_patches_times_weights_are_a_convolution():
    chance = np.random.default_rng(0)
    image, weight = (jnp.asarray(chance.normal(size=s)) for s in ((2, 5, 4, 3), (27, 6)))
    kernel, axes = weight.reshape(3, 3, 3, 6), ("NHWC", "HWIO", "NHWC")
    convolved = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=axes)
    np.testing.assert_allclose(im2col(image) @ weight, convolved, atol=1e-12)


@functools.cache
def network(name):
    """A small one of each, for images [4, 3, 2]."""
    if name == "pattern":
        return drawn_reward()
    create = {"mlp": MLPReward, "conv": ConvReward, "strided": StridedReward}[name].create
    return jax.jit(lambda key: create(key, (4, 3, 2), ACTIONS, width=5))(KEY)


call = jax.jit(lambda member, observation, action: member(observation, action))


@pytest.mark.parametrize("name", ["mlp", "conv", "strided", "pattern"])
def test_a_network_takes_any_leading_axes_and_bits_bytes_or_numbers_alike(name):
    member, segments = network(name), touching(3, 5)
    bits, action = segments.observation, segments.action
    reward = call(member, bits, action)
    assert reward.shape == (5, LENGTH)
    np.testing.assert_array_equal(call(member, bits.astype(jnp.uint8), action), reward)
    np.testing.assert_allclose(call(member, 1.0 * bits, action), reward, rtol=1e-12)
    np.testing.assert_allclose(call(member, bits[1, 2], action[1, 2]), reward[1, 2], rtol=1e-12)
    assert not np.any(call(member, bits, 1 - action) == reward)
    total = jax.jit(lambda member: member.total(member.summary(bits, action)))(member)
    np.testing.assert_allclose(total, reward.sum(1), rtol=1e-9)


def test_the_convolutional_network_sees_patterns_anywhere_until_it_learns_positions():
    member = network("conv")
    corner = jnp.zeros((2, 4, 3, 2)).at[0, 1, 1, 0].set(1).at[1, 2, 1, 0].set(1)
    here, there = call(member, corner, jnp.zeros(2, int))
    np.testing.assert_allclose(here, there, rtol=1e-12)
    moved = eqx.tree_at(lambda m: m.position, member, jnp.ones_like(member.position))
    here, there = call(moved, corner, jnp.zeros(2, int))
    assert abs(here - there) > 1e-6


def test_images_are_asked_for_by_name():
    with pytest.raises(ValueError, match=r"shape \(3,\).*Use MLPReward"):
        ConvReward.create(KEY, (3,), ACTIONS)
    with pytest.raises(ValueError, match=r"shape \(2, 40, 1\).*width <= 31.*Use MLPReward"):
        PatternReward.create(KEY, (2, 40, 1), ACTIONS)
