"""Small problems. One size serves all tests, so that compiled functions are shared."""

import jax.numpy as jnp
import numpy as np

import bilevax as bx


def random_game(
    seed: int, tau: float = 0.3, dtype: type = np.float64, **options
) -> bx.StackelbergGame:
    """A Stackelberg game with 3 states and 2 actions each, discount .8."""
    rng = np.random.default_rng(seed)
    kernel = rng.dirichlet(np.ones(3), (3, 2, 2)).astype(dtype)
    leader, follower = rng.random((2, 3, 2, 2)).astype(dtype)
    options = {"discount": 0.8, "tau": tau} | options
    return bx.StackelbergGame.simultaneous(leader, follower, kernel, **options)


def one_state(upper, project=lambda x: x, tau=0.5):
    """A problem on one state with three actions, of which the last does not exist."""
    mdp = bx.MDP(
        jnp.array([[1.0, 0.5, 9.0]]),
        jnp.ones((1, 3, 1)),
        discount=0.5,
        available=[[True, True, False]],
        tau=tau,
    )
    return bx.BilevelProblem(upper, lambda x: mdp, project)
