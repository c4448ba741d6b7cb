"""What a run shows on its way, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._solution import RESULTS, Solution
from ._types import Float


@dataclass(frozen=True)
class RunProgress:
    """Where a run stands, for a progress display.

    Attributes:
        phase: "compiling", "running" or "certifying".
        latest: each start's last history line, ``None`` before its first.
        steps: steps taken, over all starts.
        max_steps: steps to take at most, over all starts.
        seconds: since the run began, earlier sessions of a resumed run counted in.
        compile_seconds: of those, spent on compilation.
        steps_per_second: over all starts, in this session; NaN before the first chunk.
        seconds_left: an estimate, NaN before the first chunk.
    """

    phase: str
    latest: tuple[dict[str, Any] | None, ...]
    steps: int
    max_steps: int
    seconds: float
    compile_seconds: float
    steps_per_second: float
    seconds_left: float

    @property
    def best(self) -> dict[str, Any] | None:
        """The last line of the start with the lowest f(x, policy) so far."""
        lines = [line for line in self.latest if line and np.isfinite(line["upper_value"])]
        return min(lines, key=lambda line: line["upper_value"], default=None)


@dataclass(frozen=True)
class Run:
    """What ``run`` gives back.

    Attributes:
        solutions: one per start, each with its certificate and its result.
        best_start: the start with the lowest F(x) = f(x, pi*_x) among the feasible ones. If none is
            feasible, among the finite ones; ``best.result`` then says so.
        history: a line per chunk and start, in order of steps: start, step, upper_value, penalty
            (by the solver's own oracle), penalty_weight, gradient_norm, converged, seconds.
        wall_seconds: all in all, earlier sessions of a resumed run counted in.
        compile_seconds: of those, spent on compilation.
    """

    solutions: tuple[Solution, ...]
    best_start: int
    history: tuple[dict[str, Any], ...]
    wall_seconds: float
    compile_seconds: float

    @property
    def best(self) -> Solution:
        """The best start's solution."""
        return self.solutions[self.best_start]

    @property
    def best_response_values(self) -> Float[np.ndarray, " N"]:
        """F(x) at the end of every start: the spread that local optima cause."""
        return np.asarray([float(s.best_response_value) for s in self.solutions])


def best_start(solutions: Sequence[Solution]) -> int:
    """The start with the lowest F(x), the feasible ones first; see ``Run``."""
    finite = [i for i, s in enumerate(solutions) if jnp.isfinite(s.best_response_value)]
    out = (RESULTS.infeasible, RESULTS.no_model, RESULTS.nonfinite)
    feasible = [i for i in finite if not any(bool(solutions[i].result == r) for r in out)]
    value = lambda i: float(solutions[i].best_response_value)
    return min(feasible or finite or [0], key=value)
