"""Simulators: all that a model-free method may ask of a tabular problem.

A simulator draws start states and steps, and says how the designer's x entered what was drawn: the
rewards, and the log-probabilities of the draws that x influences. No method outside this file reads
a kernel.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._mdp import MDP
from ..._problem import StackelbergGame
from ..._regularizer import AbstractRegularizer
from ..._transition import DenseTransition, SuccessorList
from ..._types import Array, Bool, Float, Int, Key, PyTree, Scalar


class Replay(eqx.Module):
    """What x has to do with recorded steps, differentiable in x.

    Attributes:
        start: log rho(s), as if the step's state were a start.
        chance: log-probability of the step's outcome given state and action.
        reward: the follower's r_x.
        upper_reward: the leader's reward; f is minus its expected return.
    """

    start: Float[Array, "..."]
    chance: Float[Array, "..."]
    reward: Float[Array, "..."]
    upper_reward: Float[Array, "..."]


class AbstractDynamics(eqx.Module):
    """A simulator at one x. States are numbered 0 to S-1, over all contexts together.

    Attributes:
        shape: of the policy, ``[S, A]`` or ``[N, S, A]``.
        discount, tau, regularizer, available: as in ``MDP``; ``available`` is flat, ``[S, A]``.
        mass: rho(S), differentiable in x.
        bounds: a lower and an upper bound of the follower's reward.
    """

    shape: eqx.AbstractVar[tuple[int, ...]]
    discount: eqx.AbstractVar[Scalar]
    tau: eqx.AbstractVar[Scalar]
    regularizer: eqx.AbstractVar[AbstractRegularizer]
    available: eqx.AbstractVar[Bool[Array, "S A"] | None]
    mass: eqx.AbstractVar[Scalar]
    bounds: eqx.AbstractVar[tuple[Scalar, Scalar]]

    @abc.abstractmethod
    def reset(self, key: Key, count: int) -> Int[Array, " M"]:
        """``count`` start states from rho, normalised."""

    @abc.abstractmethod
    def step(
        self, state: Int[Array, " M"], action: Int[Array, " M"], key: Key
    ) -> tuple[Int[Array, "M K"], Int[Array, " M"], Bool[Array, " M"]]:
        """The outcome of chance (K numbers that ``replay`` reads), next states, and what ended."""

    @abc.abstractmethod
    def replay(
        self,
        state: Int[Array, "*T"],
        action: Int[Array, "*T"],
        outcome: Int[Array, "*T K"],
    ) -> Replay:
        """How x enters recorded steps; no derivative passes through what was drawn."""


class AbstractSimulator(eqx.Module):
    """A tabular bilevel problem that can be played but not looked into."""

    @abc.abstractmethod
    def at(self, x: PyTree) -> AbstractDynamics:
        """The dynamics at x."""

    @abc.abstractmethod
    def project(self, x: PyTree) -> PyTree:
        """The projection onto X."""


class Roulette(eqx.Module):
    """Rows of probabilities to draw from: entry k of a row, or none with what a row lacks to one.

    Draws by inversion of the cumulative sums, in log2 K looks.
    """

    probability: Float[Array, "R K"]
    cumulative: Float[Array, "R K"]
    missing: Float[Array, " R"]

    def __init__(self, probability: Float[Array, "R K"]):
        self.probability = probability
        self.cumulative = jax.lax.stop_gradient(jnp.cumsum(probability, axis=-1))
        self.missing = 1 - jnp.sum(probability, axis=-1)

    def draw(self, row: Int[Array, " M"], uniform: Float[Array, " M"]) -> Int[Array, " M"]:
        """An entry of each row from numbers in [0, 1); K where nothing of the row came up."""
        width = self.cumulative.shape[-1]
        total = self.cumulative[row, -1]
        # A row short of one by rounding alone never comes up empty.
        full = 1 - total <= 64 * jnp.finfo(total.dtype).eps * width**0.5
        mark = uniform * jnp.where(full, total, 1)
        low, high = jnp.zeros_like(row), jnp.full_like(row, width)
        for _ in range(math.ceil(math.log2(width + 1))):  # the first entry above the mark
            middle = (low + high) // 2
            above = self.cumulative[row, jnp.minimum(middle, width - 1)] > mark
            go_on = low < high
            low = jnp.where(go_on & ~above, middle + 1, low)
            high = jnp.where(go_on & above, middle, high)
        return low

    def log_probability(self, row: Int[Array, "*T"], entry: Int[Array, "*T"]) -> Float[Array, "*T"]:
        """log of the drawn entry's probability, or of the missing mass for entry K."""
        width = self.cumulative.shape[-1]
        drawn = self.probability[row, jnp.minimum(entry, width - 1)]
        chance = jnp.where(entry == width, self.missing[row], drawn)
        # What was drawn has a positive probability; the rest is padding, and has no derivative.
        return jnp.log(jnp.where(chance > 0, chance, 1))


class _GameDynamics(AbstractDynamics):
    shape: tuple[int, ...] = eqx.field(static=True)
    discount: Scalar
    tau: Scalar
    regularizer: AbstractRegularizer
    available: Any
    mass: Scalar
    bounds: tuple[Scalar, Scalar]
    sees_action: bool = eqx.field(static=True)
    sizes: tuple[int, int, int] = eqx.field(static=True)
    starts: Roulette
    leader: Roulette
    nature: Roulette
    reward: Float[Array, " J"]
    upper_reward: Float[Array, " J"]

    def reset(self, key, count):
        for_state, for_lead = jax.random.uniform(key, (2, count), self.reward.dtype)
        state = self.starts.draw(jnp.zeros(count, int), for_state)
        return self._arrive(state, for_lead) if self.sees_action else state

    def step(self, state, action, key):
        for_lead, for_state = jax.random.uniform(key, (2, *state.shape), self.reward.dtype)
        if not self.sees_action:
            lead = self.leader.draw(state, for_lead)
            row = self._joint(state, action, lead)
            after = self.nature.draw(row, for_state)
            ended = after == self.sizes[0]
            return jnp.stack([lead, after], -1), jnp.where(ended, 0, after), ended
        row = self._joint(state, action, None)
        after = self.nature.draw(row, for_state)
        ended = after == self.sizes[0]
        pair = self._arrive(jnp.where(ended, 0, after), for_lead)
        return jnp.stack([jnp.where(ended, -1, pair), after], -1), pair, ended

    def replay(self, state, action, outcome):
        # Nature's own draws do not depend on x: their score is zero.
        states, leads, _ = self.sizes
        lead, after = outcome[..., 0], outcome[..., 1]
        if self.sees_action:
            start = self.leader.log_probability(state // leads, state % leads)
            arrived = self.leader.log_probability(jnp.maximum(lead, 0) // leads, lead % leads)
            chance = jnp.where(after == states, 0, arrived)
        else:
            start = jnp.zeros(state.shape, self.reward.dtype)
            chance = self.leader.log_probability(state, lead)
        row = self._joint(state, action, lead)
        return Replay(start, chance, self.reward[row], self.upper_reward[row])

    def _arrive(self, state, uniform):
        return state * self.sizes[1] + self.leader.draw(state, uniform)

    def _joint(self, state, action, lead):
        _, leads, follows = self.sizes
        pair = state if self.sees_action else state * leads + lead
        return pair * follows + action


class GameSimulator(AbstractSimulator):
    """A Stackelberg game in which both players' actions are drawn.

    In simultaneous play the outcome of a step is the leader's action and the next state; in
    sequential play states are pairs (s, a_l) and the leader draws its next action on arrival. x
    enters through the leader's log-probabilities alone (the score function), so nature's kernel may
    be unknown. With a ``Simplex`` leader an action of probability zero is never tried, and its
    derivative is missing: use ``Softmax`` logits.
    """

    game: StackelbergGame

    def at(self, x):
        game = self.game
        states, leads, follows = game.leader_reward.shape
        rows = states * (leads if game.sees_action else 1)
        reward = game.follower_reward
        return _GameDynamics(
            shape=(rows, follows),
            discount=game.discount,
            tau=game.tau,
            regularizer=game.regularizer,
            available=None,
            mass=jnp.sum(game.initial),
            bounds=(jnp.min(reward), jnp.max(reward)),
            sees_action=game.sees_action,
            sizes=(states, leads, follows),
            starts=Roulette((game.initial / jnp.sum(game.initial))[None]),
            leader=Roulette(game.leader_policy(x)),
            nature=Roulette(game.kernel.reshape(-1, states)),
            reward=reward.reshape(-1),
            upper_reward=game.leader_reward.reshape(-1),
        )

    def project(self, x):
        return self.game.project(x)


class _ModelDynamics(AbstractDynamics):
    shape: tuple[int, ...] = eqx.field(static=True)
    discount: Scalar
    tau: Scalar
    regularizer: AbstractRegularizer
    available: Any
    mass: Scalar
    bounds: tuple[Scalar, Scalar]
    starts: Roulette
    nature: Roulette
    next_state: Int[Array, "R B"] | None
    shared: bool = eqx.field(static=True)
    reward: Float[Array, " R"]
    upper_reward: Float[Array, " R"]

    def reset(self, key, count):
        uniform = jax.random.uniform(key, (count,), self.reward.dtype)
        return self.starts.draw(jnp.zeros(count, int), uniform)

    def step(self, state, action, key):
        states = self.shape[-2]
        uniform = jax.random.uniform(key, state.shape, self.reward.dtype)
        entry = self.nature.draw(self._row(state, action, self.shared), uniform)
        ended = entry == self.nature.cumulative.shape[-1]
        after = jnp.where(ended, 0, entry)
        if self.next_state is not None:
            listed = self.next_state.shape[0] < math.prod(self.shape)
            after = self.next_state[self._row(state, action, listed), after]
        return entry[:, None], state // states * states + after, ended

    def replay(self, state, action, outcome):
        row = self._row(state, action, False)
        chance = self._row(state, action, self.shared)
        return Replay(
            self.starts.log_probability(jnp.zeros_like(state), state) + jnp.log(self.mass),
            self.nature.log_probability(chance, outcome[..., 0]),
            self.reward[row],
            self.upper_reward[row],
        )

    def _row(self, state, action, shared):
        """The row of a table over (context, state, action), or of one that contexts share."""
        states, actions = self.shape[-2:]
        return (state % states if shared else state) * actions + action


class ModelSimulator(AbstractSimulator):
    """A problem whose lower level is one ``MDP`` (contexts included), played instead of solved.

    ``problem`` has ``lower(x) -> MDP``, ``upper_reward(x)`` of the policy's shape (f is minus its
    expected return) and ``project``. Where x moves the kernel or the start, its score is that of
    the outcome drawn, log P_x(s'|s,a): the designer must know how x enters them, and only that.
    """

    problem: Any

    def at(self, x):
        mdp = self.problem.lower(x)
        if not isinstance(mdp, MDP) or mdp.discount.ndim or mdp.tau.ndim:
            raise ValueError(
                f"ModelSimulator: lower returns {type(mdp).__name__}; return one MDP whose "
                "discount and tau are single numbers."
            )
        shape, kernel = mdp.reward.shape, mdp.transition
        probability, successors = _rows(kernel)
        initial = jnp.broadcast_to(mdp.initial, shape[:-1]).reshape(1, -1)
        mass, available = jnp.sum(initial), mdp.available
        if available is not None:
            available = jnp.broadcast_to(available, shape).reshape(-1, shape[-1])
        return _ModelDynamics(
            shape=shape,
            discount=mdp.discount,
            tau=mdp.tau,
            regularizer=mdp.regularizer,
            available=available,
            mass=mass,
            bounds=(jnp.min(mdp.reward), jnp.max(mdp.reward)),
            starts=Roulette(initial / mass),
            nature=Roulette(probability),
            next_state=successors,
            shared=probability.shape[0] < math.prod(shape),
            reward=mdp.reward.reshape(-1),
            upper_reward=jnp.broadcast_to(self.problem.upper_reward(x), shape).reshape(-1),
        )

    def project(self, x):
        return self.problem.project(x)


def _rows(kernel):
    if isinstance(kernel, DenseTransition):
        return kernel.array.reshape(-1, kernel.array.shape[-1]), None
    assert isinstance(kernel, SuccessorList)
    width = kernel.probability.shape[-1]
    return kernel.probability.reshape(-1, width), kernel.next_state.reshape(-1, width)


def as_simulator(problem: Any) -> AbstractSimulator:
    """The simulator itself, or one that plays a problem with the very kernel of its exact model."""
    if isinstance(problem, AbstractSimulator):
        return problem
    if isinstance(problem, StackelbergGame):
        return GameSimulator(problem)
    if not hasattr(problem, "upper_reward"):
        raise ValueError(
            f"Sampled: {type(problem).__name__} has no upper_reward(x); samples serve an upper "
            "objective that is minus an expected return, of a reward in the shape of the policy."
        )
    return ModelSimulator(problem)
