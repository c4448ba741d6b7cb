"""Incentives in a random zero-sum game: the first problem of incentive design with two players."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._evaluation import Evaluation, evaluate
from .._game import ZeroSumGame
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._transition import DenseTransition
from .._types import Array, Float, Scalar
from ._zoo import ZooProblem, check_positive_tau, normal_starts, settling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class IncentiveGame(eqx.Module):
    """Two players in a zero-sum game, and a designer who pays player 1 an incentive sigma(x).

    Player 1 maximises r + sigma(x), player 2 minimises it, both with entropy. x has the shape of r,
    ``[S, A1, A2]``; sigma is the logistic function.
    """

    reward: Float[Array, "S A1 A2"]
    upper_reward: Float[Array, "S A1 A2"]
    transition: DenseTransition
    discount: Scalar
    tau: Scalar
    cost: Scalar

    def incentive(self, x: Float[Array, "S A1 A2"]) -> Float[Array, "S A1 A2"]:
        """sigma(x), in (0, 1)."""
        return jax.nn.sigmoid(x)

    def lower(self, x: Float[Array, "S A1 A2"]) -> ZeroSumGame:
        """The players' game."""
        return ZeroSumGame(
            self.reward + self.incentive(x), self.transition, discount=self.discount, tau=self.tau
        )

    def upper(
        self,
        x: Float[Array, "S A1 A2"],
        policy: tuple[Float[Array, "S A1"], Float[Array, "S A2"]],
        evaluation: tuple[Evaluation, Evaluation],
    ) -> Scalar:
        """Minus the designer's discounted reward, less the cost of what is paid."""
        gain = self.upper_reward - self.cost * self.incentive(x)
        per_state = jnp.einsum("si,sij,sj->s", policy[0], gain, policy[1])
        # Both players live in the same chain: either evaluation has its occupancy.
        return -jnp.sum(evaluation[0].occupancy * per_state)

    def project(self, x: Float[Array, "S A1 A2"]) -> Float[Array, "S A1 A2"]:
        """x itself."""
        return x


def incentive_game(
    *,
    states: int = 10,
    actions: int = 5,
    discount: float = 0.9,
    tau: float = 0.1,
    cost: float = 0.1,
    seed: int = 0,
) -> ZooProblem:
    """Incentives in a random zero-sum game that steer its equilibrium to a designer's own reward.

    The kernel is uniform on [0,1]^S, normalised; the players' reward and the designer's are uniform
    on [0,1], the start is uniform. The designer adds sigma(x(s,a1,a2)) to player 1's reward and
    gains its own reward, less ``cost`` times the incentive, in every step. Source: the third
    experiment of Shen, Yang and Chen 2025, in the sizes of this zoo.
    """
    check_positive_tau("incentive_game", tau)
    if not cost >= 0:
        raise ValueError(f"incentive_game: cost is {cost}; give 0 or more.")
    draw = np.random.default_rng(seed)
    kernel = draw.random((states, actions, actions, states))
    kernel /= kernel.sum(-1, keepdims=True)
    problem = IncentiveGame(
        transition=DenseTransition(kernel.reshape(states, -1, states)),
        reward=jnp.asarray(draw.random((states, actions, actions))),
        upper_reward=jnp.asarray(draw.random((states, actions, actions))),
        discount=jnp.asarray(float(discount)),
        tau=jnp.asarray(float(tau)),
        cost=jnp.asarray(float(cost)),
    )
    known = {}
    if (states, actions, discount, tau, cost, seed) == (10, 5, 0.9, 0.1, 0.1, 0):
        known["exact hypergradient, best of 16 starts, polished"] = 8.512
    return ZooProblem(
        name="incentive_game",
        summary=(
            f"Two players meet in a random zero-sum game of {states} states; a designer pays "
            "player 1 for chosen outcomes, and wants its own reward high at the equilibrium."
        ),
        problem=problem,
        starts=normal_starts((states, actions, actions), (0.01, 2.0)),
        maximize=True,
        # Measured on other games: a soft penalty at first leads to better local optima, and a
        # damped step keeps the policies from overshooting while it is soft.
        solver=PBRL(penalty_weight=Homotopy(0.5, 1e3, 800), update=settling(1000, 0.3)),
        steps=1000,
        settles=partial(settling, policy_step=0.3),
        default_starts=8,
        figure=partial(_figure, problem),
        known=known,
        arrays=partial(_arrays, problem),
    )


def _arrays(problem: IncentiveGame, solution: Solution) -> dict[str, np.ndarray]:
    return dict(
        x=np.asarray(solution.x),
        incentive=np.asarray(problem.incentive(solution.x)),
        policy_1=np.asarray(solution.policy[0]),
        policy_2=np.asarray(solution.policy[1]),
    )


def _figure(problem: IncentiveGame, solution: Solution) -> "Figure":
    from ._game_figures import StateTable, state_tables

    policy = solution.policy
    mdp = problem.lower(solution.x).induced_mdps(policy)[0]
    visits = np.asarray(evaluate(mdp, policy[0]).occupancy)
    incentive = np.asarray(problem.incentive(solution.x))
    first, second = (np.asarray(one) for one in policy)
    paid = np.einsum("s,si,sij,sj->", visits, first, incentive, second)
    shown = np.argsort(-visits, kind="stable")[:6]
    return state_tables(
        [
            StateTable(
                f"state {s}, {visits[s] / visits.sum():.0%} of the time",
                incentive[s],
                first[s],
                second[s],
            )
            for s in shown
        ],
        label="incentive",
        title=(
            f"Incentives in a zero-sum game: designer's return "
            f"{-float(solution.best_response_value):.3f}, {paid:.2f} incentives paid"
        ),
        note="bars: how often each player chooses the action at the equilibrium",
    )
