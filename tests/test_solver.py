"""The solvers' steps: what they answer, where they rest, how their weights move."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from games import random_game

import bilevax as bx

START = jnp.zeros((3, 2))


@pytest.mark.slow
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


@pytest.mark.slow
def test_polish_ends_no_worse_and_at_the_optimum_nearby():
    game = random_game(0)
    rough = bx.solve(game, bx.QuasiNewton(), START, max_steps=3)
    polished = bx.polish(game, rough)
    assert polished.best_response_value < rough.best_response_value
    assert polished.stats["gradient_norm"] <= 1e-8
    assert bx.hypergradient_norm(game, polished.x) <= 1e-8
    again = bx.polish(game, polished)
    assert again.best_response_value <= polished.best_response_value + 1e-15


@pytest.mark.slow
def test_a_single_loop_with_an_automatic_weight_reaches_the_gap_asked_for():
    game = random_game(0)
    solver = bx.PBRL(
        penalty_weight=bx.AutomaticWeight(gap_tol=1e-5, every=20),
        update=bx.SoftmaxLogits(optax.adam(0.1)),
        single_loop=True,
    )
    solution = bx.solve(game, solver, START, max_steps=300, gap_tol=1e-5)
    assert solution.result == bx.RESULTS.successful
    assert solution.stats["penalty_weight"] > 100
    exact = bx.polish(game, solution)
    np.testing.assert_allclose(solution.best_response_value, exact.best_response_value, atol=2e-3)


def weights(weight, penalties):
    """The weights of the first steps, given the penalty that each saw."""
    current, series = jnp.asarray(weight.init()), []
    for step, penalty in enumerate(penalties, start=1):
        series.append(float(current))
        current = weight.next(current, jnp.asarray(step), jnp.asarray(penalty))
    return series


@pytest.mark.slow
def test_weights_follow_their_rules():
    np.testing.assert_allclose(weights(bx.ConstantWeight(3.0), [1.0] * 3), [3, 3, 3])
    rising = bx.Homotopy(1.0, 100.0, 4)
    np.testing.assert_allclose(weights(rising, [1.0] * 7), 10 ** np.minimum(np.arange(7) / 2, 2))
    assert not rising.settled(jnp.asarray(3), jnp.asarray(0.0))
    assert rising.settled(jnp.asarray(4), jnp.asarray(9.0))
    automatic = bx.AutomaticWeight(gap_tol=0.5, factor=3.0, every=2, largest=5.0)
    seen = [1.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(weights(automatic, seen), [1, 1, 3, 3, 3, 3, 5])
    assert not automatic.settled(jnp.asarray(4), jnp.asarray(0.6))
    assert automatic.settled(jnp.asarray(4), jnp.asarray(0.4))
    schedule = bx.PBRL(penalty_weight=optax.linear_schedule(1.0, 5.0, 4)).penalty_weight
    np.testing.assert_allclose(weights(schedule, [1.0] * 6), [1, 2, 3, 4, 5, 5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bx.PBRL(penalty_weight=0.0), "ConstantWeight: value is 0"),
        (lambda: bx.Homotopy(1.0, -1.0, 10), "Homotopy: final is -1"),
        (lambda: bx.Homotopy(1.0, 2.0, 0), "Homotopy: steps is 0"),
        (lambda: bx.AutomaticWeight(0.0), "AutomaticWeight: gap_tol is 0"),
        (lambda: bx.AutomaticWeight(1.0, factor=1.0), "AutomaticWeight: factor is 1"),
        (lambda: bx.AutomaticWeight(1.0, every=0), "AutomaticWeight: every is 0"),
        (lambda: bx.AutomaticWeight(1.0, largest=0.5), r"AutomaticWeight: largest is 0\.5"),
    ],
)
def test_weights_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


ADAM = optax.adam(0.1)


# The suite checks the types of fields before a class can; what it does not see, a user meets.
class Penalised(bx.PBRL):
    pass


class Implicit(bx.ImplicitGradient):
    pass


class Logits(bx.SoftmaxLogits):
    pass


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        (Penalised, dict(penalty=ADAM), "penalty is of type GradientTransf.*; give a penalty, as"),
        (Penalised, dict(penalty=bx.BellmanPenalty), "penalty is the class BellmanPenalty; give"),
        (Penalised, dict(update=ADAM), "update is of type .*; give an update, as Alternating"),
        (Penalised, dict(oracle=bx.PolicyIteration), "oracle is the class PolicyIteration; give"),
        (Implicit, dict(optimizer=0.05), "optimizer is 0.05; give an optax optimiser, as optax"),
        (Logits, dict(optimizer=optax.adam), "optimizer is of type function; give an optax"),
    ],
)
def test_parts_that_are_none_are_refused(kind, parts, message):
    with pytest.raises(ValueError, match=message):
        kind(**parts)
