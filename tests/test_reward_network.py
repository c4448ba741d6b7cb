"""Reward networks: what they see, and what a fit is told of patterns of bits."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from touching import touching

from bilevax.deep.networks import im2col
from bilevax.deep.pattern_reward import PatternReward, patterns
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
    """A small one of each, for images [4, 3, 2]; the pattern's weights start at 0 and are drawn."""
    if name == "pattern":
        member = PatternReward.create(KEY, (4, 3, 2), ACTIONS)
        weight = np.random.default_rng(0).normal(size=member.weight.shape)
        return eqx.tree_at(lambda m: m.weight, member, jnp.asarray(weight))
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


def test_patterns_are_counted_as_cell_by_cell():
    image = np.random.default_rng(0).random((2, 4, 3, 2)) < 0.5
    found = np.asarray(patterns(jnp.asarray(image)))
    expected = []
    for one in image:
        pairs = [
            sum(
                one[row, column, c] and one[row + down, column + right, d]
                for row in range(4 - down)
                for column in range(3)
                if 0 <= column + right < 3
            )
            for down, right in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1))
            for c in range(2)
            for d in range(2)
        ]
        expected.append([*pairs, *one.any(1).ravel(), *one.any(0).ravel(), 1])
    np.testing.assert_array_equal(found, expected)
    scaled = jnp.asarray(image * 3.0)
    np.testing.assert_array_equal(patterns(scaled[0]), found[0])


def test_other_units_leave_the_reward_as_it_is():
    member, first, second = network("pattern"), touching(4, 5), touching(5, 5)

    @jax.jit
    def change(member):
        summary = lambda part: member.summary(part.observation, part.action)
        return member.prepared(summary(second) - summary(first), jnp.zeros(5), jnp.ones(5))

    other = change(member)
    assert not np.allclose(other.weight, member.weight)
    one, two = (call(m, first.observation, first.action) for m in (member, other))
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_a_pair_that_alone_shows_a_pattern_is_the_most_novel():
    member, first = network("pattern"), touching(4, 50)
    blank = jnp.zeros_like(first.observation).at[..., 0, 0, 0].set(True)
    shown = blank.at[7, 2, 3, 2, 1].set(True)
    summary = lambda image: member.summary(image, first.action)
    common = shown.at[::2, :, 0, 1, 0].set(True)  # in half of them, and more of it
    assert jnp.argmax(member.novelty(summary(blank), summary(common))) == 7
    # A count's part is its squared difference over the mean of it: the mean over pairs is 1.
    one, two = summary(first.observation), summary(touching(5, 50).observation)
    varied = jnp.sum(jnp.any(one != two, axis=0))
    np.testing.assert_allclose(jnp.mean(member.novelty(one, two)), varied, rtol=1e-9)


def test_the_threshold_weighs_what_each_answer_adds_to_the_noise_of_a_slope():
    member, first, second = network("pattern"), touching(4, 5), touching(5, 5)
    residual = jnp.asarray([0.5, -0.2, 0.1, 0.0, -0.4])
    weight = jnp.asarray([1.0, 0.0, 0.3, 2.0, 1.5])
    summary = lambda part: member.summary(part.observation, part.action)
    changed = member.prepared(summary(second) - summary(first), residual, weight)
    # The weighted mean of independent slopes, each of standard deviation |residual|.
    expected = member.lasso * np.sqrt(0.5**2 + (0.3 * 0.1) ** 2 + (1.5 * 0.4) ** 2) / 4.8
    np.testing.assert_allclose(changed.threshold.value, expected, rtol=1e-6)
