"""The loss of Bradley and Terry (1952) and the accuracy of predicted preferences."""

import jax
import jax.numpy as jnp

from .._types import Array, Float
from .teacher import Answers


def bradley_terry_loss(
    first_sum: Float[Array, "*M Q"], second_sum: Float[Array, "*M Q"], answers: Answers
) -> Float[Array, "*M"]:
    """The weighted mean of ``-p log sigmoid(z) - (1 - p) log sigmoid(-z)``, z = second - first.

    p is the probability that the answer gives to the second segment; 0 if every weight is 0.
    """
    margin = second_sum - first_sum
    return _weighted_mean(jax.nn.softplus(margin) - answers.second * margin, answers.weight)


def accuracy(
    first_sum: Float[Array, "*M Q"], second_sum: Float[Array, "*M Q"], answers: Answers
) -> Float[Array, "*M"]:
    """The weighted share of pairs that are ordered as answered; NaN if none is.

    Pairs answered "equal" say nothing about an order and do not count; equal sums count half.
    """
    right = 0.5 + 0.5 * jnp.sign(second_sum - first_sum) * jnp.sign(answers.second - 0.5)
    weight = answers.weight * (answers.second != 0.5)
    return jnp.sum(weight * right, axis=-1) / jnp.sum(weight, axis=-1)


def _weighted_mean(value, weight):
    total = jnp.sum(weight, axis=-1)
    return jnp.sum(weight * value, axis=-1) / jnp.where(total > 0, total, 1)
