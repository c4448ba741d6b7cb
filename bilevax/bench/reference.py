"""The values to reach: the best of many starts, polished."""

import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._polish import polish
from .._solve import solve
from ..io.files import write_json
from ..tasks.catalogue import blaming, is_file
from .job import make, versions
from .plan import Plan
from .suite import Suite, beside

STARTS = 64
_SEED = 10_000
"""Of the starts, which no benchmark with fewer seeds draws."""


def compute_references(
    work: Plan,
    *,
    starts: int = STARTS,
    on_progress: Callable[[str, dict[str, Any]], None] = lambda case, entry: None,
) -> dict[str, dict[str, Any]]:
    """By case, the best F(x) of PBRL from that many starts, near and wide, each answer polished.

    A better value that is stored already stays, with its source: a reference is the best known.
    ``on_progress`` is called with every case and its entry as soon as it is there.
    """
    found, word = {}, "start" if starts == 1 else "starts"
    jobs = {job.case: job for job in reversed(work.jobs)}
    for case in work.arguments.cases:
        job = jobs[case]
        with jax.enable_x64(True), blaming(job.problem):
            ready = make(dict(problem=job.problem, options=job.options, method="pbrl", steps=None))
            zoo = ready.zoo
            points = zoo.starts(jax.random.key(_SEED), starts)
            values = []
            for i in range(starts):
                x0 = jax.tree.map(lambda z, i=i: z[i], points)
                solution = solve(zoo.problem, ready.solver, x0, max_steps=ready.steps)
                refined = polish(zoo.problem, solution)
                for one in (solution, refined):
                    values.append(float(zoo.natural_value(one.best_response_value)))
        finite = [value for value in values if np.isfinite(value)]
        if not finite:
            raise ValueError(f"the case {case} has no reference: every start became infinite.")
        best = max(finite) if zoo.maximize else min(finite)
        entry: dict[str, Any] = dict(
            value=best, source=f"best of {starts} {word} of PBRL, polished"
        )
        known = work.suite.references.get(case)
        if known is not None and (known.value > best) == zoo.maximize and known.value != best:
            entry = asdict(known)
        found[case] = entry
        on_progress(case, entry)
    return found


def reference_path(name: str, suite: Suite) -> Path:
    """Where the values of a suite are stored: in the package, or beside a user's own file."""
    if is_file(name):
        return beside(name)
    return Path(__file__).parent / "suites" / "reference" / f"{suite.name}.json"


def write_references(work: Plan, found: dict[str, dict[str, Any]], command: str) -> Path:
    """Stores the values, each with the command and versions that gave it; other cases stay."""
    path = reference_path(work.arguments.suite, work.suite)
    kept = {name: asdict(one) for name, one in work.suite.references.items()}
    made = dict(command=command, versions={"python": platform.python_version()} | versions())
    # An entry that says itself what computed it keeps that.
    new = {name: entry | made | entry for name, entry in found.items()}
    write_json(path, dict(cases=kept | new))
    return path
