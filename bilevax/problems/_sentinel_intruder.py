"""Sentinel and intruder on a grid: charges that keep two opponents off parts of it."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._equilibrium import ShapleyNewton, solve_game
from .._evaluation import Evaluation, evaluate
from .._game import ZeroSumGame
from .._oracle import NewtonKrylov
from .._solution import Solution
from .._solver import PBRL, Homotopy, SoftmaxLogits
from .._types import Array, Bool, Float, Key, Scalar
from ._independent_moves import IndependentMoves, Moves
from ._zoo import ZooProblem, check_positive_tau, settling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOVES = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]  # stay, up, right, down, left


class SentinelIntruder(eqx.Module):
    """An intruder, a sentinel, and charges x in [-1, 0] on the cells for each of them, ``[2, C]``.

    State c1 * C + c2 has the intruder in cell c1 and the sentinel in c2. Player 1 is the intruder.
    States in which play is over are never entered, for what enters them is missing from the kernel;
    both players have one action there, and so no entropy.
    """

    moves: IndependentMoves
    entry: Float[Array, "S A1 A2"]
    restricted: Float[Array, " C"]
    initial: Float[Array, " S"]
    available: Bool[Array, "S A"]
    discount: Scalar
    tau: Scalar
    cost: Scalar

    def lower(self, x: Float[Array, "2 C"]) -> ZeroSumGame:
        """The players' game: what one is charged for its cell, the other is paid."""
        charge = self.moves.live * (x[0][:, None] - x[1][None, :]).reshape(-1)
        return ZeroSumGame(
            self.entry + charge[:, None, None],
            self.moves,
            discount=self.discount,
            initial=self.initial,
            tau=self.tau,
            available=(self.available, self.available),
        )

    def visits(self, evaluation: tuple[Evaluation, Evaluation]) -> Float[Array, "2 C"]:
        """The discounted visits of the intruder and of the sentinel to every cell."""
        # Both players live in the same chain: either evaluation has its occupancy.
        occupancy = evaluation[0].occupancy.reshape(self.restricted.shape[0], -1)
        return jnp.stack([jnp.sum(occupancy, 1), jnp.sum(occupancy, 0)])

    def upper(
        self,
        x: Float[Array, "2 C"],
        policy: tuple[Float[Array, "S A1"], Float[Array, "S A2"]],
        evaluation: tuple[Evaluation, Evaluation],
    ) -> Scalar:
        """Both players' visits to the restricted cells, plus cost |x|_1."""
        # x <= 0, where the norm is -sum x.
        return jnp.sum(self.visits(evaluation) * self.restricted) - self.cost * jnp.sum(x)

    def project(self, x: Float[Array, "2 C"]) -> Float[Array, "2 C"]:
        """The nearest point of the box."""
        return jnp.clip(x, -1, 0)


def sentinel_intruder(
    *,
    size: int = 5,
    discount: float = 0.95,
    tau: float = 0.1,
    slip: float = 0.1,
    cost: float = 0.01,
) -> ZooProblem:
    """Charges on the cells of a grid that keep an intruder and a sentinel off two blocks of it.

    On ``size`` x ``size`` cells both move at once: stay, up, right, down or left. With probability
    ``slip`` a move fails and the player stays where it is, as it does at the edge; the two may pass
    through each other. The intruder starts top left and earns 1 for entering the bottom right cell;
    the sentinel starts there, and earns that 1 where both come to share a cell; either ends play,
    and a step costs nothing. Where both happen at once the intruder has won.

    The restricted cells are the top right and bottom left blocks of side (size - 1) // 2, so that a
    corridor between them is left. On more than 6 x 6 cells take ``QuasiNewton``: the penalty
    method's steps are slow there, and no certificate has been reached by them. Rules in the spirit
    of PANDA (Zheng et al. 2026), which gives no more than their outline.
    """
    if size < 3:
        raise ValueError(f"sentinel_intruder: size is {size}; give at least 3.")
    if not 0 <= slip < 1:
        raise ValueError(f"sentinel_intruder: slip is {slip}; it must lie in [0, 1).")
    check_positive_tau("sentinel_intruder", tau)
    if not cost >= 0:
        raise ValueError(f"sentinel_intruder: cost is {cost}; give 0 or more.")
    problem = _problem(size, discount, tau, slip, cost)
    known = {}
    if (size, discount, tau, slip, cost) == (5, 0.95, 0.1, 0.1, 0.01):
        known["exact hypergradient, best of 2 starts"] = 0.047
    # Measured: from uniform policies the alternating step, whose curvature is that at an
    # equilibrium, serves on 25 cells and leaps to pure policies on 100. Larger rates of x overshoot
    # into charges that only the small cost takes back.
    settles = partial(settling, rate=0.02) if size <= 6 else None
    return ZooProblem(
        name="sentinel_intruder",
        summary=(
            f"On a grid of {size} x {size} cells an intruder seeks a corner and a sentinel to "
            "catch it; a designer charges them for the cells they stand in, and wants both to "
            "keep off two blocks."
        ),
        problem=problem,
        starts=partial(_starts, size * size),
        maximize=False,
        solver=PBRL(
            penalty_weight=Homotopy(10.0, 1e3, 320),
            update=settles(400) if settles else SoftmaxLogits(optax.adam(0.05)),
            oracle=NewtonKrylov(tol=1e-8),
        ),
        steps=400,
        settles=settles,
        default_starts=2,
        figure=partial(_figure, problem),
        known=known,
        arrays=partial(_arrays, problem),
        measures=partial(_measures, problem),
    )


def _problem(size, discount, tau, slip, cost):
    cells = size * size
    kernel = np.zeros((cells, len(MOVES), cells))
    for c, (row, column) in enumerate(np.ndindex(size, size)):
        for a, (down, right) in enumerate(MOVES):
            to = row + down, column + right
            inside = min(to) >= 0 and max(to) < size
            kernel[c, a, to[0] * size + to[1] if inside else c] += 1 - slip
            kernel[c, a, c] += slip
    moves = Moves.of(kernel)
    target = np.zeros((cells, cells))
    target[-1] = 1
    caught = np.eye(cells)
    caught[-1] = 0
    over = (target + caught).reshape(-1)
    everywhere = IndependentMoves(moves, moves, jnp.ones(cells * cells))
    entry = everywhere.expected_next(jnp.asarray((target - caught).reshape(-1)))
    live = jnp.asarray(1 - over)
    available = jnp.ones((cells * cells, len(MOVES)), bool).at[:, 1:].set(live[:, None] == 1)
    block = (size - 1) // 2
    restricted = np.zeros((size, size))
    restricted[:block, -block:] = restricted[-block:, :block] = 1
    return SentinelIntruder(
        moves=IndependentMoves(moves, moves, live),
        entry=(live[:, None] * entry).reshape(-1, len(MOVES), len(MOVES)),
        restricted=jnp.asarray(restricted.reshape(-1)),
        initial=jnp.zeros(cells * cells).at[cells - 1].set(1.0),  # cell 0 and the last one
        available=available,
        discount=jnp.asarray(float(discount)),
        tau=jnp.asarray(float(tau)),
        cost=jnp.asarray(float(cost)),
    )


def _starts(cells: int, key: Key, n: int) -> Float[Array, "n 2 C"]:
    """Near and wide in turn: charges uniform on [-.02, 0] or [-.3, 0]."""
    scale = jnp.where(jnp.arange(n) % 2 == 0, 0.02, 0.3)
    return -scale[:, None, None] * jax.random.uniform(key, (n, 2, cells))


def _answer(
    problem: SentinelIntruder, x: Float[Array, "2 C"]
) -> tuple[Scalar, Float[Array, "2 C"]]:
    """F(x), and the visits to every cell, at the equilibrium."""
    game = problem.lower(x)
    found = solve_game(game, ShapleyNewton())
    evaluation = evaluate(game.induced_mdps(found.policy)[0], found.policy[0])
    both = (evaluation, evaluation)
    upper, visits = problem.upper(x, found.policy, both), problem.visits(both)
    # Not a number rather than a wrong one.
    return jnp.where(found.converged, upper, jnp.nan), jnp.where(found.converged, visits, jnp.nan)


def _found(problem: SentinelIntruder, solution: Solution) -> np.ndarray:
    """The visits at the policies found."""
    mdp = problem.lower(solution.x).induced_mdps(solution.policy)[0]
    evaluation = evaluate(mdp, solution.policy[0])
    return np.asarray(problem.visits((evaluation, evaluation)))


def _arrays(problem: SentinelIntruder, solution: Solution) -> dict[str, np.ndarray]:
    return dict(
        x=np.asarray(solution.x),
        policy_1=np.asarray(solution.policy[0]),
        policy_2=np.asarray(solution.policy[1]),
        visits=_found(problem, solution),
    )


def _measures(problem: SentinelIntruder, solution: Solution) -> dict[str, tuple[float, str]]:
    before, _ = _answer(problem, jnp.zeros_like(solution.x))
    visits = np.sum(_found(problem, solution) * np.asarray(problem.restricted))
    return {
        "restricted_visits": (float(visits), "both players' discounted visits to the two blocks"),
        "restricted_visits_before": (float(before), "the same without any charge"),
    }


def _figure(problem: SentinelIntruder, solution: Solution) -> "Figure":
    from ._game_figures import Grid, grids

    size = round(problem.restricted.shape[0] ** 0.5)
    _, before = _answer(problem, jnp.zeros_like(solution.x))
    after, x = _found(problem, solution), np.asarray(solution.x)
    restricted = np.asarray(problem.restricted).reshape(size, size) > 0
    panels = [
        Grid(f"{who}: {what}", values[player].reshape(size, size), charge)
        for player, who in enumerate(("intruder", "sentinel"))
        for what, values, charge in (
            ("charges", x, True),
            ("visits without charges", np.asarray(before), False),
            ("visits with charges", after, False),
        )
    ]
    return grids(
        panels,
        across=3,
        outlined=[(int(row), int(column)) for row, column in np.argwhere(restricted)],
        letters={(0, 0): "I", (size - 1, size - 1): "T"},
        title=(
            "Sentinel and intruder: visits to the outlined blocks plus cost "
            f"{float(solution.best_response_value):.3f}"
        ),
        note="I: the intruder's start; T: its target, where the sentinel starts",
    )
