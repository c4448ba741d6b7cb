"""A zero-sum matrix game whose payoffs a designer may change."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._equilibrium import unregularized_equilibrium
from .._evaluation import Evaluation
from .._game import ZeroSumGame
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._types import Array, Float, Scalar
from ._zoo import ZooProblem, check_positive_tau, normal_starts, settling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MatrixGame(eqx.Module):
    """Two players in a matrix game, and a designer who adds x to the payoffs, |x| <= max_change.

    Player 1 chooses the row and maximises, player 2 the column and minimises. The designer wants
    the payoff high that player 1 gets at the equilibrium, less ``cost`` |x|^2.
    """

    payoff: Float[Array, "A1 A2"]
    tau: Scalar
    max_change: Scalar
    cost: Scalar

    def lower(self, x: Float[Array, "A1 A2"]) -> ZeroSumGame:
        """The players' game: one state, no future."""
        nothing_after = jnp.zeros((1, *self.payoff.shape, 1))
        return ZeroSumGame((self.payoff + x)[None], nothing_after, discount=0.0, tau=self.tau)

    def upper(
        self,
        x: Float[Array, "A1 A2"],
        policy: tuple[Float[Array, "1 A1"], Float[Array, "1 A2"]],
        evaluation: tuple[Evaluation, Evaluation],
    ) -> Scalar:
        """Minus player 1's payoff, plus the cost of the changes."""
        p, q = policy[0][0], policy[1][0]
        return -(p @ (self.payoff + x) @ q) + self.cost * jnp.sum(x**2)

    def project(self, x: Float[Array, "A1 A2"]) -> Float[Array, "A1 A2"]:
        """The nearest point of the box."""
        return jnp.clip(x, -self.max_change, self.max_change)


def matrix_game(
    *,
    payoff=((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)),
    tau: float = 0.05,
    max_change: float = 0.5,
    cost: float = 0.5,
) -> ZooProblem:
    """Payoffs of a zero-sum matrix game, changed to raise what player 1 gets at the equilibrium.

    ``payoff`` [rows, columns] is what player 2 pays to player 1 (without it: rock, paper,
    scissors). A designer adds x to it, entry by entry at most ``max_change``, and wants player 1's
    payoff at the entropy-regularised equilibrium high, less ``cost`` times the sum of x^2.
    ``bilevax solve`` also prints ``value``, that of the game as given, as tau -> 0.
    """
    matrix = _checked(payoff)
    for name, number in (("max_change", max_change), ("cost", cost)):
        if not number >= 0:
            raise ValueError(f"matrix_game: {name} is {number}; give at least 0.")
    check_positive_tau("matrix_game", tau)
    problem = MatrixGame(
        payoff=jnp.asarray(matrix),
        tau=jnp.asarray(float(tau)),
        max_change=jnp.asarray(float(max_change)),
        cost=jnp.asarray(float(cost)),
    )
    return ZooProblem(
        name="matrix_game",
        summary=(
            f"Two players meet in a zero-sum game of {len(matrix)} x {len(matrix[0])} payoffs; a "
            "designer changes the payoffs, at a cost, and wants player 1 to earn much."
        ),
        problem=problem,
        starts=normal_starts(matrix.shape, (0.01, 0.3)),
        maximize=True,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e3, 400), update=settling(500)),
        steps=500,
        settles=settling,
        default_starts=4,
        figure=partial(_figure, problem),
        known={},
        arrays=_arrays,
        measures=partial(_measures, problem),
    )


def _checked(payoff) -> np.ndarray:
    try:
        matrix = np.asarray(payoff, float)
    except (TypeError, ValueError):
        raise ValueError(
            "matrix_game: payoff is no matrix of numbers; give rows of the same length."
        ) from None
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"matrix_game: payoff has shape {matrix.shape}; give [rows, columns].")
    if not np.isfinite(matrix).all():
        where = np.argwhere(~np.isfinite(matrix))[0].tolist()
        raise ValueError(f"matrix_game: payoff is not finite at {where}; give finite numbers.")
    return matrix


def _value(problem: MatrixGame, x) -> float:
    found = unregularized_equilibrium(problem.lower(x))
    return float(found.values[0]) if found.converged else float("nan")


def _measures(problem: MatrixGame, solution: Solution) -> dict[str, tuple[float, str]]:
    return {
        "value": (
            _value(problem, jnp.zeros_like(problem.payoff)),
            "the value of the game as given, to player 1, at tau -> 0",
        ),
        "value_after": (_value(problem, solution.x), "that of the game with the changes"),
    }


def _arrays(solution: Solution) -> dict[str, np.ndarray]:
    return dict(
        x=np.asarray(solution.x),
        policy_1=np.asarray(solution.policy[0]),
        policy_2=np.asarray(solution.policy[1]),
    )


def _figure(problem: MatrixGame, solution: Solution) -> "Figure":
    from ._game_figures import StateTable, state_tables

    first, second = (np.asarray(one)[0] for one in solution.policy)
    x = np.asarray(solution.x)
    return state_tables(
        [
            StateTable("payoffs with the changes", np.asarray(problem.payoff) + x, first, second),
            StateTable("changes", x, first, second),
        ],
        label="to player 1",
        title=f"Matrix game: designer's return {-float(solution.best_response_value):.3f}",
        note="bars: how often each player chooses the action at the equilibrium",
    )
