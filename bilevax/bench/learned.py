"""Cases that are learned from preferences: the problem ``rlhf:ENV``, by ``bilevax.deep``.

That package is imported where it is needed only: benchmarks of tabular problems do without it.
"""

import json
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..io.files import to_json

if TYPE_CHECKING:
    from ..deep.rlhf.base import AbstractAlgorithm
    from ..deep.teacher import ScriptedTeacher

METHODS = ("pbrl", "drlhf", "true-reward")
TEACHERS = ("oracle", "noisy", "mistake", "myopic")
FIRST_SEED = 100
"""The seed of a benchmark's seed 0: the presets of the games were chosen on smaller ones."""

_PREFIX = "rlhf:"
_OPTIONS = ("labels", "teacher", "rounds", "segment", "envs")
_COMPILING = 2
"""Rounds after which everything is compiled: a first fit may have other steps than later ones."""
_KEPT = 8
"""Prepared algorithms kept in a process."""


@dataclass
class Prepared:
    """What a job is made into; jobs that differ in their seed alone share it."""

    algorithm: "AbstractAlgorithm"
    teacher: "ScriptedTeacher"
    episodes: int
    is_compiled: bool = False


def is_learned(problem: str) -> bool:
    """Whether a case with this problem is learned from preferences."""
    return problem.startswith(_PREFIX)


def planned_environment_steps(job: dict[str, Any]) -> int | None:
    """The environment steps of a job, whose algorithm is made once; ``None`` is its preset's own.

    ``ValueError`` where the method, the budget or an option of the case makes no sense, and
    ``ModuleNotFoundError`` with the extra to install.
    """
    case, method = job["case"], job["method"]
    if method not in METHODS:
        raise ValueError(
            f"the case {case} is learned from preferences, and {method} is no method for that: "
            f"give --methods {','.join(METHODS)} or some of them."
        )
    if job["kind"] != "environment-steps" and job["amount"] is not None:
        raise ValueError(
            f"the case {case} is learned from preferences, by environment steps, and the budget is "
            f"{job['budget']}: give --environment-steps, or leave the budget out."
        )
    steps = None if job["amount"] is None else int(job["amount"])
    with jax.enable_x64(False):
        try:
            _prepare(job | dict(steps=steps))
        except ValueError as error:
            raise ValueError(f"the case {case}: {error}") from error
    return steps


def description(job: dict[str, Any]) -> str:
    """The algorithm of a job with all its settings, those of the environment's preset included."""
    from ..deep.rlhf.folder import description

    with jax.enable_x64(False):
        return description(_prepare(job).algorithm, jnp.zeros(1))


def run_learned(job: dict[str, Any]) -> dict[str, Any]:
    """What the row of a job says of its run: the true return of its final evaluation.

    The numbers are those of ``run_rlhf`` for the seed ``FIRST_SEED`` + seed. The seconds are of
    learning alone; compilation and the evaluation are left out.
    """
    from ..deep.rlhf.evaluation import evaluate
    from ..deep.rlhf.rounds import one_round

    prepared = _prepare(job)
    algorithm, rounds = prepared.algorithm, prepared.algorithm.setup.rounds
    compile_seconds = _compile(prepared)
    # Another start is another seed, far from those of the first.
    key = jax.random.key(FIRST_SEED + job["seed"] + 10_000 * job["start"])
    began, curve, fault = time.process_time(), [], ""
    state = algorithm.init(key)
    while int(state.round) < rounds and not fault:
        state, line, fault = one_round(algorithm, state, prepared.teacher)
        jax.block_until_ready(state)
        if not fault:
            seconds = round(time.process_time() - began, 6)
            curve.append([line["steps"], seconds, _number(line["true_return"])])
    cpu, steps, value = time.process_time() - began, int(state.steps), None
    if not fault:
        own = jax.random.fold_in(state.key, rounds)
        network = state.policy.agent.network
        returns = evaluate(algorithm.setup.sampler, network, own, episodes=prepared.episodes)
        value = float(np.mean(returns))
    return dict(
        maximize=True,
        steps=steps,
        environment_steps=steps,
        value=value,
        result="stopped" if fault else "finished",
        cpu_seconds=round(cpu, 6),
        compile_seconds=round(compile_seconds, 4),
        error=f"round {int(state.round)}: {fault}." if fault else None,
        curve=curve,
    )


def _compile(prepared: Prepared) -> float:
    """The seconds of the first rounds of a run that is thrown away, where they are the first."""
    from ..deep.rlhf.rounds import one_round

    if prepared.is_compiled:
        return 0.0
    began = time.perf_counter()
    state = prepared.algorithm.init(jax.random.key(FIRST_SEED))
    for _ in range(min(_COMPILING, prepared.algorithm.setup.rounds)):
        state, _, _ = one_round(prepared.algorithm, state, prepared.teacher)
    jax.block_until_ready(state)
    prepared.is_compiled = True
    return time.perf_counter() - began


def _prepare(job: dict[str, Any]) -> Prepared:
    return _prepared(job["problem"], to_json(job["options"]), job["method"], job["steps"])


@lru_cache(_KEPT)
def _prepared(problem: str, options: str, method: str, steps: int | None) -> Prepared:
    from ..deep.presets import preset

    given: dict[str, Any] = json.loads(options)
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise ValueError(
            f"{problem} takes no option {', '.join(unknown)}; give some of {', '.join(_OPTIONS)}."
        )
    teacher = _teacher(given.pop("teacher", "oracle"))
    found = preset(problem.removeprefix(_PREFIX))
    algorithm = found.algorithm(method, found.setup(steps=steps, **given))
    return Prepared(algorithm, teacher, found.episodes)


def _teacher(name: str) -> "ScriptedTeacher":
    from ..deep.teacher import ScriptedTeacher

    makers = (
        ScriptedTeacher.oracle,
        ScriptedTeacher.noisy,
        ScriptedTeacher.mistaken,
        ScriptedTeacher.myopic,
    )
    if name not in TEACHERS:
        raise ValueError(f"the teacher is {name!r}; give one of {', '.join(TEACHERS)}.")
    return dict(zip(TEACHERS, makers, strict=True))[name]()


def _number(value: float) -> float | None:
    """Without NaN, which JSON does not have: no episode ended in that round."""
    return value if math.isfinite(value) else None
