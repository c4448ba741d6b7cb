"""The starts of a run: a list of x0, or one tree with a leading axis of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._check import check_problem, layout
from ._types import PyTree


def points_of(starts: PyTree | list[PyTree]) -> list[PyTree]:
    """Every x0 by itself; ``ValueError`` where they do not agree."""
    if isinstance(starts, list):
        points = starts
    else:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(starts)}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(
                f"run: starts has the leading axes {sorted(sizes)}; give every array one leading "
                "axis of starts, or a list of x0."
            )
        points = [jax.tree.map(lambda z, i=i: z[i], starts) for i in range(*sizes.pop())]
    if not points:
        raise ValueError("run: starts is empty; give at least one x0.")
    points = [jax.tree.map(jnp.asarray, point) for point in points]
    first, *others = map(layout, points)
    for i, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(
                f"run: starts[{i}] is {other}, and starts[0] is {first}; give every x0 the same "
                "structure, shapes and dtypes."
            )
    return points


def check_first(problem: Any, starts: PyTree | list[PyTree], first: PyTree) -> None:
    """``check_problem`` at the first start; where it fails, ``starts`` may be a single x0."""
    try:
        check_problem(problem, first)
    except Exception as error:
        if isinstance(starts, list) or not _is_x0(problem, starts):
            raise
        raise ValueError(
            f"run: starts is one x0, {layout(starts)}, without a leading axis of starts: give "
            "[x0], or add that axis to every array."
        ) from error


def _is_x0(problem, x0):
    try:
        check_problem(problem, jax.tree.map(jnp.asarray, x0))
    except Exception:
        return False
    return True
