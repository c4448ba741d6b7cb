"""Anderson acceleration: exact on quadratics, never uphill, and a solver like any other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from games import random_game

import bilevax as bx

CURVATURES = np.array([1.0, 5.0, 20.0, 100.0])
OPTIMUM = np.array([1.0, -2.0, 0.5, 3.0])
DESCENT = bx.ImplicitGradient(optax.sgd(1 / 100))


def quadratic(project=lambda x: x):
    """F(x) = 1/2 (x - c)' H (x - c), whatever its idle agent does."""

    def upper(x, policy, evaluation):
        return 0.5 * jnp.sum(CURVATURES * (x - OPTIMUM) ** 2)

    idle = bx.MDP(np.zeros((1, 2)), np.ones((1, 2, 1)), discount=0.5, tau=1.0)
    return bx.BilevelProblem(upper, lambda x: idle, project)


def test_on_a_quadratic_it_ends_after_as_many_steps_as_there_are_variables():
    # The iterates are those of GMRES, mapped once more (Walker and Ni 2011, theorem 2.2).
    solution = bx.solve(quadratic(), bx.Anderson(DESCENT), jnp.zeros(4), max_steps=20, tol=1e-9)
    assert solution.stats["steps"] <= len(OPTIMUM) + 2
    np.testing.assert_allclose(solution.x, OPTIMUM, atol=1e-9)
    descent = bx.solve(quadratic(), DESCENT, jnp.zeros(4), max_steps=5000, tol=1e-9)
    assert descent.stats["steps"] > 1000


@pytest.mark.slow
def test_the_first_steps_are_those_of_the_mixing_formula():
    x, image = [np.zeros(4)], []
    for _ in range(3):
        image.append(x[-1] - CURVATURES * (x[-1] - OPTIMUM) / 100)
        residual = np.array(image) - np.array(x)
        before = np.diff(residual, axis=0).T
        shares = np.linalg.lstsq(before, residual[-1], rcond=None)[0] if len(image) > 1 else []
        x.append(image[-1] - np.diff(np.array(image), axis=0).T @ shares)
    for k in range(1, 4):
        solution = bx.solve(quadratic(), bx.Anderson(DESCENT), jnp.zeros(4), max_steps=k)
        np.testing.assert_allclose(solution.state.x, x[k], atol=1e-10)


@pytest.mark.slow
def test_the_objective_never_rises_however_long_the_steps():
    game = random_game(0, tau=0.05)
    start = jnp.asarray(np.random.default_rng(3).normal(size=(3, 2)))
    solver = bx.Anderson(bx.ImplicitGradient(optax.sgd(30.0)))
    values = [bx.solve(game, solver, start, max_steps=n).best_response_value for n in range(1, 25)]
    assert np.all(np.diff(values) <= 1e-14)
    assert values[-1] < values[0] - 1e-2


@pytest.mark.slow
def test_it_needs_a_fraction_of_the_steps_of_what_it_accelerates():
    game, start = random_game(0), jnp.zeros((3, 2))
    descent = bx.ImplicitGradient(optax.sgd(1.0))
    fast = bx.solve(game, bx.Anderson(descent), start, max_steps=2000, tol=1e-6)
    slow = bx.solve(game, descent, start, max_steps=2000, tol=1e-6)
    assert fast.result == bx.RESULTS.successful
    assert 5 * fast.stats["steps"] < slow.stats["steps"]
    assert fast.best_response_value <= slow.best_response_value + 1e-9
    assert fast.gap < 1e-10


@pytest.mark.slow
def test_pbrl_is_accelerated_too_and_answers_with_its_policy():
    game, start = random_game(0), jnp.zeros((3, 2))
    pbrl = bx.PBRL(penalty_weight=30.0, update=bx.Alternating(optax.sgd(1.0)))
    fast = bx.solve(game, bx.Anderson(pbrl), start, max_steps=300)
    slow = bx.solve(game, pbrl, start, max_steps=300)
    objective = lambda s: float(s.upper_value + 30 * s.stats["penalty"])
    assert objective(fast) <= objective(slow) + 1e-9
    assert fast.stats["gradient_norm"] < slow.stats["gradient_norm"] / 10
    assert fast.gap < 1e-3
    assert float(bx.duality_gap(game.lower(fast.x), fast.policy).absolute) < 1e-3


@pytest.mark.slow
def test_constraints_are_kept():
    inside = lambda x: jnp.clip(x, -1.0, 1.0)
    solution = bx.solve(quadratic(inside), bx.Anderson(DESCENT), jnp.zeros(4), max_steps=300)
    np.testing.assert_allclose(solution.x, np.clip(OPTIMUM, -1, 1), atol=1e-6)


@pytest.mark.slow
def test_it_continues_bit_for_bit_and_runs_side_by_side():
    game = random_game(0)
    solver = bx.Anderson(bx.ImplicitGradient(optax.sgd(3.0)), 3)
    starts = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 2)))
    one = lambda x: bx.solve(game, solver, x, max_steps=20)
    # A few steps: the shares magnify rounding where differences are nearly dependent.
    few = lambda x: bx.solve(game, solver, x, max_steps=6)
    together = jax.jit(jax.vmap(few))(starts)
    for i, start in enumerate(starts):
        np.testing.assert_allclose(together.x[i], few(start).x, rtol=1e-6, atol=1e-9)
    half = bx.solve(game, solver, starts[0], max_steps=9)
    joined = bx.solve(game, solver, starts[0], max_steps=20, state=half.state)
    arrays = lambda solution: jax.tree.leaves(eqx.filter(solution, eqx.is_inexact_array))
    for a, b in zip(arrays(one(starts[0])), arrays(joined), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_start_where_the_objective_is_not_finite_is_named():
    problem = bx.BilevelProblem(
        lambda x, policy, evaluation: jnp.log(x) + x**2, lambda x: quadratic().lower(x)
    )
    with pytest.raises(ValueError, match="upper"):
        bx.solve(problem, bx.Anderson(DESCENT), -1.0)
    # Steps beyond the wall at 0 are not taken: half of them is tried, and so on.
    solution = bx.solve(problem, bx.Anderson(bx.ImplicitGradient(optax.sgd(2.0))), 0.5, max_steps=9)
    assert solution.result == bx.RESULTS.successful and solution.x > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bx.Anderson(DESCENT, 0), "Anderson: memory_size is 0"),
        (lambda: bx.Anderson(bx.PBRL()), "Anderson: penalty_weight is Homotopy"),
    ],
)
def test_what_it_cannot_work_with_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
