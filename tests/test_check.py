"""What ``solve`` refuses before anything is compiled, in one sentence."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from games import one_state, random_game
from optax import projections

import bilevax as bx
from bilevax._check import check_limits, check_problem
from bilevax._solver.base import check_solver
from bilevax.problems import matrix_game

START = jnp.zeros((3, 2))
ADAM = optax.adam(0.05)
SOLVER = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 100), update=bx.SoftmaxLogits(ADAM))
GAME = random_game(0)
BAD_CALLS = {
    "max_steps is 0": dict(max_steps=0),
    "tol is -1": dict(tol=-1.0),
    "tol is nan": dict(tol=float("nan")),
    "gap_tol is 0": dict(gap_tol=0.0),
    "x0 is not finite at [1, 0]": dict(x0=START.at[1, 0].set(jnp.inf)),
    "x0['a'] has dtype int": dict(x0={"a": jnp.zeros(2, int)}),
    "x0 holds no array": dict(x0=()),
    "policy0 has shape (2, 3)": dict(policy0=jnp.full((2, 3), 1 / 3)),
    "policy0 has the structure": dict(policy0=(jnp.full((3, 2), 0.5),)),
    "rows that sum to 0.8": dict(policy0=jnp.full((3, 2), 0.4)),
    "entries from -0.5": dict(policy0=jnp.array([[1.5, -0.5]] * 3)),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_arguments_are_refused_in_one_sentence(message):
    arguments = {"x0": START} | BAD_CALLS[message]
    with pytest.raises(ValueError, match=re.escape(message)):
        bx.solve(GAME, SOLVER, arguments.pop("x0"), **arguments)


def test_a_start_outside_x_is_projected_before_it_is_checked():
    check_problem(random_game(0, parameterization=bx.Simplex()), START + 7)


def test_a_policy_on_actions_that_do_not_exist_is_refused():
    problem = one_state(lambda x, policy, evaluation: x)
    with pytest.raises(ValueError, match=r"positive at \[0, 2\]"):
        bx.solve(problem, SOLVER, 0.0, policy0=jnp.array([[0.5, 0.0, 0.5]]))


def test_problems_that_return_the_wrong_thing_are_refused():
    vector = one_state(lambda x, policy, evaluation: x * jnp.ones(2))
    with pytest.raises(ValueError, match=r"upper returns float64\[2\]; it must return one real"):
        bx.solve(vector, SOLVER, 0.0)
    widening = one_state(lambda x, policy, evaluation: x, project=lambda x: x * jnp.ones(2))
    with pytest.raises(ValueError, match=r"project returns float64\[2\] for an x of float64\[\]"):
        bx.solve(widening, SOLVER, 0.0)
    nothing = bx.BilevelProblem(lambda x, policy, evaluation: x, lambda x: x)
    with pytest.raises(ValueError, match=r"lower returns .*; return an MDP"):
        bx.solve(nothing, SOLVER, 0.0)


PAYING = jnp.full((1, 2, 1), 0.5)


def paid(x):
    """A lower level that pays the two entries of x."""
    return bx.MDP(x[None, :2] + jnp.zeros((1, 2)), PAYING, discount=0.5, tau=0.5)


def squared(x, policy, evaluation):
    return jnp.sum(x**2)


@pytest.mark.parametrize(
    ("x0", "message"),
    [
        ([0.0] * 6, r"lower raised TypeError at an x of a list of numbers \(.*give an array"),
        ({"a": jnp.zeros(2)}, r"lower raised TypeError at an x of {'a': 'float64\[2\]'} \("),
        (
            jnp.zeros(3),
            r"lower raised TypeError at an x of float64\[3\] \(add .*; give the x0 that",
        ),
    ],
)
def test_a_start_that_the_problem_cannot_take_is_named(x0, message):
    problem = bx.BilevelProblem(squared, lambda x: paid(x + jnp.zeros(2)))
    with pytest.raises(ValueError, match=message) as raised:
        bx.solve(problem, SOLVER, x0)
    assert isinstance(raised.value.__cause__, TypeError)


def test_another_error_of_a_problem_stays_what_it_is_and_says_where():
    def divided(x, policy, evaluation):
        return x[0] * (1 / 0)

    with pytest.raises(ZeroDivisionError) as raised:
        bx.solve(bx.BilevelProblem(divided, paid), SOLVER, jnp.zeros(2))
    note = "BilevelProblem: upper raised this at an x of float64[2]."
    assert note in raised.value.__notes__


@pytest.mark.parametrize(
    ("function", "change"),
    [
        ("upper", dict(upper=lambda x, policy, evaluation: x[0] if x[0] > 0 else -x[0])),
        ("upper", dict(upper=lambda x, policy, evaluation: float(policy[0, 0]) * x[0])),
        ("lower", dict(lower=lambda x: paid(np.asarray(x)))),
        ("lower", dict(lower=lambda x: paid(jnp.full(2, float(x[0]))))),
        ("project", dict(project=lambda x: x if x[0] > 0 else -x)),
    ],
)
def test_python_that_cannot_be_compiled_is_explained(function, change):
    problem = bx.BilevelProblem(**dict(upper=squared, lower=paid) | change)
    message = f"BilevelProblem: {function} decides on the value of an array"
    with pytest.raises(ValueError, match=message) as raised:
        bx.solve(problem, SOLVER, jnp.zeros(2))
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (SOLVER, "problem is of type PBRL; problem comes first and solver second"),
        (bx.PBRL, "problem is the class PBRL; problem comes first"),
        ((GAME, START), "problem is of type tuple; give anything with upper, lower and project"),
        (bx.StackelbergGame, "problem is the class StackelbergGame; give anything"),
        (matrix_game(), "problem is of type ZooProblem; give its attribute problem"),
    ],
)
def test_what_is_no_problem_is_refused(problem, message):
    with pytest.raises(ValueError, match=message):
        check_problem(problem, START)


@pytest.mark.parametrize(
    ("solver", "message"), [(bx.PBRL, "the class PBRL; give"), (ADAM, "of type GradientTrans")]
)
def test_what_is_no_solver_is_refused(solver, message):
    with pytest.raises(ValueError, match=f"solve: solver is {message}"):
        check_solver("solve", solver)


@pytest.mark.parametrize("value", ["1e-3", None, np.ones(2)])
def test_a_limit_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"solve: tol is .*; give one number"):
        check_limits(10, value, 1e-3)


def test_mixed_precision_is_refused_before_it_is_compiled():
    message = "upper returns float64 and lower's rewards are float32 for an x of float32; cast"
    to_double = lambda x, policy, evaluation: jnp.sum(x.astype(float) ** 2)
    narrow = lambda x: bx.MDP(x[None], PAYING.astype(np.float32), discount=0.5, tau=0.5)
    with pytest.raises(ValueError, match=message):
        bx.solve(bx.BilevelProblem(to_double, narrow), SOLVER, jnp.zeros(2, np.float32))
    with pytest.raises(ValueError, match="rewards are float64 for an x of float32; cast"):
        check_problem(bx.BilevelProblem(to_double, paid), jnp.zeros(2, np.float32))


@pytest.mark.parametrize(
    "project",
    [
        lambda x: x / 2,
        lambda x: projections.projection_l1_ball(x, -1.0),  # an empty set
        lambda x: projections.projection_l2_ball(x, -1.0),
    ],
)
def test_what_moves_the_points_of_its_own_set_is_no_projection(project):
    with pytest.raises(ValueError, match=r"project moves the point project\(x0\) by"):
        check_problem(bx.BilevelProblem(squared, paid, project), jnp.array([0.3, -2.0]))


def test_the_checks_of_an_mdp_speak_although_solve_is_compiled():
    kernel = jnp.ones((1, 2, 1))
    problem = bx.BilevelProblem(
        lambda x, policy, evaluation: x,
        lambda x: bx.MDP(x * jnp.ones((1, 2)), (1 + x) * kernel, discount=0.5, tau=0.1),
    )
    with pytest.raises(ValueError, match="sum to"):
        bx.solve(problem, SOLVER, 0.5)


def test_tau_0_is_refused_where_a_method_needs_more():
    free = one_state(lambda x, policy, evaluation: x, tau=0.0)
    with pytest.raises(ValueError, match="BellmanPenalty: tau is 0"):
        bx.solve(free, bx.PBRL(penalty=bx.BellmanPenalty()), 0.0)
    with pytest.raises(ValueError, match="ImplicitGradient: tau is 0"):
        bx.solve(free, bx.ImplicitGradient(), 0.0)


class Tempered(eqx.Module):
    """A lower level whose tau is an array, hence unknown to the compiler."""

    tau: jax.Array

    def __call__(self, x):
        return bx.MDP(x * jnp.ones((1, 2)), jnp.ones((1, 2, 1)), discount=0.5, tau=self.tau)


def test_a_tau_of_0_hidden_in_an_array_is_found():
    problem = bx.BilevelProblem(lambda x, policy, evaluation: x, Tempered(jnp.array(0.0)))
    with pytest.raises(ValueError, match=r"regularizer=bx\.Unregularized"):
        bx.solve(problem, SOLVER, 0.5)
