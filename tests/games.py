"""Small random problems. One size serves all tests, so that compiled functions are shared."""

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
