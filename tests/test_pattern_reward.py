"""The reward of patterns of bits: what it counts, and what a fit is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from touching import drawn_reward, touching

from bilevax.deep.pattern_reward import patterns

pytestmark = pytest.mark.slow

call = jax.jit(lambda member, observation, action: member(observation, action))


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
    member, first, second = drawn_reward(), touching(4, 5), touching(5, 5)

    @jax.jit
    def change(member):
        summary = lambda part: member.summary(part.observation, part.action)
        return member.prepared(summary(second) - summary(first), jnp.zeros(5), jnp.ones(5))

    other = change(member)
    assert not np.allclose(other.weight, member.weight)
    one, two = (call(m, first.observation, first.action) for m in (member, other))
    np.testing.assert_allclose(one, two, rtol=1e-9)


@pytest.mark.parametrize("blank", [slice(0, 0), slice(0, 32), slice(20, 35), slice(0, 35)])
def test_a_summary_counts_each_pattern_under_each_action(blank):
    member, segments = drawn_reward(), touching(4, 35)
    image, action = segments.observation.at[blank].set(False), segments.action
    found = np.asarray(jax.jit(lambda *part: member.summary(*part))(image, action))
    expected = np.zeros(found.shape)
    for row, steps in enumerate(np.asarray(patterns(image))):
        for count, taken in zip(steps, np.asarray(action[row]), strict=True):
            expected[row, :, 0] += count
            expected[row, :, 1 + taken] += count
    np.testing.assert_array_equal(found, expected)


def test_a_pair_that_alone_shows_a_pattern_is_the_most_novel():
    member, first = drawn_reward(), touching(4, 50)
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
    member, first, second = drawn_reward(), touching(4, 5), touching(5, 5)
    residual = jnp.asarray([0.5, -0.2, 0.1, 0.0, -0.4])
    weight = jnp.asarray([1.0, 0.0, 0.3, 2.0, 1.5])
    summary = lambda part: member.summary(part.observation, part.action)
    changed = member.prepared(summary(second) - summary(first), residual, weight)
    # The weighted mean of independent slopes, each of standard deviation |residual|.
    expected = member.lasso * np.sqrt(0.5**2 + (0.3 * 0.1) ** 2 + (1.5 * 0.4) ** 2) / 4.8
    np.testing.assert_allclose(changed.threshold.value, expected, rtol=1e-6)
