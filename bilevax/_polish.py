"""The last digits of an answer."""

from ._estimator import AbstractEstimator
from ._problem import Problem
from ._solution import Solution
from ._solve import solve
from ._solver import QuasiNewton
from ._types import Key


def polish(
    problem: Problem | AbstractEstimator,
    solution: Solution,
    *,
    solver: QuasiNewton = QuasiNewton(),
    key: Key | None = None,
    max_steps: int = 300,
    tol: float = 1e-8,
    gap_tol: float = 1e-3,
) -> Solution:
    """The local optimum of F(x) = f(x, pi*_x) next to a solution, with the exact best response.

    F never rises from ``solution.x`` on, so the answer's ``best_response_value`` is no worse than
    the one given (up to rounding). A penalty method ends near an optimum of F, at a distance of the
    order of 1/weight; this closes it in a few dozen steps where x is unconstrained. Needs tau > 0.

    Arguments:
        problem: the problem that was solved.
        solution: where to start.
        solver: the quasi-Newton method.
        key: consumed by estimates.
        max_steps: evaluations of F and its gradient, at most.
        tol: stop where the norm of the (projected) hypergradient falls to this.
        gap_tol: as in ``solve``; the policy answered is the best response, whose gap is rounding.
    """
    return solve(
        problem,
        solver,
        solution.x,
        policy0=solution.policy,
        key=key,
        max_steps=max_steps,
        tol=tol,
        gap_tol=gap_tol,
    )
