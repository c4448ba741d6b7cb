"""Every path of a few steps through a small world, with its probability."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._transition import AbstractTransition

_MOST_SEGMENTS = 100_000


class Segments(NamedTuple):
    """Paths s_1 a_1 ... s_L a_L, and the product of their transitions' probabilities, [K]."""

    states: np.ndarray
    actions: np.ndarray
    chance: np.ndarray


def segments(transition: AbstractTransition, length: int) -> Segments:
    """All paths of ``length`` steps that can happen, from every state, under any actions.

    ``ValueError`` where there are more than 100,000.
    """
    size, choices = transition.shape
    after = jax.vmap(transition.expected_next)(jnp.eye(size))  # P(s'|s,a) at [s', s, a]
    kernel = np.moveaxis(np.asarray(after), 0, 2)
    states, actions = (axis.reshape(-1, 1) for axis in np.indices((size, choices)))
    chance = np.ones(len(states))
    for _ in range(length - 1):
        onward = kernel[states[:, -1], actions[:, -1]]
        path, state = np.nonzero(onward)
        if path.size * choices > _MOST_SEGMENTS:
            raise ValueError(
                f"Preferences: there are more than {_MOST_SEGMENTS} segments of {length} steps; "
                "shorten them, or take a smaller world."
            )
        chance = np.repeat(chance[path] * onward[path, state], choices)
        path, state = np.repeat(path, choices), np.repeat(state, choices)
        action = np.resize(np.arange(choices), path.size)
        states = np.column_stack([states[path], state])
        actions = np.column_stack([actions[path], action])
    return Segments(states, actions, chance)
