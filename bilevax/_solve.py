"""The only outer loop."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._check import check_first_value, check_limits, check_problem
from ._estimator import AbstractEstimator, Certificate
from ._exact import Exact
from ._interval import ends, is_known
from ._problem import Problem
from ._solution import RESULTS, Solution
from ._solver.base import AbstractSolver, State, check_solver, step_key
from ._types import Array, Bool, Int, Key, PyTree, concrete


def solve(
    problem: Problem | AbstractEstimator,
    solver: AbstractSolver,
    x0: PyTree,
    *,
    policy0: PyTree | None = None,
    key: Key | None = None,
    state: State | None = None,
    max_steps: int = 1000,
    tol: float = 0.0,
    gap_tol: float = 1e-3,
) -> Solution:
    """The solution of a bilevel problem from one start, with its certificate.

    Arguments:
        problem: anything with ``upper``, ``lower`` and ``project`` (``BilevelProblem``,
            ``StackelbergGame``), or an estimator.
        solver: ``PBRL()``, ``ImplicitGradient()``, or any other of the package.
        x0: the start, projected onto X first.
        policy0: the lower level's first policy; uniform by default.
        key: consumed by estimates, a fresh part in every step; unused where the model is known.
        state: a state to continue from, in place of ``x0``, ``policy0`` and ``key``.
        max_steps: steps in all, those of ``state`` counted in.
        tol: stop where the gradient's norm falls to this; 0 runs all steps.
        gap_tol: the largest certified gap that counts as feasible, in units of return.

    Works under ``jit`` and ``vmap``; compiled as one loop on its first call otherwise. Raises
    ``ValueError`` where an argument, or what the problem's functions return at ``x0``, cannot be
    worked with, as far as values can be looked at (outside ``jit``).
    """
    estimator = as_estimator(problem)
    check_solver("solve", solver)
    check_limits(max_steps, tol, gap_tol)
    fresh = state is None
    if fresh:
        x0 = jax.tree.map(jnp.asarray, x0)
        check_problem(problem, x0, policy0)
        state = start(estimator, solver, x0, policy0, key)
    # Arrays, since a Python number would be compiled in.
    tolerance, gap_tolerance = jnp.asarray(tol), jnp.asarray(gap_tol)
    state = advance(estimator, solver, state, jnp.asarray(max_steps), tolerance)
    if fresh and concrete(state.failed) and state.failed and state.step == 1:
        check_first_value(state.progress.upper_value)
    return finish(estimator, solver, state, tolerance, gap_tolerance)


def as_estimator(problem: Problem | AbstractEstimator) -> AbstractEstimator:
    """The estimator itself, or the exact one of a problem whose model is known."""
    return problem if isinstance(problem, AbstractEstimator) else Exact(problem)


@eqx.filter_jit
def start(
    estimator: AbstractEstimator,
    solver: AbstractSolver,
    x0: PyTree,
    policy0: PyTree,
    key: Key | None,
) -> State:
    """The state before the first step, x0 projected onto X."""
    key = jax.random.key(0) if key is None else key
    return solver.init(estimator, estimator.project(x0), policy0, key)


@eqx.filter_jit
def advance(
    estimator: AbstractEstimator,
    solver: AbstractSolver,
    state: State,
    max_steps: Int[Array, ""],
    tol: Array,
) -> State:
    """The state after ``max_steps`` steps in all, or where it converged or failed before."""

    def cond(state):
        small = (state.progress.gradient_norm <= tol) & solver.settled(state)
        return (state.step < max_steps) & ~small & ~state.failed

    return lax.while_loop(cond, lambda state: solver.step(estimator, state), state)


class Answer(NamedTuple):
    """What a solver answers, whether it had settled, and the key of the certificate."""

    x: PyTree
    policy: PyTree
    settled: Bool[Array, ""]
    key: Key


@eqx.filter_jit
def answer(estimator: AbstractEstimator, solver: AbstractSolver, state: State) -> Answer:
    """The solver's answer at a state."""
    return Answer(*solver.answer(estimator, state), solver.settled(state), step_key(state))


@eqx.filter_jit
def certify(
    estimator: AbstractEstimator, x: PyTree, policy: PyTree, evidence: PyTree, key: Key
) -> Certificate:
    """The certificate, apart from the solver: one program certifies the answers of all."""
    return estimator.certify(x, policy, evidence, key)


def finish(
    estimator: AbstractEstimator,
    solver: AbstractSolver,
    state: State,
    tol: Array,
    gap_tol: Array,
    *,
    answer: Callable[..., Answer] = answer,
    certify: Callable[..., Certificate] = certify,
) -> Solution:
    """The certified solution of a state; ``answer`` and ``certify`` may be compiled already."""
    found = answer(estimator, solver, state)
    evidence = estimator.evidence(state.memory)
    certificate = certify(estimator, found.x, found.policy, evidence, found.key)
    gap, progress = certificate.gap, state.progress
    return Solution(
        x=found.x,
        policy=found.policy,
        upper_value=certificate.upper,
        best_response_value=certificate.upper_at_best_response,
        gap=gap.absolute,
        relative_gap=gap.relative,
        largest_loss=gap.largest,
        result=_result(certificate, found.settled, progress, state.failed, tol, gap_tol),
        stats=dict(
            steps=state.step,
            penalty_weight=progress.penalty_weight,
            penalty=progress.penalty,
            gradient_norm=progress.gradient_norm,
        ),
        state=state,
    )


@eqx.filter_jit
def _result(certificate, settled, progress, failed, tol, gap_tol):
    lowest, highest = ends(certificate.gap.absolute)
    finite = ~failed & is_known(certificate.upper)
    result = RESULTS.where(
        ((progress.gradient_norm <= tol) & settled) | (tol <= 0),
        RESULTS.successful,
        RESULTS.max_steps_reached,
    )
    result = RESULTS.where(highest <= gap_tol, result, RESULTS.undecided)
    result = RESULTS.where(lowest <= gap_tol, result, RESULTS.infeasible)
    result = RESULTS.where(jnp.isnan(highest), RESULTS.no_model, result)
    return RESULTS.where(finite, result, RESULTS.nonfinite)
