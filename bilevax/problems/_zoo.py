"""What every problem of the zoo comes with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._solution import Solution
from .._solver import PBRL, AbstractSolver, Alternating, Annealed
from .._solver.update import AbstractUpdate
from .._types import Array, Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ZooProblem:
    """A published problem, ready to be solved and looked at.

    Attributes:
        name: the constructor's name.
        summary: one sentence: who decides what, and what the upper level wants.
        problem: an object with ``upper``, ``lower`` and ``project``; its arrays are its leaves.
        starts: ``starts(key, n)``: n initial x along a leading axis, near and wide in turn.
        maximize: whether the natural upper value is ``-upper_value`` (a return) or itself (a cost).
        solver: a penalty method with settings that suit the problem.
        steps: how many of its steps.
        measures: ``measures(solution)``: further numbers of a solution that people ask for, each by
            name as (value, a sentence about it). They join the output of ``bilevax solve``.
        hot: the factor on tau from which ``solver`` anneals (see ``Annealed``); 1 does not anneal.
        settles: ``settles(steps)``: the update whose steps of x shrink at the end of a run of that
            length (see ``settling``); ``None`` keeps that of ``solver`` at any length.
        default_starts: how many starts to run side by side; local optima are the rule.
        figure: ``figure(solution)``: the problem's own picture, a matplotlib ``Figure``.
        known: natural upper values to compare with, published or exact, by source.
        arrays: ``arrays(solution)``: what is worth keeping of a solution, as NumPy arrays.
    """

    name: str
    summary: str
    problem: Any
    starts: Callable[[Key, int], Array]
    maximize: bool
    solver: PBRL
    steps: int
    default_starts: int
    figure: Callable[[Solution], "Figure"]
    known: dict[str, float]
    arrays: Callable[[Solution], dict[str, np.ndarray]]
    measures: Callable[[Solution], dict[str, tuple[float, str]]] = lambda solution: {}
    hot: float = 1.0
    settles: Callable[[int], AbstractUpdate] | None = None

    def annealed(self, solver: AbstractSolver, steps: int) -> AbstractSolver:
        """A solver with this problem's annealing: cooling for four fifths of ``steps``."""
        if self.hot == 1:
            return solver
        return Annealed(solver, self.hot, max(1, round(0.8 * steps)))

    def update(self, steps: int) -> AbstractUpdate:
        """The update of ``solver`` for a run of ``steps`` steps."""
        return self.solver.update if self.settles is None else self.settles(steps)

    def natural_value(self, upper_value: Array | float) -> Array | float:
        """The upper value in the sense of the problem: a return where ``maximize``, else a cost."""
        return -upper_value if self.maximize else upper_value


@lru_cache
def settling(steps: int, policy_step: float = 1.0, rate: float = 0.05) -> Alternating:
    """Adam on x at a rate which falls to a hundredth over the last fifth of ``steps``.

    The policy answers the x before the step. Where the best response is sensitive (a small tau), a
    last step of full size leaves the policy behind by more than the penalty does.
    """
    last = max(1, round(0.2 * steps))
    # Cached, since every new optimiser would be compiled anew.
    falling = optax.linear_schedule(rate, rate / 100, last, transition_begin=steps - last)
    return Alternating(optax.adam(falling), policy_step)


def check_positive_tau(owner: str, tau: float) -> None:
    """``ValueError`` where a game's tau is not positive: F needs a unique equilibrium."""
    if not tau > 0:
        raise ValueError(f"{owner}: tau is {tau}; give a positive tau (equilibria need one).")


def normal_starts(shape: tuple[int, ...], scales: tuple[float, ...]) -> Callable[[Key, int], Array]:
    """``starts(key, n)`` drawing start i from N(0, scales[i mod len]^2): near and wide in turn.

    The first n of more starts are not those of n starts: keys are split for the number asked for.
    """

    def starts(key: Key, n: int) -> Array:
        scale = jnp.asarray(scales)[jnp.arange(n) % len(scales)]
        return scale.reshape((n,) + (1,) * len(shape)) * jax.random.normal(key, (n, *shape))

    return starts
