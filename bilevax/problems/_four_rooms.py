"""Four rooms: steer a walker by small charges (Thoma et al., NeurIPS 2024, arXiv 2406.01575)."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._evaluation import Evaluation, occupancy
from .._mdp import MDP
from .._mdp_from import successor_lists
from .._penalty import NikaidoIsoda
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._transition import SuccessorList
from .._types import Array, Float, Scalar
from ._zoo import ZooProblem, normal_starts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP = """
xxxxxxxxxxxxx
x     x     x
x     x     x
x           x
x     x     x
x     x     x
xx xxxx     x
x     xxx xxx
x     x     x
x     x     x
x           x
x     x     x
xxxxxxxxxxxxx
""".strip().splitlines()
CELLS = [(row, col) for row, line in enumerate(MAP) for col, c in enumerate(line) if c == " "]
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left
START, GOALS, TARGET = (4, 1), [(1, 9), (11, 11)], (8, 4)
SLIP = 0.44 / 3  # the probability of each direction that was not intended

# (tau, beta) -> published means of the upper value by HPGD, AMD and zero-order (Thoma et al. 2024),
# and the best F(x) that ascent of the exact hypergradient is known to have found.
KNOWN = {
    (0.001, 1.0): (0.91, 0.58, 0.59, 1.165),
    (0.001, 3.0): (0.51, 0.51, 0.50, 0.516),
    (0.001, 5.0): (0.46, 0.46, 0.46, 0.479),
    (0.003, 1.0): (0.95, 1.00, 0.91, 1.015),
    (0.003, 3.0): (0.73, 0.39, 0.40, 0.796),
    (0.003, 5.0): (0.29, 0.32, 0.32, 0.343),
    (0.005, 1.0): (1.17, 1.28, 1.15, 1.347),
    (0.005, 3.0): (1.01, 1.13, 1.02, 1.217),
    (0.005, 5.0): (0.87, 0.97, 0.79, 1.088),
}


class FourRooms(eqx.Module):
    """The charges -0.2 softmax(w) on 104 cells, and a walker who may have to reach either goal.

    x is w in R^105; the last entry is the part of the budget that is not used. The two goals are
    two contexts of probability 1/2 each: a stacked MDP with a leading axis of length 2.
    """

    transition: SuccessorList
    goal: Float[Array, "N S"]
    target: Float[Array, " S"]
    initial: Float[Array, " S"]
    tau: Scalar
    beta: Scalar
    discount: Scalar

    def incentive(self, x: Float[Array, " d"]) -> Float[Array, " S"]:
        """-0.2 softmax(w) without its last entry: at most 0, of total at least -0.2."""
        return -0.2 * jax.nn.softmax(x)[:-1]

    def lower(self, x: Float[Array, " d"]) -> MDP:
        """The walker's MDP: 1 on the step taken in the goal, which ends it; else the charge."""
        reward = jnp.where(self.goal == 1, 1.0, self.incentive(x))
        return MDP(
            jnp.broadcast_to(reward[..., None], (*reward.shape, len(MOVES))),
            self.transition,
            discount=self.discount,
            initial=self.initial,
            tau=self.tau,
        )

    def upper_reward(self, x: Float[Array, " d"]) -> Float[Array, "N S A"]:
        """1 for a step in the target cell, -beta sum |charge| for the step in the goal."""
        cost = self.beta * jnp.sum(jnp.abs(self.incentive(x)))
        reward = self.target - cost * self.goal
        return jnp.broadcast_to(reward[..., None], (*reward.shape, len(MOVES)))

    def upper(self, x: Float[Array, " d"], policy, evaluation: Evaluation) -> Scalar:
        """Minus the designer's return from the start, averaged over the goals."""
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """x itself."""
        return x


def four_rooms(*, tau: float = 0.005, beta: float = 1.0, discount: float = 0.99) -> ZooProblem:
    """Charges on the cells of four rooms that lead a walker through a target cell.

    A grid of 13 x 13 with 104 free cells; a move goes as intended with probability .56 and in each
    other direction with .1467; into a wall means stay. The walker earns 1 in its goal and pays the
    charge elsewhere; the designer earns 1 per step in the target cell (8, 4) and pays beta times
    all charges when the goal is reached. One kernel serves planning and evaluation. Source: Thoma
    et al. 2024 (HPGD), whose planner has this kernel and whose simulator has another.
    """
    problem = _problem(tau, beta, discount)
    known = {}
    if discount == 0.99 and (tau, beta) in KNOWN:
        *published, exact = KNOWN[tau, beta]
        for method, value in zip(("HPGD", "AMD", "zero-order"), published, strict=True):
            known[f"{method} (Thoma et al. 2024)"] = value
        known["exact hypergradient, best known"] = exact
    return ZooProblem(
        name="four_rooms",
        summary=(
            "A designer charges cells of four rooms, within a budget; a walker seeks one of two "
            "goals; the designer wants it to pass, and linger in, a target cell."
        ),
        problem=problem,
        starts=normal_starts((len(CELLS) + 1,), (0.01, 2.0)),
        maximize=True,
        solver=PBRL(
            penalty=NikaidoIsoda(uniform_weight=0.5),
            penalty_weight=Homotopy(1e2, 1e4, 1000),
        ),
        steps=1000,
        # From this temperature down the best of the charges change without a jump.
        hot=max(1.0, 0.005 / tau) if tau > 0 else 1.0,
        default_starts=4,
        figure=partial(_figure, problem),
        known=known,
        arrays=partial(_arrays, problem),
    )


def _problem(tau, beta, discount):
    index = {cell: s for s, cell in enumerate(CELLS)}

    def after(cell, move):
        to = (cell[0] + move[0], cell[1] + move[1])
        return index.get(to, index[cell])

    rows = []
    for cell in CELLS:
        actions = []
        for intended in MOVES:
            row: dict[int, float] = {}
            for move in MOVES:
                to = after(cell, move)
                share = 1 - 3 * SLIP if move == intended else SLIP
                row[to] = row.get(to, 0.0) + share
            actions.append(row)
        rows.append(actions)
    moves = successor_lists(rows)
    goal = np.stack([[float(cell == g) for cell in CELLS] for g in GOALS])
    at = lambda cell: jnp.asarray([float(c == cell) for c in CELLS])
    return FourRooms(
        transition=SuccessorList(
            moves.next_state, moves.probability * (1 - goal[:, :, None, None])
        ),
        goal=jnp.asarray(goal),
        target=at(TARGET),
        initial=at(START) / len(GOALS),
        tau=jnp.asarray(float(tau)),
        beta=jnp.asarray(float(beta)),
        discount=jnp.asarray(float(discount)),
    )


def _arrays(problem, solution: Solution) -> dict[str, np.ndarray]:
    return dict(
        x=np.asarray(solution.x),
        incentive=np.asarray(problem.incentive(solution.x)),
        policy=np.asarray(solution.policy),
        cells=np.asarray(CELLS),
    )


def _figure(problem, solution: Solution) -> "Figure":
    from ._figures import GridMap, grid_maps

    charge = np.asarray(problem.incentive(solution.x))
    visits = np.asarray(occupancy(problem.lower(solution.x), solution.policy))
    panels = [
        GridMap(
            f"walker with goal at row {goal[0]}, column {goal[1]}",
            charge,
            policy,
            seen,
            {START: "S", goal: "G", TARGET: "T"},
            outlined=[TARGET],
            silent=[goal],
        )
        for goal, policy, seen in zip(GOALS, np.asarray(solution.policy), visits, strict=True)
    ]
    return grid_maps(
        panels,
        shape=(len(MAP), len(MAP[0])),
        cells=CELLS,
        moves=MOVES,
        colour_label="charge per step (walker's reward)",
        title=f"Four rooms: designer's return {-float(solution.best_response_value):.3f}",
        note="S start, G goal (ends the walk), T target cell; "
        "arrows: the walker's policy, the darker the more visits",
    )
