"""A small incentive game: x is added to player 1's reward, f is minus scale times a return."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevax as bx

STATES, ACTIONS = 2, (2, 3)


class Incentive(eqx.Module):
    """A zero-sum game of 2 states, 2 and 3 actions."""

    reward: jax.Array
    kernel: jax.Array
    wanted: jax.Array
    discount: jax.Array
    scale: jax.Array
    tau: jax.Array

    def lower(self, x):
        return bx.ZeroSumGame(self.reward + x, self.kernel, discount=self.discount, tau=self.tau)

    def upper(self, x, policy, evaluation):
        first, second = policy
        joint = first[:, :, None] * second[:, None, :]
        gain = jnp.sum(joint * (self.wanted - 0.1 * x), (1, 2))
        return -self.scale * jnp.sum(evaluation[0].occupancy * gain)

    def project(self, x):
        return x


def incentive(seed, *, discount=0.7, scale=1.0, tau=0.4):
    """A random incentive game; games of all seeds and numbers share compiled functions."""
    rng = np.random.default_rng(seed)
    reward, wanted = rng.random((2, STATES, *ACTIONS))
    kernel = rng.dirichlet(np.ones(STATES), (STATES, *ACTIONS))
    arrays = (reward, kernel, wanted, discount, scale, tau)
    return Incentive(*map(jnp.asarray, arrays))
