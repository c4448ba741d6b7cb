"""A small suite in a user's own file, and a worker that answers at once."""

from pathlib import Path
from typing import ClassVar

from bilevax.bench import (
    Arguments,
    Budget,
)
from bilevax.bench.job import empty_row, run_calibration
from bilevax.bench.workers import AbstractWorker, WorkerDied

OWN = """
import os
import equinox as eqx
import jax.numpy as jnp
import optax
import bilevax as bx
from bilevax.bench import Case, Suite

def toy(price=0.1):
    def lower(x):
        return bx.MDP(jnp.stack([x, 1 - x]).T, jnp.full((2, 2, 2), 0.5), discount=0.5, tau=0.5)

    def upper(x, policy, evaluation):
        return price * jnp.sum(x**2) - evaluation.expected_return(jnp.eye(2))

    return bx.BilevelProblem(upper, lower), jnp.zeros(2)

def flat():
    problem, x0 = toy()
    return bx.BilevelProblem(lambda x, policy, evaluation: 0 * x[0], problem.lower), x0

def good(problem, steps):
    return bx.ImplicitGradient(optax.sgd(0.1))

def raises(problem, steps):
    raise RuntimeError("no such luck")

def diverges(problem, steps):
    return bx.ImplicitGradient(optax.sgd(float("nan")))

class Stuck(bx.ImplicitGradient):
    def step(self, estimator, state):
        return eqx.tree_at(lambda s: s.failed, state, jnp.asarray(True))

def stuck(problem, steps):
    return Stuck(optax.sgd(0.1))

def dies(problem, steps):
    os.kill(os.getpid(), 9)

def no_solver(problem, steps):
    return 3

SUITE = Suite(
    name="own",
    summary="Toys.",
    cases=(Case("cheap", "own.py:toy"), Case("dear", "own.py:toy", dict(price=1.0))),
    methods=("own.py:good",),
    steps=5,
    seeds=3,
    starts=2,
)

FLAT = Suite("flat", "A toy.", (Case("flat", "own.py:flat"),), ("own.py:good",), steps=5)
"""


def own_suite(folder: Path) -> Arguments:
    """The arguments of a small benchmark in a user's own file."""
    path = folder / "own.py"
    path.write_text(OWN)
    return Arguments(f"{path}:SUITE", ("cheap", "dear"), ("own.py:good",), 3, 2, Budget())


class Canned(AbstractWorker):
    """Answers at once, without any solver; jobs of the methods named "deadly" kill it."""

    seen: ClassVar[list[tuple[int, str]]] = []
    deadly: ClassVar[str] = "deadly"

    def run(self, function, job):
        if self.deadly in job["method"]:
            raise WorkerDied("by SIGKILL")
        self.seen.append((id(self), job["group"]))
        if function is run_calibration:
            price = 0.001 if job["case"] == "cheap" else 0.00037
            return dict(id=job["id"], seconds_per_step=price, error=None)
        value = float(job["seed"])
        return empty_row(job) | dict(
            maximize=True,
            value=value,
            gap=0.0,
            cpu_seconds=0.1,
            attempts=1,
            curve=[[1, 0.1, value]] * 8,
        )

    def close(self):
        pass


def without_times(rows):
    """The rows without what no two runs share."""

    def kept(row):
        curve = [[step, value] for step, _, value in row["curve"]]
        return {k: v for k, v in row.items() if "seconds" not in k} | {"curve": curve}

    return [kept(row) for row in sorted(rows, key=lambda row: row["number"])]
