"""``--polish``: every start's solution moved to the optimum of F next to it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp

from .._polish import polish
from .._problem import Problem
from .._run import Run, best_start
from .._solution import Solution


def polished(run: Run, problem: Problem, *, tol: float, gap_tol: float, workers: int) -> Run:
    """The run with every finite solution polished, and the best chosen again.

    The steps of a solution count the polish in. History remains the solver's own.
    """
    began = time.perf_counter()

    def one(solution: Solution) -> Solution:
        if not jnp.isfinite(solution.best_response_value):
            return solution
        better = polish(problem, solution, tol=tol, gap_tol=gap_tol)
        steps = solution.stats["steps"] + better.stats["steps"]
        return eqx.tree_at(lambda s: s.stats["steps"], better, steps)

    # The first compiles for all.
    solutions = (one(run.solutions[0]),)
    with ThreadPoolExecutor(workers, "bilevax") as pool:
        solutions += tuple(pool.map(one, run.solutions[1:]))
    return replace(
        run,
        solutions=solutions,
        best_start=best_start(solutions),
        wall_seconds=run.wall_seconds + time.perf_counter() - began,
    )
