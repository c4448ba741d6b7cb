"""What the questions share: small games, equal starts, and how their numbers are shown."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

import bilevax as bx
from bilevax.problems import ZooProblem, stackelberg
from bilevax.problems._zoo import settling

STATES, ACTIONS = 20, 3
STEPS = 600


@dataclass
class Answer:
    """The tables of an answer as Markdown, its rows for the record, and its figures by name."""

    markdown: str
    rows: list[dict[str, Any]]
    figures: dict[str, Any] = field(default_factory=dict)


def games(tau: float, count: int = 5) -> list[ZooProblem]:
    """Random Stackelberg games of 20 states and 3 x 3 actions, discount .9."""
    return [
        stackelberg(
            states=STATES, leader_actions=ACTIONS, follower_actions=ACTIONS, tau=tau, seed=seed
        )
        for seed in range(count)
    ]


def starts(zoo: ZooProblem, seed: int, count: int = 4) -> jax.Array:
    """Half of them near the uniform policy, half wide."""
    return zoo.starts(jax.random.key(seed), count)


def adam(steps: int = STEPS) -> optax.GradientTransformation:
    """Adam at .05, falling over the last fifth; one object per length, so compiled once."""
    return settling(steps).optimizer


# Numbers given as arrays are no part of what is compiled: one program serves all of them.


def rising(tau: float, steps: int = STEPS, scale: float = 1.0) -> bx.Homotopy:
    """The weight of the zoo's games: from 100 tau to 1,000 over four fifths of the steps."""
    first = as_array(scale * min(max(100 * tau, 0.1), 100.0))
    return bx.Homotopy(first, as_array(scale * 1e3), round(0.8 * steps))


def pbrl(tau: float, steps: int = STEPS, scale: float = 1.0, **options) -> bx.PBRL:
    """PBRL with a rising weight."""
    return bx.PBRL(penalty_weight=rising(tau, steps, scale), update=settling(steps), **options)


def at_weight(weight: float, steps: int = STEPS, **options) -> bx.PBRL:
    """PBRL at one weight."""
    constant = bx.ConstantWeight(as_array(weight))
    return bx.PBRL(penalty_weight=constant, update=settling(steps), **options)


def cooled(solver, tau: float, steps: int = STEPS) -> bx.Annealed:
    """The solver on a follower that cools from tau = .1 (or its own tau, where that is more)."""
    return bx.Annealed(solver, as_array(max(1.0, 0.1 / tau)), round(0.8 * steps))


def implicit(steps: int = STEPS) -> bx.ImplicitGradient:
    """Exact hypergradient descent."""
    return bx.ImplicitGradient(adam(steps))


def as_array(number: float) -> Any:
    """A number that is not compiled in."""
    return jnp.asarray(float(number))


def solve_all(zoo: ZooProblem, solver, points, steps: int = STEPS) -> list[bx.Solution]:
    """One solution per start."""
    return [bx.solve(zoo.problem, solver, x, max_steps=steps) for x in points]


def natural(zoo: ZooProblem, solutions: Iterable[bx.Solution]) -> list[float]:
    """F at the exact best response, larger being better."""
    return [float(zoo.natural_value(s.best_response_value)) for s in solutions]


def add_losses(rows: list[dict[str, Any]]) -> None:
    """``losses`` in per cent against the best F of all rows in a game, from ``values`` by game."""
    count = len(rows[0]["values"])
    best = [max(max(row["values"][i]) for row in rows) for i in range(count)]
    for row in rows:
        row["losses"] = [
            100 * (1 - value / top)
            for own, top in zip(row["values"], best, strict=True)
            for value in own
        ]


def milliseconds_per_step(problem, solver, x0, steps: int = 2000) -> float:
    """CPU milliseconds of a step; compilation and the certificate left out."""

    def seconds(count):
        began = time.process_time()
        jax.block_until_ready(bx.solve(problem, solver, x0, max_steps=count))
        return time.process_time() - began

    seconds(1)
    once = min(seconds(1) for _ in range(3))
    return 1e3 * (min(seconds(steps + 1) for _ in range(3)) - once) / steps


@jax.jit
def mixed_with_uniform(problem, x, share):
    """F if the follower plays at random in ``share`` of its moves, and answers else."""
    mdp = problem.lower(x)
    best = bx.best_responses(mdp).policy
    policy = (1 - share) * best + share * mdp.uniform_policy()
    return problem.upper(x, policy, bx.evaluate(mdp, policy))


def cpu_seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """The least process time of a few calls, after one that compiles."""
    jax.block_until_ready(function())
    measured = []
    for _ in range(repeats):
        began = time.process_time()
        jax.block_until_ready(function())
        measured.append(time.process_time() - began)
    return min(measured)


@eqx.filter_jit
def history(problem, solver, x0, steps: int):
    """Every step's (x, policy) and ``progress``, by the loop written by hand."""
    estimator = bx.Exact(problem)
    state = solver.init(estimator, estimator.project(x0), None, jax.random.key(0))

    def step(state, _):
        new = solver.step(estimator, state)
        return new, (state.x, state.policy, new.progress)

    return lax.scan(step, state, length=steps)[1]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """median [smallest, largest]."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(list(values))


def shown(number: float) -> str:
    """Two significant digits, plain where that is readable."""
    if number != 0 and not 1e-3 <= abs(number) < 1e5:
        return f"{number:.0e}"
    return f"{number:.2g}" if abs(number) < 100 else f"{number:,.0f}"


def axes(width: float = 6.4, height: float = 3.4, columns: int = 1):
    """A figure with one row of axes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bilevax"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]
