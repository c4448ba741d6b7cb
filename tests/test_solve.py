"""``solve``: one loop that continues, compiles once, and says how it ended."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from games import one_state, random_game
from optax import projections

import bilevax as bx
from bilevax._solver.update import along_constraints

START = jnp.zeros((3, 2))
ADAM = optax.adam(0.05)
traces = []


def counted_update(updates, state, params=None):
    traces.append(1)
    return ADAM.update(updates, state, params)


OPTIMIZER = optax.GradientTransformation(ADAM.init, counted_update)
SOLVER = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 100), update=bx.SoftmaxLogits(OPTIMIZER))


@pytest.mark.slow
def test_two_halves_are_the_whole_bit_for_bit():
    game = random_game(0)
    whole = bx.solve(game, SOLVER, START, max_steps=100)
    half = bx.solve(game, SOLVER, START, max_steps=50)
    joined = bx.solve(game, SOLVER, START, max_steps=100, state=half.state)
    assert half.stats["steps"] == 50
    arrays = lambda solution: jax.tree.leaves(eqx.filter(solution, eqx.is_inexact_array))
    for a, b in zip(arrays(whole), arrays(joined), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_starts_side_by_side_give_what_a_loop_gives():
    game = random_game(0)
    starts = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 2)))
    one = lambda x: bx.solve(game, SOLVER, x, max_steps=30, gap_tol=1.0)
    together = jax.jit(jax.vmap(one))(starts)
    for i, start in enumerate(starts):
        alone = one(start)
        np.testing.assert_allclose(together.x[i], alone.x, rtol=1e-8)
        np.testing.assert_allclose(together.policy[i], alone.policy, rtol=1e-8)
        np.testing.assert_allclose(together.upper_value[i], alone.upper_value, rtol=1e-10)
        np.testing.assert_allclose(together.gap[i], alone.gap, rtol=1e-6)
    assert jnp.all(together.result == bx.RESULTS.successful)


def test_other_numbers_of_the_same_shape_are_not_traced_again():
    bx.solve(random_game(0), SOLVER, START, max_steps=3)
    before = len(traces)
    bx.solve(random_game(1), SOLVER, START + 1, max_steps=5, tol=1e-3, gap_tol=1e-2)
    assert len(traces) == before > 0


def test_each_outcome_is_named():
    game = random_game(0)
    solve = lambda **limits: bx.solve(game, SOLVER, START, **limits)
    assert solve(max_steps=100).result == bx.RESULTS.successful
    assert solve(max_steps=100, gap_tol=1e-13).result == bx.RESULTS.infeasible
    short = solve(max_steps=30, tol=1e-9, gap_tol=1.0)
    assert short.result == bx.RESULTS.max_steps_reached
    assert "raise max_steps" in bx.RESULTS[short.result]


def test_a_solution_prints_its_numbers():
    solution = bx.solve(random_game(0), SOLVER, START, max_steps=3, gap_tol=1e9)
    text = str(solution)
    assert f"  upper_value={float(solution.upper_value)},\n" in text
    assert "  x=f64[3,2],\n" in text and "'steps': 3" in text
    assert "result=successful" in text and "state" not in text
    known = bx.Interval(*map(jnp.asarray, (0.0, 2.0, 1.0, 0.9)))
    assert str(known) == (
        "Interval(\n  lower=0.0,\n  upper=2.0,\n  estimate=1.0,\n  confidence=0.9,\n)"
    )
    assert str(bx.Gap(known, None, None)).startswith("Gap(\n  absolute=Interval(lower=0.0,")
    traced = []
    jax.jit(lambda value: traced.append(str(bx.Range(value, value))) or value)(jnp.ones(()))
    assert "pessimistic=f64[]" in traced[0]


def test_it_stops_on_a_small_gradient_only_once_the_weight_has_settled():
    game = random_game(0)
    solution = bx.solve(game, SOLVER, START, max_steps=500, tol=1e3)
    assert solution.stats["steps"] == 100
    assert solution.result == bx.RESULTS.successful
    # Cut short it is not at rest, however small the gradient of a moving objective.
    short = bx.solve(game, SOLVER, START, max_steps=30, tol=1e3, gap_tol=10.0)
    assert short.result == bx.RESULTS.max_steps_reached


class Nearest(eqx.Module):
    """The point of a product of sets next to ``target``, whatever the follower does.

    The follower's first action pays what x["box"] says. f has a pole beyond a ``pole`` of that.
    """

    target: dict
    pole: jax.Array

    def upper(self, x, policy, evaluation):
        distance = sum(jnp.sum((x[k] - self.target[k]) ** 2) for k in x) / 2
        return distance + jnp.log(self.pole - x["box"][2])

    def lower(self, x):
        reward = jnp.array([[0.0, 0.5, 9.0]]).at[0, 0].set(x["box"][1])
        kernel = jnp.ones((1, 3, 1))
        available = [[True, True, False]]
        return bx.MDP(reward, kernel, discount=0.5, available=available, tau=0.5)

    def project(self, x):
        return {
            "ball": projections.projection_l2_ball(x["ball"], 2.0),
            "box": projections.projection_box(x["box"], 0.0, 1.0),
            "simplex": projections.projection_simplex(x["simplex"]),
        }


TARGET = {
    "ball": jnp.array([3.0, -4.0]),
    "box": jnp.array([-1.0, 0.3, 5.0]),
    "simplex": jnp.array([0.9, 0.7, -3.0]),
}
ORIGIN = jax.tree.map(jnp.zeros_like, TARGET)
IMPLICIT = bx.ImplicitGradient(optax.sgd(0.2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [bx.PBRL(update=bx.MirrorDescent(0.2), penalty_weight=2.0), IMPLICIT],
    ids=["mirror descent", "implicit"],
)
def test_constraints_bind_at_the_nearest_point_and_the_run_knows_it(solver):
    problem = Nearest(TARGET, jnp.array(100.0))
    solution = bx.solve(problem, solver, ORIGIN, max_steps=2000, tol=1e-9, gap_tol=1e-9)
    assert solution.result == bx.RESULTS.successful
    assert solution.stats["steps"] < 2000
    expected = {"ball": [1.2, -1.6], "box": [0.0, 0.3, 1.0], "simplex": [0.6, 0.4, 0.0]}
    for name, value in expected.items():
        np.testing.assert_allclose(solution.x[name], value, atol=1e-8)
    odds = np.exp([0.6, 1.0])  # softmax(r / tau) over the two actions that exist
    np.testing.assert_allclose(solution.policy, [[*(odds / odds.sum()), 0]], atol=1e-8)
    measure = bx.stationarity(
        problem, solution.x, solution.policy, penalty_weight=2.0, step_size=0.2
    )
    assert measure.norm < 1e-8


SETTLING = optax.adam(optax.cosine_decay_schedule(0.05, 600))
SCALES, CENTER = jnp.array([1.0, 4.0, 25.0]), jnp.array([0.9, 0.5, 0.3])


@pytest.mark.parametrize(
    "solver",
    [
        bx.ImplicitGradient(SETTLING),
        *(
            pytest.param(bx.PBRL(update=update), marks=pytest.mark.slow)
            for update in (bx.Alternating(SETTLING), bx.SoftmaxLogits(SETTLING))
        ),
    ],
    ids=["implicit", "alternating", "logits"],
)
def test_scaled_steps_end_where_a_constraint_that_couples_coordinates_lets_them(solver):
    upper = lambda x, policy, evaluation: 0.5 * jnp.sum(SCALES * (x - CENTER) ** 2)
    problem = one_state(upper, projections.projection_simplex)
    solution = bx.solve(problem, solver, jnp.full(3, 1 / 3), max_steps=600)
    # On the face sum x = 1: x = center - mu / scales.
    multiplier = (jnp.sum(CENTER) - 1) / jnp.sum(1 / SCALES)
    np.testing.assert_allclose(solution.x, CENTER - multiplier / SCALES, atol=1e-5)
    assert solution.stats["gradient_norm"] < 1e-4


def test_a_gradient_is_given_as_it_is_where_coordinates_have_bounds_of_their_own():
    rng = np.random.default_rng(0)
    gradient, free = rng.normal(size=(20, 6)), rng.random((20, 6))
    ends = np.where(rng.random((20, 6)) < 0.5, 0.0, 1.0)
    box = bx.Exact(one_state(lambda *_: 0.0, lambda x: projections.projection_box(x, 0.0, 1.0)))
    near = np.abs(ends - 10.0 ** rng.uniform(-8, -3, (20, 6)))  # where a short step is clipped
    for dtype in (float, np.float32):
        for points in (np.where(rng.random((20, 6)) < 0.3, ends, free), near):
            for x, g in zip(points.astype(dtype), gradient.astype(dtype), strict=True):
                np.testing.assert_array_equal(along_constraints(box, x, g), g)


def test_bounds_of_another_scale_do_not_damp_a_gradient():
    box = bx.Exact(one_state(lambda *_: 0.0, lambda x: jnp.clip(x, 0, jnp.asarray([1.0, 1e4]))))
    x, gradient = jnp.asarray([0.5, 5000.0], jnp.float32), jnp.asarray([1.0, -1.0], jnp.float32)
    np.testing.assert_array_equal(along_constraints(box, x, gradient), gradient)


def into(name):
    """A lower level that is an MDP at x = 0, and none at x = 1, as x moves one of its parts."""
    kernel, reward = jnp.full((2, 2, 2), 0.5), jnp.eye(2)

    def lower(x):
        given: dict[str, Any] = dict(transition=kernel, discount=0.9, tau=0.1)
        moved: dict[str, Any] = dict(
            tau=dict(tau=0.1 - x),
            discount=dict(discount=0.9 + x),
            kernel=dict(transition=kernel + x * jnp.array([1.0, -1.0])),
            row=dict(transition=kernel * (1 + x)),
        )[name]
        return bx.MDP(reward, **given | moved)

    return bx.BilevelProblem(lambda x, policy, evaluation: -x, lower)


@pytest.mark.parametrize("name", ["tau", "discount", "kernel", "row"])
def test_what_is_no_mdp_is_not_certified(name):
    solver = bx.IndependentGradient(bx.SoftmaxLogits(optax.sgd(1.0)))
    solution = bx.solve(into(name), solver, jnp.asarray(0.0), max_steps=1, gap_tol=100.0)
    assert solution.x == 1 and jnp.isnan(solution.gap)
    assert solution.result == bx.RESULTS.no_model
    assert "is no MDP" in bx.RESULTS[solution.result]


def test_implicit_gradient_answers_the_best_response_at_its_last_x():
    solution = bx.solve(Nearest(TARGET, jnp.array(100.0)), IMPLICIT, ORIGIN, max_steps=2)
    odds = np.exp([float(solution.x["box"][1]) / 0.5, 1.0])
    assert 0 < solution.x["box"][1] < 0.2
    np.testing.assert_allclose(solution.policy, [[*(odds / odds.sum()), 0]], atol=1e-13)
    assert solution.gap < 1e-12


def test_what_is_not_finite_ends_the_run_at_the_last_finite_point():
    solution = bx.solve(Nearest(TARGET, jnp.array(0.9)), IMPLICIT, ORIGIN)
    assert solution.result == bx.RESULTS.nonfinite
    assert solution.stats["steps"] == 2  # the first step leads beyond the pole
    np.testing.assert_allclose(solution.x["box"], [0, 0.06, 1])
    with pytest.raises(ValueError, match=r"upper\(x, policy, evaluation\) is nan at x0"):
        bx.solve(Nearest(TARGET, jnp.array(-1.0)), IMPLICIT, ORIGIN)


@pytest.mark.slow
def test_float32_is_enough_for_a_first_answer():
    game = random_game(0, dtype=np.float32)
    solution = bx.solve(game, SOLVER, START.astype(np.float32), max_steps=300)
    double = bx.solve(random_game(0), SOLVER, START, max_steps=300)
    assert solution.x.dtype == solution.policy.dtype == solution.gap.dtype == np.float32
    assert solution.result == bx.RESULTS.successful
    np.testing.assert_allclose(solution.best_response_value, double.best_response_value, atol=1e-2)
