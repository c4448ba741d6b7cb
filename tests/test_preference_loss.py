"""The loss of preferences, against its definition and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevax.deep.preference_loss import accuracy, bradley_terry_loss
from bilevax.deep.teacher import Answers

pytestmark = pytest.mark.slow


def example(seed=0):
    chance = np.random.default_rng(seed)
    first, second = chance.normal(size=(2, 6)) * 3
    return first, second, np.array([0, 1, 0.5, 1, 0.2, 0]), np.array([1, 1, 1, 0, 2, 1.0])


def test_the_loss_is_the_weighted_cross_entropy_of_its_definition():
    first, second, answer, weight = example()
    odds = 1 / (1 + np.exp(first - second))
    each = -answer * np.log(odds) - (1 - answer) * np.log(1 - odds)
    answers = Answers(jnp.asarray(answer), jnp.asarray(weight))
    loss = bradley_terry_loss(jnp.asarray(first), jnp.asarray(second), answers)
    np.testing.assert_allclose(loss, np.sum(weight * each) / np.sum(weight), rtol=1e-12)


def test_the_gradient_of_the_loss_matches_differences_and_skipped_pairs_have_none():
    first, second, answer, weight = map(jnp.asarray, example())
    loss = lambda first: bradley_terry_loss(first, second, Answers(answer, weight))
    slope = jax.grad(loss)(first)
    step = 1e-5 * jnp.eye(6)
    differences = [(loss(first + row) - loss(first - row)) / 2e-5 for row in step]
    np.testing.assert_allclose(slope, differences, atol=1e-9)
    assert slope[3] == 0


def test_certain_and_wrong_is_a_finite_loss_and_nothing_to_learn_from_is_zero():
    sums = jnp.asarray([1e4]), jnp.asarray([0.0])
    assert bradley_terry_loss(*sums, Answers(jnp.ones(1), jnp.ones(1))) == 1e4
    assert bradley_terry_loss(*sums, Answers(jnp.ones(1), jnp.zeros(1))) == 0


def test_accuracy_counts_decided_pairs_only():
    first, second = jnp.zeros(5), jnp.asarray([1.0, -1.0, 5.0, 5.0, 0.0])
    answers = Answers(jnp.asarray([1, 1, 0.5, 0, 1.0]), jnp.asarray([1, 1, 1, 0, 2.0]))
    # Right; wrong; equal and skipped do not count; undecided counts half, and double.
    assert accuracy(first, second, answers) == (1 + 0 + 2 * 0.5) / 4
    nothing = Answers(jnp.full(5, 0.5), jnp.ones(5))
    assert jnp.isnan(accuracy(first, second, nothing))
