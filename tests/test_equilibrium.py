"""Equilibria against linear programs, brute-force fixed points and each other."""

import jax.numpy as jnp
import numpy as np
import numpy_game
import pytest
from scipy.optimize import linprog

import bilevax as bx

S, A1, A2 = 3, 2, 3


def random_game(seed, tau, discount=0.9):
    rng = np.random.default_rng(seed)
    return bx.ZeroSumGame(
        rng.normal(size=(S, A1, A2)),
        rng.dirichlet(np.ones(S), (S, A1, A2)),
        discount=discount,
        tau=tau,
    )


def as_numpy(game):
    return numpy_game.Game(
        np.asarray(game.reward),
        np.asarray(game.transition.array).reshape(S, A1, A2, S),
        float(game.discount),
        np.asarray(game.initial),
        float(game.tau),
        (np.ones((S, A1), bool), np.ones((S, A2), bool)),
    )


def matrix_game(payoff, tau=0.0):
    return bx.ZeroSumGame(
        payoff[None], np.zeros((1, *payoff.shape, 1)), discount=0.0, tau=tau, initial=np.ones(1)
    )


def linear_program(payoff):
    """The value of a matrix game and a strategy of player 1 that guarantees it."""
    rows, columns = payoff.shape
    found = linprog(
        np.r_[np.zeros(rows), -1.0],
        A_ub=np.c_[-payoff.T, np.ones(columns)],
        b_ub=np.zeros(columns),
        A_eq=[np.r_[np.ones(rows), 0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    return -found.fun, found.x[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_newton_finds_the_fixed_point_that_another_library_finds(tau):
    game = random_game(0, tau)
    found = bx.solve_game(game, bx.ShapleyNewton())
    assert found.converged
    gap = bx.duality_gap(game.induced_mdps(found.policy), found.policy)
    assert 0 <= gap.absolute < 1e-9
    if tau >= 0.1:  # from a cold start MINPACK gets no further
        values, p, q = numpy_game.equilibrium(as_numpy(game))
        np.testing.assert_allclose(found.values, values, atol=1e-10)
        np.testing.assert_allclose(found.policy[0], p, atol=1e-9)
        np.testing.assert_allclose(found.policy[1], q, atol=1e-9)


def test_the_first_order_oracle_ends_at_newtons_equilibrium():
    game = random_game(1, 0.2, discount=0.8)
    exact = bx.solve_game(game, bx.ShapleyNewton())
    found = bx.solve_game(game, bx.Extragradient())
    assert found.converged
    np.testing.assert_allclose(found.values, exact.values, atol=1e-8)
    np.testing.assert_allclose(found.policy[1], exact.policy[1], atol=1e-4)


@pytest.mark.slow
def test_a_warm_start_changes_the_steps_and_not_the_answer():
    game = random_game(2, 0.01)
    cold = bx.solve_game(game, bx.ShapleyNewton())
    far = bx.solve_game(random_game(3, 0.01), bx.ShapleyNewton())
    for warm in (far, cold):
        again = bx.solve_game(game, bx.ShapleyNewton(), warm)
        assert again.converged
        np.testing.assert_allclose(again.values, cold.values, rtol=1e-12)
        np.testing.assert_allclose(again.policy[0], cold.policy[0], atol=1e-10)
    assert again.steps <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_without_regulariser_the_value_is_the_linear_programs(seed):
    rng = np.random.default_rng(seed)
    payoff = rng.normal(size=(3, 4))
    if seed == 0:  # rock, paper, scissors with a prize for rock
        payoff = np.array([[0.0, -1, 2, 0], [1, 0, -1, 0.5], [-2, 1, 0, 0]])
    if seed == 1:  # a saddle point in pure strategies, and ties
        payoff = np.array([[3.0, 1, 1, 4], [2, 0, 0, 2], [3, 1, 1, 4]])
    found = bx.unregularized_equilibrium(matrix_game(payoff))
    value, _ = linear_program(payoff)
    assert found.converged
    assert abs(found.values[0] - value) < 1e-6
    # What each policy guarantees by itself.
    p, q = (np.asarray(policy[0]) for policy in found.policy)
    assert min(p @ payoff) > value - 1e-5
    assert max(payoff @ q) < value + 1e-5


@pytest.mark.slow
def test_without_regulariser_a_markov_game_has_the_value_of_shapleys_iteration():
    game = random_game(4, 0.0, discount=0.5)
    reward, kernel = as_numpy(game).reward, as_numpy(game).kernel
    v = np.zeros(S)
    for _ in range(40):
        v = np.array([linear_program(m)[0] for m in reward + 0.5 * kernel @ v])
    found = bx.unregularized_equilibrium(game)
    np.testing.assert_allclose(found.values, v, atol=1e-6)
    gap = bx.duality_gap(game.induced_mdps(found.policy), found.policy)
    assert gap.absolute < 1e-4


def test_an_oracle_that_runs_out_of_steps_says_so():
    game = random_game(0, 0.1)
    for oracle in (bx.ShapleyNewton(max_steps=1), bx.Extragradient(max_steps=5)):
        assert not bx.solve_game(game, oracle).converged


def test_equilibria_want_entropy_and_a_positive_tau():
    with pytest.raises(ValueError, match="tau is 0, where policies need not be unique"):
        bx.solve_game(random_game(0, 0.0), bx.ShapleyNewton())
    rng = np.random.default_rng(0)
    game = bx.ZeroSumGame(
        rng.normal(size=(1, 2, 2)),
        jnp.zeros((1, 2, 2, 1)),
        discount=0.0,
        tau=0.1,
        regularizer=bx.SquaredNorm(),
    )
    with pytest.raises(ValueError, match="the regularizer is SquaredNorm"):
        bx.solve_game(game, bx.ShapleyNewton())
