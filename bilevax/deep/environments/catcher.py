"""A pixel world of a few cells: a ball falls, a paddle is to be under it."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..environment import AbstractEnvironment, Spec, Step


class Catcher(AbstractEnvironment):
    """A ball falls from the top of a ``size x size`` grid; catching it earns 1, missing it -1.

    Actions: left, stay, right. The episode terminates when the ball reaches the bottom row
    (bsuite's "catch", Osband et al. 2020). Observations are ``[size, size, 2]`` of bool: the ball,
    the paddle.
    """

    size: int = eqx.field(static=True, default=6)

    @property
    def spec(self):
        return Spec("catcher", (self.size, self.size, 2), jnp.bool_, 3)

    def reset(self, key):
        column = jax.random.randint(key, (), 0, self.size, jnp.int32)
        state = (jnp.zeros((), jnp.int32), column, jnp.asarray(self.size // 2, jnp.int32))
        return state, self._show(*state)

    def step(self, key, state, action):
        row, column, paddle = state
        row, paddle = row + 1, jnp.clip(paddle + action.astype(jnp.int32) - 1, 0, self.size - 1)
        down = row >= self.size - 1
        reward = jnp.where(down, jnp.where(paddle == column, 1.0, -1.0), 0.0).astype(jnp.float32)
        state = (row, column, paddle)
        return Step(state, self._show(*state), reward, down, jnp.zeros((), bool))

    def _show(self, row, column, paddle):
        board = jnp.zeros((self.size, self.size, 2), bool)
        return board.at[row, column, 0].set(True).at[self.size - 1, paddle, 1].set(True)
