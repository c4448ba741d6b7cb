"""A dot on a grid that is to stay on the left: small enough to learn within a minute.

After the task on which Christiano et al. (2017, appendix B of the code released with it) tried
their method first: the picture alone says what to do, and one reward model fits on a page.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..environment import AbstractEnvironment, Spec, Step


class MovingDot(AbstractEnvironment):
    """A dot moves on a ``size x size`` grid; each step in the left half earns 1.

    Actions: stay, up, right, down, left. The dot starts anywhere. Episodes are cut after
    ``horizon`` steps, which the observation does not show (a truncation). Observations are
    ``[size, size, 1]`` of bool.
    """

    size: int = eqx.field(static=True, default=8)
    horizon: int = eqx.field(static=True, default=50)

    @property
    def spec(self):
        return Spec("moving-dot", (self.size, self.size, 1), jnp.bool_, 5)

    def reset(self, key):
        cell = jax.random.randint(key, (2,), 0, self.size)
        return (cell, jnp.zeros((), jnp.int32)), self._show(cell)

    def step(self, key, state, action):
        cell, time = state
        move = jnp.array([[0, 0], [-1, 0], [0, 1], [1, 0], [0, -1]])[action]
        cell = jnp.clip(cell + move, 0, self.size - 1)
        reward = (cell[1] < self.size // 2).astype(jnp.float32)
        over = time + 1 >= self.horizon
        return Step((cell, time + 1), self._show(cell), reward, jnp.zeros((), bool), over)

    def _show(self, cell):
        return jnp.zeros((self.size, self.size, 1), bool).at[cell[0], cell[1], 0].set(True)
