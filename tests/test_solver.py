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


def test_quasi_newton_never_rises_and_ends_at_a_stationary_point():
    game, solver = random_game(0), bx.QuasiNewton()
    start = jnp.asarray(np.random.default_rng(3).normal(size=(3, 2)))
    values = [bx.solve(game, solver, start, max_steps=n).best_response_value for n in range(1, 12)]
    assert np.all(np.diff(values) <= 1e-14)
    assert values[-1] < values[0] - 1e-3
    solution = bx.solve(game, solver, start, max_steps=300, tol=1e-8)
    assert solution.result == bx.RESULTS.successful
    assert solution.stats["steps"] < 100
    assert solution.gap < 1e-10


def test_polish_ends_no_worse_and_at_the_optimum_nearby():
    game = random_game(0)
    rough = bx.solve(game, bx.ImplicitGradient(), START, max_steps=3)
    polished = bx.polish(game, rough)
    assert polished.best_response_value < rough.best_response_value
    assert polished.stats["gradient_norm"] <= 1e-8
    again = bx.polish(game, polished)
    assert again.best_response_value <= polished.best_response_value + 1e-15
