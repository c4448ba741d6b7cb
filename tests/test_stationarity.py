"""Stationarity measures and sensitivities against their definitions."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import pytest
from games import random_game

import bilevax as bx

POINT = np.random.default_rng(5).normal(size=(3, 2))
X = jnp.asarray(POINT)


def best_value(game, x):
    """-V_leader at the follower's best response, in NumPy."""
    [table] = reference.tables(game.lower(jnp.asarray(x)))
    reward = np.asarray(game.upper_reward(jnp.asarray(x)))
    return -table.initial @ reference.values(table, reference.optimum(table)[1], reward)


@pytest.mark.slow
def test_the_hypergradient_norm_leaves_out_what_points_across_x():
    game = random_game(0, parameterization=bx.Simplex())
    at = lambda t: np.stack([0.5 + t, 0.5 - t], axis=-1)
    value = lambda t: np.atleast_1d(best_value(game, at(t)))
    along = reference.central_jacobian(value, np.zeros(3))
    found = bx.hypergradient_norm(game, jnp.asarray(at(np.zeros(3))), step_size=1e-3)
    np.testing.assert_allclose(found, np.linalg.norm(along) / 2**0.5, rtol=1e-7)


def penalised(game, x, policy, weight):
    """f + weight p by definition."""
    [table] = reference.tables(game.lower(jnp.asarray(x)))
    reward = np.asarray(game.upper_reward(jnp.asarray(x)))
    gap = table.initial @ (reference.optimum(table)[0] - reference.values(table, policy))
    return np.atleast_1d(weight * gap - table.initial @ reference.values(table, policy, reward))


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["KL", "Euclidean"])
def test_stationarity_is_the_norm_of_one_proximal_step(geometry):
    regularizer = bx.NegativeEntropy() if geometry == "KL" else bx.SquaredNorm()
    game, weight, alpha = random_game(0, regularizer=regularizer), 2.0, 0.1
    policy = np.random.default_rng(1).dirichlet(np.ones(2), 3)
    in_x = reference.central_jacobian(lambda x: penalised(game, x, policy, weight), POINT)[0]
    in_policy = reference.central_jacobian(lambda y: penalised(game, POINT, y, weight), policy)[0]
    step = alpha * in_policy.reshape(3, 2)
    if geometry == "KL":
        moved = policy * np.exp(-step)
        moved /= moved.sum(-1, keepdims=True)
    else:
        first = np.clip((1 + (policy - step) @ [1, -1]) / 2, 0, 1)
        moved = np.stack([first, 1 - first], axis=-1)
    found = bx.stationarity(game, X, jnp.asarray(policy), penalty_weight=weight, step_size=alpha)
    np.testing.assert_allclose(found.in_x, np.linalg.norm(in_x), rtol=1e-7)
    np.testing.assert_allclose(found.in_policy, np.linalg.norm(policy - moved) / alpha, rtol=1e-7)
    np.testing.assert_allclose(found.norm**2, found.in_x**2 + found.in_policy**2)
    assert found.geometry == (geometry,)


def test_sensitivity_solves_the_lower_level_at_every_tau():
    factors = (0.5, 1.0, 3.0)
    found = bx.sensitivity(random_game(0, tau=0.3), X, tau_factors=factors)
    expected = [best_value(random_game(0, tau=0.3 * factor), X) for factor in factors]
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    with pytest.raises(ValueError, match="give positive factors"):
        bx.sensitivity(random_game(0), X, tau_factors=(1.0, 0.0))


EVEN = jnp.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(penalty_weight=-1.0), "stationarity: penalty_weight is -1.0; give a finite"),
        (dict(step_size=0.0), "stationarity: step_size is 0.0; give a positive"),
        (dict(policy=2 * EVEN), "stationarity: policy has entries .* rows that sum to 2.0"),
        (dict(policy=EVEN.T), r"stationarity: policy has shape \(2, 3\); the lower level's"),
        (dict(policy=(EVEN,)), "stationarity: policy has the structure"),
    ],
)
def test_what_stationarity_cannot_measure_is_refused(change, message):
    arguments: dict[str, Any] = dict(policy=EVEN, penalty_weight=1.0, step_size=0.1) | change
    with pytest.raises(ValueError, match=message):
        bx.stationarity(random_game(0), X, **arguments)


def test_a_step_of_no_length_has_no_norm():
    with pytest.raises(ValueError, match=r"hypergradient_norm: step_size is -1\.0"):
        bx.hypergradient_norm(random_game(0), X, step_size=-1.0)


def test_an_exact_estimator_serves_in_place_of_its_problem():
    measure = lambda problem: bx.stationarity(problem, X, EVEN, penalty_weight=2.0, step_size=0.1)
    assert measure(bx.Exact(random_game(0))).norm == measure(random_game(0)).norm


def test_samples_alone_give_no_stationarity():
    from bilevax.deep.sampled import Sampled

    with pytest.raises(ValueError, match="stationarity: Sampled estimates from samples; give"):
        bx.stationarity(Sampled(random_game(0)), X, EVEN, penalty_weight=2.0, step_size=0.1)
