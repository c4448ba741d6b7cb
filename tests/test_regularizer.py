"""Regularisers against a general optimiser, Danskin's theorem and differences; masks; limits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

import bilevax as bx

S, A = 3, 4
SEEDS = st.integers(0, 10_000)
REGULARIZERS: dict[str, Any] = {"entropy": bx.NegativeEntropy(), "norm": bx.SquaredNorm()}


@pytest.fixture(params=REGULARIZERS)
def regularizer(request):
    return REGULARIZERS[request.param]


def example(seed):
    draw = np.random.default_rng(seed)
    q = draw.normal(size=(S, A)) * draw.choice([0.3, 1.0, 5.0])
    available = draw.random((S, A)) < 0.7
    available[np.arange(S), draw.integers(A, size=S)] = True
    return jnp.asarray(q), jnp.asarray(available), jnp.asarray(draw.uniform(0.1, 2.0))


def definition(regularizer, p):
    p = np.asarray(p)
    if isinstance(regularizer, bx.NegativeEntropy):
        return np.sum(p * np.log(np.where(p > 0, p, 1)), -1)
    return 0.5 * np.sum(p**2, -1)


def projection(point):
    """The nearest point of the simplex, by bisection for the shift that makes it sum to one."""
    shift: Any = brentq(
        lambda t: np.maximum(point - t, 0).sum() - 1, point.min() - 1, point.max(), xtol=1e-15
    )
    return np.maximum(point - shift, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
@given(seed=SEEDS)
def test_the_conjugate_is_the_value_at_the_greedy_policy_and_no_policy_beats_it(name, seed):
    regularizer = REGULARIZERS[name]
    q, available, tau = example(seed)
    greedy = regularizer.greedy(q, tau, available)
    conjugate = np.asarray(regularizer.conjugate(q, tau, available))
    np.testing.assert_allclose(greedy.sum(-1), 1, rtol=1e-12)
    assert np.all(np.asarray(greedy)[~np.asarray(available)] == 0)
    at = np.sum(greedy * q, -1) - float(tau) * definition(regularizer, greedy)
    np.testing.assert_allclose(conjugate, at, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        regularizer.value(greedy), definition(regularizer, greedy), rtol=1e-12, atol=1e-14
    )
    draw = np.random.default_rng(seed)
    for _ in range(10):
        other = draw.exponential(size=(S, A)) ** 3 * np.asarray(available)
        other /= other.sum(-1, keepdims=True)
        mixed = 0.9 * np.asarray(greedy) + 0.1 * other
        for p in (other, mixed):
            value = np.sum(p * q, -1) - float(tau) * definition(regularizer, p)
            assert np.all(value <= conjugate + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
@given(seed=SEEDS)
def test_the_gradient_of_the_conjugate_is_the_greedy_policy(name, seed):
    regularizer = REGULARIZERS[name]
    q, available, tau = example(seed)
    total = lambda q, tau: jnp.sum(regularizer.conjugate(q, tau, available))
    in_q, in_tau = jax.grad(total, argnums=(0, 1))(q, tau)
    greedy = regularizer.greedy(q, tau, available)
    np.testing.assert_allclose(in_q, greedy, atol=1e-10)
    np.testing.assert_allclose(in_tau, -jnp.sum(regularizer.value(greedy)), rtol=1e-8)


def test_the_greedy_policy_is_that_of_a_general_optimiser(regularizer):
    q, _, tau = example(1)
    for s in range(S):
        found: Any = minimize(
            lambda p, s=s: float(tau) * definition(regularizer, p) - p @ np.asarray(q[s]),
            np.full(A, 1 / A),
            bounds=[(1e-12, 1)] * A,
            constraints=dict(type="eq", fun=lambda p: p.sum() - 1),
            method="SLSQP",
            options=dict(ftol=1e-14, maxiter=500),
        )
        np.testing.assert_allclose(regularizer.greedy(q, tau, None)[s], found.x, atol=1e-5)


@given(seed=SEEDS)
def test_sparsemax_is_the_nearest_point_of_the_simplex(seed):
    q, available, _ = example(seed)
    result = np.asarray(bx.sparsemax(q, available))
    for row, mask, point in zip(result, np.asarray(available), np.asarray(q), strict=True):
        np.testing.assert_allclose(row[mask], projection(point[mask]), atol=1e-10)
        assert np.all(row[~mask] == 0)
    np.testing.assert_allclose(bx.sparsemax(jnp.asarray(result)), result, atol=1e-12)


def test_the_derivative_of_sparsemax_matches_differences():
    q, _, _ = example(2)
    direction = jnp.asarray(np.random.default_rng(3).normal(size=(S, A)))
    _, slope = jax.jvp(bx.sparsemax, (q,), (direction,))
    h = 1e-6
    difference = (bx.sparsemax(q + h * direction) - bx.sparsemax(q - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, difference, atol=1e-8)


def test_the_derivative_of_the_value_matches_differences(regularizer):
    p = jnp.asarray(np.random.default_rng(4).dirichlet(np.ones(A), size=S))
    direction = jnp.asarray(np.random.default_rng(5).normal(size=(S, A)))
    _, slope = jax.jvp(regularizer.value, (p,), (direction,))
    h = 1e-6
    ahead, behind = regularizer.value(p + h * direction), regularizer.value(p - h * direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
@given(seed=SEEDS)
def test_a_mirror_step_minimises_its_proximal_objective(name, seed):
    # argmin_p <g, p> + D(p, pi): multiplicative for KL, a projection for the Euclidean distance.
    regularizer = REGULARIZERS[name]
    g, available, _ = example(seed)
    weights = np.random.default_rng(seed).exponential(size=(S, A)) * np.asarray(available)
    pi = jnp.asarray(weights / weights.sum(-1, keepdims=True))
    step = np.asarray(regularizer.mirror_step(pi, g, available))
    for s in range(S):
        mask = np.asarray(available[s])
        before, slope = np.asarray(pi)[s, mask], np.asarray(g)[s, mask]
        if name == "entropy":
            expected = before * np.exp(-slope)
            expected /= expected.sum()
        else:
            expected = projection(before - slope)
        np.testing.assert_allclose(step[s, mask], expected, atol=1e-10)
        assert np.all(step[s, ~mask] == 0)


def test_without_regulariser_the_first_of_the_best_actions_is_taken():
    q = jnp.asarray([[1.0, 3.0, 3.0], [5.0, 2.0, 1.0]])
    available = jnp.asarray([[True, True, True], [False, True, True]])
    mdp = bx.MDP(q, np.zeros((2, 3, 2)), discount=0.0, tau=0.0, available=available)
    np.testing.assert_array_equal(mdp.regularizer.greedy(q, mdp.tau, available), np.eye(3)[[1, 1]])
    np.testing.assert_array_equal(mdp.regularizer.conjugate(q, mdp.tau, available), [3, 2])
    np.testing.assert_array_equal(mdp.regularizer.value(mdp.uniform_policy()), 0)


def test_small_tau_tends_to_the_hard_maximum(regularizer):
    q, available, _ = example(6)
    hard = jnp.max(jnp.where(available, q, -jnp.inf), -1)
    soft = regularizer.conjugate(q, jnp.asarray(1e-9), available)
    np.testing.assert_allclose(soft, hard, atol=1e-8)


@pytest.mark.slow
def test_values_and_slopes_stay_finite_for_certain_policies_and_large_action_values(regularizer):
    certain = jnp.eye(A)[:S]
    assert jnp.all(jnp.isfinite(jax.grad(lambda p: jnp.sum(regularizer.value(p)))(certain)))
    for scale in (1e3, 1e12):
        q = scale * jnp.asarray([[1.0, -1.0, 0.5, 0.0]])
        for function in (regularizer.greedy, regularizer.conjugate):
            result, slope = jax.value_and_grad(lambda q, f=function: jnp.sum(f(q, 1e-3, None)))(q)
            assert jnp.isfinite(result) and jnp.all(jnp.isfinite(slope))
        np.testing.assert_array_equal(
            regularizer.greedy(q, jnp.asarray(1e-3), None), [[1, 0, 0, 0]]
        )


def test_a_shift_of_all_action_values_moves_the_conjugate_alone(regularizer):
    q, available, tau = example(7)
    np.testing.assert_allclose(
        regularizer.greedy(q + 100, tau, available),
        regularizer.greedy(q, tau, available),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        regularizer.conjugate(q + 100, tau, available),
        regularizer.conjugate(q, tau, available) + 100,
        rtol=1e-12,
    )
