"""One job of a benchmark, in whatever process: a pure function from a job to its row."""

import inspect
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .._interval import Interval
from .._solution import Solution
from .._solve import advance, as_estimator, finish, solve, start
from .._solver import AbstractSolver
from .._types import Key, PyTree
from ..io.provenance import installed
from ..io.verdict import result_name
from ..problems import ZooProblem
from ..tasks.catalogue import Around, blaming, build, is_file, load_file
from ..tasks.settings import Settings, prepare
from .budget import share_spent, within_budget
from .learned import is_learned, run_learned

GAP_TOL = 1e-3
SHARES = tuple(2.0**-k for k in range(7, -1, -1))
"""Of the budget: where a run's value at the exact best response is looked at."""

_ENOUGH = 0.1
"""CPU seconds of a calibration's last measurement."""
_KEPT = 8
"""Prepared problems kept in a process."""


@dataclass
class Prepared:
    """What a job is made into; jobs that differ in their start alone share it."""

    zoo: ZooProblem
    solver: AbstractSolver
    steps: int
    is_compiled: bool = False


_prepared: OrderedDict[str, Prepared] = OrderedDict()


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """The row of a job; what goes wrong is its ``error``."""
    row = empty_row(job)
    began = time.perf_counter()
    try:
        learned = is_learned(job["problem"])
        # Tabular work wants float64; learning is noisy, and twice as fast in float32.
        with jax.enable_x64(not learned), blaming(job["problem"]), blaming(job["method"]):
            row |= within_budget(job, run_learned if learned else _run)
            row["spent"] = share_spent(row, job)
    except Exception as error:
        row["error"] = _words(error)
    return row | dict(wall_seconds=round(time.perf_counter() - began, 4))


def run_calibration(job: dict[str, Any]) -> dict[str, Any]:
    """What a step of the job's method costs on its case, in CPU seconds.

    Measured after compilation, from the first start, by runs that double until one of them takes a
    tenth of a second.
    """
    line = dict(id=job["id"], seconds_per_step=None, error=None)
    try:
        with jax.enable_x64(True), blaming(job["problem"]), blaming(job["method"]):
            prepared, x0, key = _prepare(job)
            first, _ = _compile(prepared, x0, key)
            line["seconds_per_step"] = _seconds_per_step(prepared, first.state)
    except Exception as error:
        line["error"] = _words(error)
    return line


def empty_row(job: dict[str, Any], error: str | None = None) -> dict[str, Any]:
    """The row of a job before it has run, or of one that failed for this reason."""
    kept = ("id", "number", "suite", "case", "problem", "options", "method", "seed", "start")
    nothing = ("maximize", "upper_value", "value", "gap", "result")
    seconds = ("cpu_seconds", "spent", "attempts", "wall_seconds", "compile_seconds")
    return (
        {name: job[name] for name in kept}
        | dict(steps=job["steps"], budget=job["budget"], environment_steps=None)
        | dict.fromkeys((*nothing, *seconds))
        | dict(error=error, versions=versions(), curve=[])
    )


def _run(job: dict[str, Any]) -> dict[str, Any]:
    prepared, x0, key = _prepare(job)
    _, compile_seconds = _compile(prepared, x0, key)
    zoo, solver = prepared.zoo, prepared.solver
    drawn = solver.environment_steps
    estimator = as_estimator(zoo.problem)
    natural = lambda value: float(zoo.natural_value(value))
    before = time.process_time()
    state = jax.block_until_ready(start(estimator, solver, x0, None, key))
    cpu, curve, solution = time.process_time() - before, [], None
    for mark in [max(1, round(share * prepared.steps)) for share in SHARES]:
        if curve and curve[-1][0] == mark:  # a short run looks at a step for several shares
            curve.append(curve[-1])
            continue
        before = time.process_time()
        state = _advance(prepared, state, mark)
        cpu += time.process_time() - before
        # The certificate is the benchmark's, not the method's: its time does not count.
        solution = finish(estimator, solver, state, jnp.asarray(0.0), jnp.asarray(GAP_TOL))
        curve.append([int(state.step), round(cpu, 6), natural(solution.best_response_value)])
        if bool(state.failed):
            break
    assert solution is not None
    value = curve[-1][-1]
    result = result_name(solution)
    error = None
    if result == "no_model":
        error = f"step {int(state.step)}: the lower level at this x is no MDP."
    elif result == "nonfinite" or not math.isfinite(value):
        error = f"step {int(state.step)}: a value or a gradient is infinite or NaN."
    return dict(
        maximize=zoo.maximize,
        steps=int(state.step),
        environment_steps=None if drawn is None else drawn * int(state.step),
        upper_value=natural(solution.upper_value),
        value=value,
        gap=float(solution.gap),
        result=result,
        cpu_seconds=round(cpu, 6),
        compile_seconds=round(compile_seconds, 4),
        error=error,
        curve=curve,
    )


def _seconds_per_step(prepared: Prepared, state) -> float:
    count, seconds, prices = 8, 0.0, []
    while seconds < _ENOUGH and not bool(state.failed):
        done, before = int(state.step), time.process_time()
        state = _advance(prepared, state, done + count)
        seconds = time.process_time() - before
        if int(state.step) == done:
            break
        prices.append(seconds / (int(state.step) - done))
        count *= 2
    if not prices:
        raise ValueError("it takes no step that could be measured from its first start.")
    return min(prices[-2:])  # a busy machine makes a step look dear, never cheap


def _advance(prepared: Prepared, state, steps: int):
    estimator = as_estimator(prepared.zoo.problem)
    # No gradient is that small: a start that is stationary takes all of its steps too.
    limit, tol = jnp.asarray(steps), jnp.asarray(-1.0)
    return jax.block_until_ready(advance(estimator, prepared.solver, state, limit, tol))


def _compile(prepared: Prepared, x0, key) -> tuple[Solution, float]:
    """The solution after one step, and what it took: compilation, where it is the first."""
    began = time.perf_counter()
    solution = solve(prepared.zoo.problem, prepared.solver, x0, key=key, max_steps=1)
    if isinstance(solution.gap, Interval):
        raise ValueError("it certifies by intervals, of which a benchmark keeps no record yet.")
    jax.block_until_ready(solution.gap)
    seconds = 0.0 if prepared.is_compiled else time.perf_counter() - began
    prepared.is_compiled = True
    return solution, seconds


def _prepare(job: dict[str, Any]):
    name = repr([job["problem"], job["options"], job["method"], job["steps"]])
    if name not in _prepared:
        _prepared[name] = make(job)
        if len(_prepared) > _KEPT:
            _prepared.popitem(last=False)
    prepared = _prepared[name]
    _prepared.move_to_end(name)
    # The same keys as those of bilevax solve --seed.
    starts_key, key = jax.random.split(jax.random.key(job["seed"]))
    starts = _starts(prepared.zoo, job["seed"])(starts_key, job["starts"])
    x0 = jax.tree.map(lambda z: jnp.asarray(z[job["start"]]), starts)
    return prepared, x0, jax.random.split(key, job["starts"])[job["start"]]


def _starts(zoo: ZooProblem, seed: int) -> Callable[[Key, int], PyTree]:
    """``starts(key, n)`` of a seed: the problem's own, but a user's x0 itself for seed 0 alone.

    With one start for each seed, all seeds would otherwise be the same run.
    """
    if seed and isinstance(zoo.starts, Around):
        return zoo.starts.draws
    return zoo.starts


def environment_steps(job: dict[str, Any]) -> int | None:
    """Transitions that a step of the job's method draws, at most; ``None`` if it draws none."""
    with jax.enable_x64(True), blaming(job["problem"]), blaming(job["method"]):
        return make(job).solver.environment_steps


def make(job: dict[str, Any]) -> Prepared:
    """The problem, the solver and the number of steps of a job."""
    method, steps = job["method"], job["steps"]
    if is_file(method):
        zoo = build(job["problem"], job["options"])
        steps = steps or zoo.steps
        solver = _own_method(method)(zoo, steps)
        if not isinstance(solver, AbstractSolver):
            raise ValueError(f"{method} gave a {type(solver).__name__}; give a solver.")
        return Prepared(zoo, shared(solver), steps)
    settings = Settings(
        problem=job["problem"],
        options=job["options"],
        solver=method,
        penalty_weight=None,
        penalty_final=None,
        learning_rate=None,
        anneal=None,
        polish=False,
        steps=steps,
        starts=1,
        seed=0,
        tol=0.0,
        gap_tol=GAP_TOL,
    )
    task = prepare(settings)
    return Prepared(task.zoo, shared(task.solver), steps or task.zoo.steps)


@cache
def _own_method(name: str) -> Callable[[ZooProblem, int], AbstractSolver]:
    path, _, function_name = name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    function: Any = getattr(load_file(Path(path), name), function_name, None)
    if function is None:
        raise ValueError(f"{path} has no function {function_name!r}.")
    return function


Solver = TypeVar("Solver", bound=AbstractSolver)

_functions: dict[Any, Any] = {}


def shared(solver: Solver) -> Solver:
    """The solver with every function replaced by the first equal one seen in this process.

    A program is compiled per function object, and every ``optax.adam(.05)`` is made of new ones.
    Two functions are equal where their code and what they close over are.
    """
    replaced = lambda leaf: _functions.setdefault(_identity(leaf), leaf)
    return jax.tree.map(lambda leaf: replaced(leaf) if inspect.isfunction(leaf) else leaf, solver)


def _identity(value: Any) -> Any:
    if inspect.isfunction(value):
        closure = tuple(_identity(cell.cell_contents) for cell in value.__closure__ or ())
        defaults = (value.__defaults__ or (), tuple((value.__kwdefaults__ or {}).items()))
        return value.__code__, id(value.__globals__), closure, _identity(defaults)
    if isinstance(value, partial):
        return partial, *map(_identity, (value.func, value.args, tuple(value.keywords.items())))
    if isinstance(value, tuple):
        return type(value), *map(_identity, value)
    try:
        hash(value)
    except TypeError:
        return id, id(value)  # alive as long as the function that is kept
    return type(value), value


@cache
def versions() -> dict[str, str]:
    """The versions that decide a value."""
    return installed("bilevax", "jax", "equinox", "optax")


def _words(error: Exception) -> str:
    message = " ".join(str(error).split())[:500]
    return (
        message
        if isinstance(error, ValueError) and message
        else (f"{type(error).__name__}: {message}" if message else type(error).__name__)
    )
