"""DiscreteToy: a leader who does best by being unpredictable (BC-HG, ICAPS 2026)."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from .._problem import StackelbergGame
from .._solver import PBRL, Homotopy
from .._types import Array, Float, Scalar
from ._stackelberg import game_arrays, policies_figure
from ._zoo import ZooProblem, normal_starts


def discrete_toy(*, bonus: float = 1.0, tau: float = 0.05, discount: float = 0.99) -> ZooProblem:
    """A game on states S, A, B whose optimum is a mixed commitment.

    The follower sees the leader's action before it acts. From S it may go to A or B, or stay; in A
    the leader's action 1 throws it back to S, action 0 lets it choose (s -> S, b -> B, a stays);
    from B it returns or stays. The follower earns 1 for leaving S, loses 1 in A when the leader
    plays 1, and earns ``bonus`` for moving on from A to B. The leader earns 1 each time the
    follower goes from S to A. Strongly non-concave. Source: akimotolab/BC-HG; the exact optima are
    ours.
    """
    s, a, b = 0, 1, 2
    kernel = np.zeros((3, 2, 3, 3))
    for leader in (0, 1):
        kernel[s, leader, [s, a, b], [s, a, b]] = 1
        kernel[b, leader, [s, a, b], [s, b, b]] = 1
    kernel[a, 0, [s, a, b], [s, a, b]] = 1
    kernel[a, 1, :, s] = 1
    follower = np.zeros((3, 2, 3))
    follower[s, :, [a, b]] = 1
    follower[a, 1, :] = -1
    follower[a, 0, b] = bonus
    leader_reward = np.zeros((3, 2, 3))
    leader_reward[s, :, a] = 1
    game = StackelbergGame.sequential(
        leader_reward, follower, kernel, discount=discount, initial=np.array([1.0, 0, 0]), tau=tau
    )
    known = {
        "exact optimum, P(0|A) = .8335": 34.993,
        "always 0 in A": 33.653,
        "always 1 in A": 0.0,
        "P(0|A) = .5": 0.617,
    }
    return ZooProblem(
        name="discrete_toy",
        summary=(
            "A leader mixes two actions in state A of a three-state game; a follower who sees each "
            "action wanders; the leader wants it to go from S to A often."
        ),
        problem=game,
        starts=normal_starts((3, 2), (0.01, 2.0)),
        maximize=True,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e4, 1500)),
        steps=2000,
        default_starts=8,
        figure=partial(
            policies_figure,
            game,
            title="DiscreteToy",
            states=("S", "A", "B"),
            leader_actions=("0", "1"),
            follower_actions=("s", "a", "b"),
        ),
        known=known if (bonus, tau, discount) == (1.0, 0.05, 0.99) else {},
        arrays=partial(game_arrays, game),
    )


def return_over_steps(
    game: StackelbergGame, x: Float[Array, "S L"], policy: Float[Array, "Z A"], steps: int = 150
) -> Scalar:
    """The leader's return over the first ``steps`` steps: sum_{t < steps} discount^t r_t.

    The published numbers of DiscreteToy stop after 150 steps; the follower still plans for ever.
    """
    mdp = game.lower(x)
    reward = jnp.sum(policy * game.upper_reward(x), axis=-1)
    chain = mdp.transition.under(policy)

    def step(_, carry):
        mass, total = carry
        return mdp.discount * chain.apply_transposed(mass), total + jnp.sum(mass * reward)

    _, total = lax.fori_loop(0, steps, step, (mdp.initial, jnp.zeros_like(mdp.discount)))
    return total
