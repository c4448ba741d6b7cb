"""The synthetic problem of M-SoBiRL (Yang et al. 2024): a check of gradients, answer known."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._evaluation import Evaluation
from .._mdp import MDP
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._transition import DenseTransition
from .._types import Array, Float, Scalar
from ._zoo import ZooProblem, normal_starts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RandomReward(eqx.Module):
    """r_x(s,a) = scale(s,a) x'Mx; f = 1/2 |x|^2 + 1/2 |pi|^2."""

    scale: Float[Array, "S A"]
    matrix: Float[Array, "d d"]
    transition: DenseTransition
    discount: Scalar
    tau: Scalar

    def lower(self, x: Float[Array, " d"]) -> MDP:
        """The agent's MDP."""
        reward = self.scale * (x @ self.matrix @ x)
        return MDP(reward, self.transition, discount=self.discount, tau=self.tau)

    def upper(self, x: Float[Array, " d"], policy, evaluation: Evaluation) -> Scalar:
        """1/2 |x|^2 + 1/2 sum over s,a of pi(a|s)^2."""
        return 0.5 * jnp.sum(x**2) + 0.5 * jnp.sum(policy**2)

    def project(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """x itself."""
        return x


def random_reward(
    *,
    states: int = 10,
    actions: int = 5,
    dimension: int = 100,
    tau: float = 1.0,
    discount: float = 0.5,
    seed: int = 0,
) -> ZooProblem:
    """A random MDP whose reward is a quadratic form in x; the answer is trivial.

    r_x(s,a) = U_sa U_s x'Mx with U uniform on [0,1] and M standard normal; P(.|s,a) has a random
    support. Both terms of f are smallest at x = 0 with the uniform policy, where F = states /
    (2 actions). Source: Yang et al. 2024 (SoBiRL), whose code, as here, draws U_s anew for each
    action.
    """
    draw = np.random.default_rng(seed)
    kernel = np.zeros((states, actions, states))
    for s, a in np.ndindex(states, actions):
        support = draw.choice(states, size=draw.integers(1, states), replace=False)
        weights = draw.random(support.size)
        kernel[s, a, support] = weights / weights.sum()
    scale = draw.uniform(size=(states, actions)) * draw.uniform(size=(states, actions))
    problem = RandomReward(
        scale=jnp.asarray(scale),
        matrix=jnp.asarray(draw.normal(size=(dimension, dimension))),
        transition=DenseTransition(kernel),
        discount=jnp.asarray(float(discount)),
        tau=jnp.asarray(float(tau)),
    )
    return ZooProblem(
        name="random_reward",
        summary=(
            "A reward that is a quadratic form in x trains an agent; x and its policy shall both "
            "be small. The answer is x = 0: a check of gradients."
        ),
        problem=problem,
        starts=normal_starts((dimension,), (0.01, 1.0)),
        maximize=False,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e2, 500)),
        steps=1000,
        default_starts=4,
        figure=partial(_figure, problem),
        known={"x = 0 and the uniform policy": states / (2 * actions)},
        arrays=lambda solution: dict(x=np.asarray(solution.x), policy=np.asarray(solution.policy)),
    )


def _figure(problem, solution: Solution) -> "Figure":
    from ._figures import HeatMap, heat_maps

    reward = np.asarray(problem.lower(solution.x).reward)
    states, actions = (list(map(str, range(n))) for n in reward.shape)
    policy = np.asarray(solution.policy)
    return heat_maps(
        [
            HeatMap("agent's policy", policy, "state", "action", states, actions),
            HeatMap("reward r_x(s,a)", reward, "state", "action", states, actions, False),
        ],
        title=f"Random reward: F(x) = {float(solution.best_response_value):.4f}",
    )
