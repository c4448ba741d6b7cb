"""Random Stackelberg Markov games: the first experiment of Shen, Yang and Chen (2025)."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .._problem import StackelbergGame
from .._solution import Solution
from .._solver import PBRL, Homotopy
from ._zoo import ZooProblem, normal_starts, settling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stackelberg(
    *,
    states: int = 100,
    leader_actions: int = 5,
    follower_actions: int = 5,
    tau: float = 0.01,
    discount: float = 0.9,
    seed: int = 0,
) -> ZooProblem:
    """A random Stackelberg Markov game: kernel and both rewards uniform, start uniform.

    P(.|s, a_l, a_f) is uniform on [0,1]^S, then normalised; rewards are uniform on [0,1]; the
    follower's entropy has weight tau. x are the leader's logits ``[S, leader actions]``.
    Source: Shen, Yang and Chen 2025, section 6.1 (sizes ours).
    """
    draw = np.random.default_rng(seed)
    kernel = draw.uniform(size=(states, leader_actions, follower_actions, states))
    kernel /= kernel.sum(-1, keepdims=True)
    leader, follower = draw.uniform(size=(2, states, leader_actions, follower_actions))
    game = StackelbergGame.simultaneous(leader, follower, kernel, discount=discount, tau=tau)
    settings = (states, leader_actions, follower_actions, tau, discount, seed)
    known = {}
    if settings == (100, 5, 5, 0.01, 0.9, 0):
        known["exact hypergradient, best of 12 starts"] = 8.071
    return ZooProblem(
        name="stackelberg",
        summary=(
            f"A leader commits to a policy in a random Markov game of {states} states; a follower "
            "answers optimally; the leader wants its own return high."
        ),
        problem=game,
        starts=normal_starts((states, leader_actions), (0.01, 1.0)),
        maximize=True,
        # Measured on ten games at tau .01 and .1: a penalty this soft at first, and a follower this
        # hot, lead to the better local optima.
        solver=PBRL(
            penalty_weight=Homotopy(min(max(100 * tau, 0.1), 100.0), 1e3, 800),
            update=settling(1000),
        ),
        steps=1000,
        settles=settling,
        hot=max(1.5, 0.1 / tau) if tau > 0 else 1.0,
        default_starts=4,
        figure=partial(policies_figure, game, title="Random Stackelberg game"),
        known=known,
        arrays=partial(game_arrays, game),
    )


def game_arrays(game: StackelbergGame, solution: Solution) -> dict[str, np.ndarray]:
    """x, the leader's policy ``[S, L]`` and the follower's, ``[S, A]`` or ``[S, L, A]``."""
    return dict(
        x=np.asarray(solution.x),
        leader_policy=np.asarray(game.leader_policy(solution.x)),
        policy=np.asarray(game.follower_policy(solution.policy)),
    )


def policies_figure(
    game: StackelbergGame,
    solution: Solution,
    *,
    title: str,
    states: tuple[str, ...] | None = None,
    leader_actions: tuple[str, ...] | None = None,
    follower_actions: tuple[str, ...] | None = None,
) -> "Figure":
    """Both players' policies as heat maps: a row per state (and leader's action, where seen)."""
    from ._figures import HeatMap, heat_maps

    leader = np.asarray(game.leader_policy(solution.x))
    follower = np.asarray(game.follower_policy(solution.policy))
    count = follower.shape[-1]
    state_labels = states or tuple(map(str, range(leader.shape[0])))
    leader_labels = leader_actions or tuple(map(str, range(leader.shape[1])))
    follower_labels = follower_actions or tuple(map(str, range(count)))
    rows, row_labels = "state", state_labels
    if game.sees_action:
        rows = "state, leader's action"
        row_labels = [f"{s}, {a}" for s in state_labels for a in leader_labels]
    panels = [
        HeatMap("leader's policy", leader, "state", "leader's action", state_labels, leader_labels),
        HeatMap(
            "follower's policy",
            follower.reshape(-1, count),
            rows,
            "follower's action",
            row_labels,
            follower_labels,
        ),
    ]
    value = -float(solution.best_response_value)
    return heat_maps(panels, title=f"{title}: leader's return {value:.3f}")
