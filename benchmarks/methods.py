"""What the benchmarks share: the methods, run from equal starts, and their rows.

Every method is given the model and the same x0. ``F`` is the upper value at the exact best
response, in the problem's natural sense (larger is better); ``gap`` the largest certified gap of
all starts.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

import bilevax as bx
from bilevax.methods import Request, build_solver
from bilevax.problems import ZooProblem

RESULTS = Path(__file__).parent / "results"
POLISH_STEPS = 300


@dataclass(frozen=True)
class Row:
    """One method on one problem."""

    problem: str
    method: str
    best: float
    median: float
    worst: float
    gap: float
    starts: int
    steps: int
    wall_seconds: float
    cpu_seconds: float
    values: tuple[float, ...]


def pbrl(zoo: ZooProblem, starts) -> tuple[list, float, float]:
    """PBRL as the zoo sets it up."""
    return run(zoo, zoo.annealed(zoo.solver, zoo.steps), starts, zoo.steps)


def implicit(zoo: ZooProblem, starts) -> tuple[list, float, float]:
    """Exact hypergradient descent with Adam, as many steps."""
    return run(zoo, bx.ImplicitGradient(), starts, zoo.steps)


def annealed_implicit(zoo: ZooProblem, starts) -> tuple[list, float, float]:
    """The same, annealed as PBRL is: what of PBRL's lead is annealing's."""
    return run(zoo, zoo.annealed(bx.ImplicitGradient(), zoo.steps), starts, zoo.steps)


def hpgd(zoo: ZooProblem, starts) -> tuple[list, float, float]:
    """HPGD as the command line builds it: the leader learns from episodes; as many steps."""
    solver = build_solver("hpgd", Request(zoo, starts[0]))
    return run(zoo, solver, starts, zoo.steps)


def independent(zoo: ZooProblem, starts) -> tuple[list, float, float]:
    """Independent gradients with Adam, as many steps."""
    return run(zoo, bx.IndependentGradient(), starts, zoo.steps)


def polished(zoo: ZooProblem, solutions) -> tuple[list, float, float]:
    """The exact hypergradient from a method's answers, by quasi-Newton steps."""
    return run(zoo, bx.QuasiNewton(), [s.x for s in solutions], POLISH_STEPS, tol=1e-6)


def run(zoo, solver, starts, steps, tol=0.0) -> tuple[list, float, float]:
    """The solutions, and the wall and CPU seconds they took.

    ``solve`` compiles once for all problems of the same shape, which ``bx.run`` would do anew.
    """
    wall, cpu = time.perf_counter(), time.process_time()

    def one(x0, key):
        solution = bx.solve(zoo.problem, solver, x0, max_steps=steps, tol=tol, key=key)
        return jax.block_until_ready(solution)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        solutions = list(pool.map(one, starts, map(jax.random.key, range(len(starts)))))
    return solutions, time.perf_counter() - wall, time.process_time() - cpu


def row(zoo: ZooProblem, problem: str, method: str, outcome) -> Row:
    """The row of an outcome."""
    solutions, wall, cpu = outcome
    values = [float(zoo.natural_value(s.best_response_value)) for s in solutions]
    return Row(
        problem=problem,
        method=method,
        best=max(values),
        median=statistics.median(values),
        worst=min(values),
        gap=max(float(s.gap) for s in solutions),
        starts=len(values),
        steps=max(int(s.stats["steps"]) for s in solutions),
        wall_seconds=round(wall, 2),
        cpu_seconds=round(cpu, 2),
        values=tuple(sorted(values, reverse=True)),
    )


def save(name: str, rows: Iterable[Row]) -> Path:
    """The rows as JSON, with the versions they were made with."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    made = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bilevax": bx.__version__,
        "device": jax.devices()[0].device_kind,
    }
    path.write_text(json.dumps({"made_with": made, "rows": [asdict(r) for r in rows]}, indent=1))
    return path
