"""Reward design on a Gymnasium toy-text model: lead an agent round chosen cells."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax

from .._evaluation import Evaluation, evaluate, expected_return, occupancy
from .._gap import best_responses
from .._mdp import MDP
from .._mdp_from import make_environment
from .._penalty import NikaidoIsoda
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._types import Array, Float, Scalar
from ._zoo import ZooProblem, normal_starts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The (down, right) step of each action, as the environments number them.
_MOVES = {
    "FrozenLakeEnv": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    "CliffWalkingEnv": ((-1, 0), (0, 1), (1, 0), (0, -1)),
}


class RewardDesign(eqx.Module):
    """An agent's MDP, whose reward the designer changes by x(s) in every state, |x|_1 <= budget.

    The designer earns what the environment pays, less ``penalty`` per step in an avoided state.
    """

    mdp: MDP
    avoided: Float[Array, " S"]
    penalty: Scalar
    budget: Scalar

    def lower(self, x: Float[Array, " S"]) -> MDP:
        """The agent's MDP, x(s) added to the reward of every action in s."""
        return eqx.tree_at(lambda mdp: mdp.reward, self.mdp, self.mdp.reward + x[:, None])

    def upper_reward(self, x: Float[Array, " S"]) -> Float[Array, "S A"]:
        """The environment's reward less the penalty; x itself is no cost within the budget."""
        return self.mdp.reward - self.penalty * self.avoided[:, None]

    def upper(self, x: Float[Array, " S"], policy, evaluation: Evaluation) -> Scalar:
        """Minus the designer's return."""
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x: Float[Array, " S"]) -> Float[Array, " S"]:
        """The projection onto the ball |x|_1 <= budget."""
        return optax.projections.projection_l1_ball(x, self.budget)


def reward_design(
    *,
    env: Any = "FrozenLake-v1",
    avoid: Sequence[int] = (4, 8),
    budget: float = 1.0,
    penalty: float = 1.0,
    tau: float = 0.001,
    discount: float = 0.99,
) -> ZooProblem:
    """Rewards changed within a budget so that an agent keeps off chosen states.

    ``env`` is a Gymnasium toy-text environment (FrozenLake, CliffWalking, Taxi) or its name,
    ``avoid`` the numbers of the states to keep off. x(s) is added to the agent's reward for a step
    taken in s; sum |x| <= budget. The designer's return is the environment's own, less ``penalty``
    per step in an avoided state. ``known`` holds it without any change, and its largest value under
    any policy whatever, which no incentive can exceed.
    """
    made = make_environment(env)
    environment = getattr(made, "unwrapped", made)
    mdp = MDP.from_gymnasium(environment, discount=discount, tau=tau)
    states = mdp.num_states
    wrong = [s for s in avoid if not 0 <= s < states]
    if wrong or not avoid:
        raise ValueError(
            f"reward_design: avoid is {list(avoid)}; give at least one state, numbered 0 to "
            f"{states - 1}."
        )
    if not budget > 0:
        raise ValueError(f"reward_design: budget is {budget}; give a positive number.")
    problem = RewardDesign(
        mdp=mdp,
        avoided=jnp.zeros(states).at[jnp.asarray(avoid)].set(1.0),
        penalty=jnp.asarray(float(penalty)),
        budget=jnp.asarray(float(budget)),
    )
    own = MDP(
        problem.upper_reward(jnp.zeros(states)),
        mdp.transition,
        discount=discount,
        initial=mdp.initial,
    )
    before = best_responses(mdp).policy
    return ZooProblem(
        name="reward_design",
        summary=(
            f"A designer changes the rewards of {type(environment).__name__} within a "
            f"budget of {budget:g}; an agent answers optimally; the designer wants what the "
            f"environment pays, less {penalty:g} for each step in one of the states "
            f"{', '.join(map(str, avoid))}."
        ),
        problem=problem,
        starts=normal_starts((states,), (0.01, 0.2)),
        maximize=True,
        solver=PBRL(
            penalty=NikaidoIsoda(uniform_weight=0.5), penalty_weight=Homotopy(10.0, 1e4, 1500)
        ),
        steps=2000,
        default_starts=8,
        figure=partial(_figure, problem, environment, before),
        known={
            "without any change": float(expected_return(own, before)),
            "no incentive can exceed": float(jnp.sum(own.initial * best_responses(own).values)),
        },
        arrays=partial(_arrays, problem),
        measures=partial(_measures, problem, before),
    )


def _measures(problem, before, solution: Solution) -> dict[str, tuple[float, str]]:
    def seen(mdp, policy):
        evaluation = evaluate(mdp, policy)
        visits = jnp.sum(evaluation.occupancy * problem.avoided)
        return float(evaluation.expected_return(problem.mdp.reward)), float(visits)

    earned, visits = seen(problem.lower(solution.x), solution.policy)
    earned_before, visits_before = seen(problem.mdp, before)
    return dict(
        environment_return=(earned, "what the environment itself pays, discounted: is it done?"),
        environment_return_before=(earned_before, "the same without any change"),
        avoided_visits=(visits, "discounted steps in the avoided states"),
        avoided_visits_before=(visits_before, "the same without any change"),
    )


def _arrays(problem, solution: Solution) -> dict[str, np.ndarray]:
    visits = occupancy(problem.lower(solution.x), solution.policy)
    return dict(
        x=np.asarray(solution.x),
        policy=np.asarray(solution.policy),
        occupancy=np.asarray(visits),
    )


def _figure(problem, environment, before, solution: Solution) -> "Figure":
    from ._figures import GridMap, bars, grid_maps

    x = np.asarray(solution.x)
    lower = problem.lower(solution.x)
    visits_before, visits = (
        np.asarray(occupancy(mdp, policy))
        for mdp, policy in ((problem.mdp, before), (lower, solution.policy))
    )
    value = -float(solution.best_response_value)
    name = type(environment).__name__.removesuffix("Env")
    title = f"Reward design on {name}: designer's return {value:.3f}"
    letters = _letters(environment)
    if letters is None:
        return bars(
            {"reward change": x, "visits before": visits_before, "visits after": visits},
            marked=np.flatnonzero(np.asarray(problem.avoided)).tolist(),
            title=title,
        )
    cells = list(np.ndindex(letters.shape))
    panels = [
        GridMap(
            when,
            change,
            np.asarray(policy),
            seen,
            letters={cell: str(letters[cell]) for cell in cells if letters[cell] != "F"},
            outlined=[cells[s] for s in np.flatnonzero(np.asarray(problem.avoided))],
            silent=[cell for cell in cells if str(letters[cell]) in "HGC"],
        )
        for when, change, policy, seen in (
            ("before", 0 * x, before, visits_before),
            ("after", x, solution.policy, visits),
        )
    ]
    return grid_maps(
        panels,
        shape=letters.shape,
        cells=cells,
        moves=_MOVES[type(environment).__name__],
        colour_label="change of reward",
        title=title,
        note="S start, G goal, H hole, C cliff; outlined: to be avoided; "
        "arrows: the agent's policy, the darker the more visits",
    )


def _letters(environment) -> np.ndarray | None:
    """The letters of a grid environment, F for free cells; ``None`` where it is no grid."""
    name = type(environment).__name__
    if name == "FrozenLakeEnv":
        return environment.desc.astype(str)
    if name == "CliffWalkingEnv":
        letters = np.full(environment.shape, "F")
        letters[-1, 0], letters[-1, 1:-1], letters[-1, -1] = "S", "C", "G"
        return letters
    return None
