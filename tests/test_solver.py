"""The solvers' steps: what they answer, where they rest, how their weights move."""

import jax.numpy as jnp
import numpy as np
from games import random_game

import bilevax as bx

START = jnp.zeros((3, 2))


def test_implicit_gradient_answers_the_best_response_at_its_last_x():
    game = random_game(0)
    solution = bx.solve(game, bx.ImplicitGradient(), START, max_steps=3)
    best = bx.best_responses(game.lower(solution.x)).policy
    np.testing.assert_allclose(solution.policy, best, atol=1e-13)
    assert solution.gap < 1e-10
