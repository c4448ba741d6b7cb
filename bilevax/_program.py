"""A run's pure functions, compiled ahead of time, and what identifies them."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._estimator import AbstractEstimator
from ._solution import Solution
from ._solve import advance, answer, certify, finish, start
from ._solver.base import AbstractSolver, State
from ._types import Array, Key, PyTree


@dataclass
class Program:
    """The pure functions, compiled for one problem, and the state of every start."""

    advance: Callable[[State, Array], State]
    finish: Callable[[State], Solution]
    targets: dict[int, Array]
    states: list[State]
    seconds: float
    fingerprint: str


def compile_program(
    estimator: AbstractEstimator,
    solver: AbstractSolver,
    points: list[PyTree],
    keys: list[Key],
    *,
    max_steps: int,
    tol: float,
    gap_tol: float,
    chunk: int,
) -> Program:
    """The program of a run: compiled once, for all starts; and their first states.

    Arguments:
        estimator: gives values and gradients.
        solver: moves x and the policy.
        points: x0 of every start.
        keys: one per start.
        max_steps: the last target.
        tol: as for ``solve``.
        gap_tol: as for ``solve``.
        chunk: steps between two targets.
    """
    began = time.perf_counter()
    small, feasible = jnp.asarray(tol), jnp.asarray(gap_tol)
    wide = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    # The targets are made here: a thread of the pool need not share this one's precision.
    targets = {k: jnp.asarray(k) for k in [*range(chunk, max_steps, chunk), max_steps]}
    starting = start.lower(estimator, solver, points[0], None, keys[0]).compile()
    begin = lambda x0, key: starting(estimator, solver, x0, None, key)
    states = [begin(x0, key) for x0, key in zip(points, keys, strict=True)]
    step = advance.lower(estimator, solver, states[0], targets[max_steps], small)
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(step.compile)
        answering = answer.lower(estimator, solver, states[0]).compile()
        found = answering(estimator, solver, states[0])
        evidence = estimator.evidence(states[0].memory)
        to_certify = certify.lower(estimator, found.x, found.policy, evidence, found.key)
        certifying = to_certify.compile()
        advancing = moving.result()

    def certified(state):
        compiled = dict(answer=answering, certify=certifying)
        with jax.enable_x64(wide):  # a thread of the pool need not share this one's precision
            return finish(estimator, solver, state, small, feasible, **compiled)

    # The program's text holds every constant in it. With the arrays that it is given and the first
    # states it decides all numbers to come.
    given = (eqx.filter((estimator, solver), eqx.is_array), states, keys, small)
    return Program(
        advance=lambda state, target: advancing(estimator, solver, state, target, small),
        finish=certified,
        targets=targets,
        states=states,
        seconds=time.perf_counter() - began,
        fingerprint=_fingerprint(step.as_text(), given),
    )


def _fingerprint(text: str, arrays: PyTree) -> str:
    digest = hashlib.sha256(text.encode())
    for leaf in jax.tree.leaves(arrays):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return digest.hexdigest()
