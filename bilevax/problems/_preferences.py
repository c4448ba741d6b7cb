"""A reward learned from preferences in a table: RL from human feedback that is exact throughout."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._evaluation import Evaluation, evaluate
from .._mdp import MDP
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._types import Array, Float, Int, Scalar
from ._segments import segments
from ._zoo import ZooProblem, check_positive_tau, normal_starts, settling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_KINDS = 2_000


class Preferences(eqx.Module):
    """A reward model r_x(s,a) = <x, features(s,a)> fitted to preferences over the agent's segments.

        f(x, y) = E [ -l log sigmoid(D) - (1 - l) log sigmoid(-D) ] + ridge/2 |x|^2

    D is the sum of r_x over one segment less that over another. Both are drawn independently from
    the policy y: a segment is ``segment_length`` steps from a state of the normalised discounted
    occupancy, s ~ (1 - discount) d_y. The label l is 1 with probability sigmoid(difference of the
    segments' true rewards): Bradley and Terry. The expectation is a sum over all pairs of segments,
    those of equal features and equal true reward taken together. Source: Shen, Yang and Chen 2025;
    spec, application 2; Christiano et al. 2017.

    Arguments:
        mdp: the world, with the true reward that the teacher judges by (the larger its scale, the
            surer the labels), and the tau with which the agent is trained. Nothing may terminate.
        features: ``[S, A, d]``. ``jnp.eye(S * A).reshape(S, A, S * A)`` is a whole table.
        segment_length: L >= 1 steps. The number of segments grows like (actions x successors)^L.
        ridge: weight of |x|^2/2, positive, so that the fit exists and is unique.

    Raises ``ValueError`` on shapes and values out of range, and where segments are too many.
    """

    mdp: MDP
    features: Float[Array, "S A d"]
    ridge: Scalar
    states: Int[Array, "K L"]
    actions: Int[Array, "K L"]
    chance: Float[Array, " K"]
    kind: Int[Array, " K"]
    feature_sums: Float[Array, "G d"]
    true_sums: Float[Array, " G"]

    def __init__(self, mdp: MDP, features, *, segment_length: int, ridge: float = 1e-3):
        self.mdp = mdp
        self.features = jnp.asarray(features, mdp.reward.dtype)
        self.ridge = jnp.asarray(ridge, mdp.reward.dtype)
        _check(mdp, self.features, segment_length, ridge)
        found = segments(mdp.transition, segment_length)
        sums = [
            np.asarray(table, float)[found.states, found.actions].sum(1)
            for table in (self.features, mdp.reward[..., None])
        ]
        # Rounded: sums of the same numbers in another order differ in their last digit.
        rows, first, kind = np.unique(
            np.round(np.concatenate(sums, 1), 9), axis=0, return_index=True, return_inverse=True
        )
        if len(rows) > _MOST_KINDS:
            raise ValueError(
                f"Preferences: segments of {segment_length} steps come in {len(rows)} different "
                f"pairs of features and true reward, more than {_MOST_KINDS}; shorten them."
            )
        self.states, self.actions = jnp.asarray(found.states), jnp.asarray(found.actions)
        self.chance = jnp.asarray(found.chance, mdp.reward.dtype)
        self.kind = jnp.asarray(kind.reshape(-1))
        self.feature_sums = jnp.asarray(sums[0][first], mdp.reward.dtype)
        self.true_sums = jnp.asarray(sums[1][first, 0], mdp.reward.dtype)

    def reward_model(self, x: Float[Array, " d"]) -> Float[Array, "S A"]:
        """r_x(s,a)."""
        return self.features @ x

    def lower(self, x: Float[Array, " d"]) -> MDP:
        """The agent's MDP: the world with the reward model in the place of the true reward."""
        return eqx.tree_at(lambda mdp: mdp.reward, self.mdp, self.reward_model(x))

    def upper(self, x: Float[Array, " d"], policy, evaluation: Evaluation) -> Scalar:
        """f(x, policy), exact and differentiable in both."""
        return self._loss(x, self.queries(policy, evaluation))

    def project(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """x itself."""
        return x

    def queries(
        self, policy: Float[Array, "S A"], evaluation: Evaluation | None = None
    ) -> Float[Array, " G"]:
        """How probable each kind of segment is under the policy; sums to one."""
        evaluation = evaluate(self.mdp, policy) if evaluation is None else evaluation
        start = evaluation.occupancy / jnp.sum(evaluation.occupancy)
        probability = start[self.states[:, 0]] * self.chance
        for step in range(self.states.shape[1]):
            probability = probability * policy[self.states[:, step], self.actions[:, step]]
        return jnp.zeros_like(self.true_sums).at[self.kind].add(probability)

    def label_entropy(self, policy: Float[Array, "S A"]) -> Scalar:
        """f without the ridge, if the model were the true reward: the least at these queries."""
        queries, sums = self.queries(policy), self.true_sums
        return queries @ _cross_entropy(sums, sums) @ queries

    def true_return(self, policy: Float[Array, "S A"]) -> Scalar:
        """The discounted sum of true rewards from rho, without entropy."""
        return evaluate(self.mdp, policy).expected_return(self.mdp.reward)

    @eqx.filter_jit
    def fit(self, policy: Float[Array, "S A"]) -> Float[Array, " d"]:
        """argmin over x of f(x, policy), the queries held fixed: half a round of alternation.

        Newton's method from x = 0, each step the best of seven lengths, until none descends: f is
        convex in x.
        """
        queries = self.queries(policy)
        loss = lambda x: self._loss(x, queries)
        lengths = 0.5 ** jnp.arange(7, dtype=queries.dtype)

        def step(carry):
            x, value, _ = carry
            newton = jnp.linalg.solve(jax.hessian(loss)(x), jax.grad(loss)(x))
            candidates = x - lengths[:, None] * newton
            values = jax.vmap(loss)(candidates)
            best = jnp.argmin(values)
            descends = values[best] < value
            return (
                jnp.where(descends, candidates[best], x),
                jnp.minimum(value, values[best]),
                descends,
            )

        x = jnp.zeros_like(self.feature_sums[0])
        return lax.while_loop(lambda carry: carry[2], step, (x, loss(x), jnp.asarray(True)))[0]

    def _loss(self, x, queries):
        likelihood = _cross_entropy(self.true_sums, self.feature_sums @ x)
        return queries @ likelihood @ queries + 0.5 * self.ridge * jnp.sum(x**2)


def preferences(
    *,
    rewards: Sequence[float] = (2.0, 3.0, 0.0, 4.0),
    segment_length: int = 3,
    tau: float = 1.0,
    discount: float = 0.9,
    ridge: float = 1e-3,
) -> ZooProblem:
    """RL from human feedback in a corridor, where queries come from the agent's own policy.

    The cells pay ``rewards`` for every step taken in them, from left to right; the agent starts in
    the first one, and goes left, stays or goes right. A teacher compares pairs of segments by these
    rewards. The reward model sees only how far along the corridor the agent is: r_x = x times the
    position, from -1 to 1. No x fits everywhere, so the fit depends on where the queries come from.
    By default two good cells lie before a bad one, with the best at the end: fitted to an agent
    that wanders about, the model sees no trend and tells the agent nothing, which keeps it
    wandering. That is where alternation stops, and not where F is smallest. Ours.
    """
    check_positive_tau("preferences", tau)
    table = np.asarray(rewards, float)
    if table.ndim != 1 or table.size < 2 or not np.all(np.isfinite(table)):
        raise ValueError(f"preferences: rewards is {rewards}; give two or more finite numbers.")
    cells = table.size
    kernel = np.zeros((cells, 3, cells))
    for cell, move in np.ndindex(cells, 3):
        kernel[cell, move, np.clip(cell + move - 1, 0, cells - 1)] = 1
    mdp = MDP(
        np.repeat(table[:, None], 3, 1),
        kernel,
        discount=discount,
        initial=np.eye(cells)[0],
        tau=tau,
    )
    position = np.linspace(-1, 1, cells)
    problem = Preferences(
        mdp,
        np.broadcast_to(position[:, None, None], (cells, 3, 1)),
        segment_length=segment_length,
        ridge=ridge,
    )
    default = (tuple(table), segment_length, tau, discount, ridge)
    known = {"a model that says nothing, x = 0": float(np.log(2))}
    if default == ((2.0, 3.0, 0.0, 4.0), 3, 1.0, 0.9, 1e-3):
        known |= {"smallest F, on a grid of x": 0.4458, "where alternation stops": 0.6493}
    return ZooProblem(
        name="preferences",
        summary=(
            "A reward model is fitted to a teacher's preferences over what the agent does; the "
            "agent is trained on the model; the labels shall be as likely as can be."
        ),
        problem=problem,
        starts=normal_starts((1,), (0.1, 1.0)),
        maximize=False,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e3, 400), update=settling(500)),
        steps=500,
        settles=settling,
        default_starts=8,
        figure=partial(_figure, problem),
        known=known,
        arrays=partial(_arrays, problem),
        measures=partial(_measures, problem),
    )


def _cross_entropy(truth: Float[Array, " G"], model: Float[Array, " G"]) -> Float[Array, "G G"]:
    """-p log sigmoid(D) - (1 - p) log sigmoid(-D) = softplus(D) - p D, for every pair of kinds."""
    difference = model[:, None] - model
    preferred = jax.nn.sigmoid(truth[:, None] - truth)
    return jax.nn.softplus(difference) - preferred * difference


def _check(mdp: MDP, features: Array, segment_length: int, ridge: float) -> None:
    if mdp.stacked:
        raise ValueError("Preferences: the MDP has contexts along a leading axis; give one world.")
    if features.ndim != 3 or features.shape[:2] != mdp.reward.shape:
        raise ValueError(
            f"Preferences: features has shape {features.shape}; with this MDP it is "
            f"{mdp.reward.shape} and the number of features."
        )
    if segment_length < 1:
        raise ValueError(
            f"Preferences: segment_length is {segment_length}; give a whole number of 1 or more."
        )
    if not ridge > 0:
        raise ValueError(f"Preferences: ridge is {ridge}; give a positive number.")
    lost = float(jnp.max(1 - mdp.transition.expected_next(jnp.ones_like(mdp.reward[:, 0]))))
    if lost > 1e-6:
        raise ValueError(
            f"Preferences: a transition terminates with probability {lost:.2g}, which would cut "
            "segments short; give a world that goes on (restart in the kernel instead)."
        )


def _measures(problem: Preferences, solution: Solution) -> dict[str, tuple[float, str]]:
    policy = solution.policy
    entropy = float(problem.label_entropy(policy))
    return {
        "true_return": (
            float(problem.true_return(policy)),
            "discounted sum of true rewards, without entropy",
        ),
        "label_entropy": (entropy, "part of f that no reward model can avoid at these queries"),
    }


def _arrays(problem: Preferences, solution: Solution) -> dict[str, np.ndarray]:
    mdp = problem.lower(solution.x)
    return dict(
        x=np.asarray(solution.x),
        policy=np.asarray(solution.policy),
        reward=np.asarray(mdp.reward),
        occupancy=np.asarray(evaluate(mdp, solution.policy).occupancy),
    )


def _figure(problem: Preferences, solution: Solution) -> "Figure":
    from ._preference_figure import corridor

    arrays = _arrays(problem, solution)
    visits = arrays["occupancy"] / arrays["occupancy"].sum()
    return corridor(
        np.asarray(problem.mdp.reward)[:, 0],
        {"this answer": (arrays["reward"][:, 0], visits)},
        title=f"Preferences: F(x) = {float(solution.best_response_value):.3f}",
    )
