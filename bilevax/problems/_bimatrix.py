"""Bimatrix Stackelberg games: optimal mixed commitment, known from linear programs."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .._problem import StackelbergGame
from .._solution import Solution
from .._solver import PBRL, Homotopy
from ._stackelberg import game_arrays
from ._zoo import ZooProblem, normal_starts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# number -> (leader's payoffs, follower's payoffs, the value of the optimal mixed commitment);
# rows are the leader's actions.
GAMES = {
    1: ([[15, 10, 0], [10, 10, 0], [0, 0, 30]], [[15, 10, 0], [10, 10, 0], [0, 0, 30]], 30.0),
    3: ([[1, 3], [0, 2]], [[1, 0], [0, 1]], 2.5),
    4: ([[3, 1], [2, 0]], [[2, 3], [0, 1]], 1.0),
}


def bimatrix(*, leader=None, follower=None, game: int = 3, tau: float = 0.003) -> ZooProblem:
    """A bimatrix game in which the leader commits to a mixed strategy first.

    One state, no future. ``leader`` and ``follower`` are payoff matrices [leader actions, follower
    actions]; without them, ``game`` chooses 1, 3 or 4 of the published ones (StackelbergPOMDP
    environments). As tau -> 0 the follower breaks ties as the leader likes, for the leader can tip
    them at no cost in the limit (Conitzer and Sandholm 2006 give the linear programs).
    """
    known = {}
    if leader is None and follower is None:
        if game not in GAMES:
            raise ValueError(f"bimatrix: game is {game}; give one of {sorted(GAMES)}.")
        leader, follower, value = GAMES[game]
        known = {"optimal mixed commitment, by linear programs": value}
    elif leader is None or follower is None:
        raise ValueError("bimatrix: only one payoff matrix was given; give leader and follower.")
    leader, follower = (np.asarray(matrix, float)[None] for matrix in (leader, follower))
    nothing_after = np.zeros((*leader.shape, 1))
    stackelberg_game = StackelbergGame.simultaneous(
        leader, follower, nothing_after, discount=0.0, tau=tau
    )
    return ZooProblem(
        name="bimatrix",
        summary=(
            "A leader commits to a mixed strategy in a bimatrix game; the follower answers "
            "optimally; the leader wants its own payoff high."
        ),
        problem=stackelberg_game,
        starts=normal_starts((1, leader.shape[1]), (0.01, 2.0)),
        maximize=True,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e4, 1500)),
        steps=2000,
        default_starts=16,
        figure=partial(_figure, stackelberg_game),
        known=known,
        arrays=partial(game_arrays, stackelberg_game),
    )


def _figure(game: StackelbergGame, solution: Solution) -> "Figure":
    from ._figures import outcome_map

    leader, follower, *payoffs = (
        np.asarray(array)[0]
        for array in (
            game.leader_policy(solution.x),
            solution.policy,
            game.leader_reward,
            game.follower_reward,
        )
    )
    value = -float(solution.best_response_value)
    title = f"Bimatrix game: leader's payoff {value:.3f}"
    return outcome_map(leader, follower, (payoffs[0], payoffs[1]), title=title)
