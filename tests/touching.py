"""Images of bits in which what touches is rewarded, and a reward of their patterns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bilevax.deep.pattern_reward import PatternReward
from bilevax.deep.segments import Segments


def touching(seed, count, shape=(4, 3, 2), length=4):
    """Segments of random bits, rewarded where channel 0 is set to the left of channel 1.

    There are two actions; under action 1 the reward counts double.
    """
    chance = np.random.default_rng(seed)
    image = chance.random((count, length, *shape)) < 0.3
    action = chance.integers(2, size=(count, length))
    reward = np.sum(image[..., :-1, 0] & image[..., 1:, 1], axis=(-2, -1)) * (1.0 + action)
    leaves = (image, action, np.zeros(action.shape), reward)
    return Segments(*(jnp.asarray(leaf) for leaf in leaves))


def drawn_reward(shape=(4, 3, 2)):
    """A pattern reward for such images, its weights drawn: they start at 0."""
    member = PatternReward.create(jax.random.key(0), shape, 2)
    weight = np.random.default_rng(0).normal(size=member.weight.shape)
    return eqx.tree_at(lambda m: m.weight, member, jnp.asarray(weight))
