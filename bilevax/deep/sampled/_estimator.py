"""The protocol that solvers consume, from samples alone."""

from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..._exact import AbstractEstimator, Certificate, Terms
from ..._gap import Gap
from ..._penalty import NikaidoIsoda
from ..._types import Array, Float, Int, PyTree, Scalar, concrete
from ._certificate import (
    Moments,
    gap_interval,
    mean_interval,
    moments,
    optimality_bound,
    target_range,
)
from ._estimates import (
    FOLLOWER,
    LEADER,
    Player,
    Returns,
    gradient_in_x,
    policy_gradient,
    returns,
    value_samples,
)
from ._learner import learn, transitions
from ._rollout import Rollout, buffer_length, rollout
from ._simulator import AbstractDynamics, AbstractSimulator, as_simulator


class Tables(eqx.Module):
    """What ``Sampled`` has learned, and what it took.

    Attributes:
        best: Q of the best response; its greedy policy is the tracked response.
        own: the follower's Q under its current policy.
        upper: the leader's Q under the same.
        steps: environment steps taken so far.
        cut: the largest share of streams that the buffer's end cut off; 0 unless it is too short.
    """

    best: Float[Array, "S A"]
    own: Float[Array, "S A"]
    upper: Float[Array, "S A"]
    steps: Int[Array, ""]
    cut: Scalar


class Sampled(AbstractEstimator):
    """Values and gradients of a tabular bilevel problem from episodes, without its model.

    Give it to ``solve`` in place of a problem, with a solver that takes gradients as they come:
    ``PBRL(update=SoftmaxLogits(...))``. The best response is tracked by soft Q-learning from the
    same episodes, so the solver's oracle is not used. Every gradient of spec (M8) is unbiased given
    the tracked response (``trace`` 1): see ``returns``. Both policies' episodes share their random
    numbers, since the penalty is a small difference of two returns and is multiplied by a large
    weight.

    ``upper_value`` comes back as an interval, ``gap`` as one whose lower end is the tracked
    response's gain and whose upper end bounds V* itself (``optimality_bound``); F(x) is not known
    from samples and is ``None``.

    Arguments:
        problem: an ``AbstractSimulator``, a ``StackelbergGame`` (both players' actions are drawn),
            or a problem whose lower level is one ``MDP`` and that has ``upper_reward(x)``.
        streams: episodes side by side.
        episodes: one after the other in each stream, per batch.
        max_steps: length of a stream's buffer; by default such that one in a million is longer.
        trace: in [0, 1]; 1 is unbiased, less leans on the learned tables (see ``returns``).
        window: how many earlier visits of a pair weigh as much as those of a batch do.
        sweeps: of learning, per batch.
        explore: share of uniform actions in the episodes that the tracked response learns from.
        certificate_batches: batches of episodes for the certificate.
        confidence: of each interval.
    """

    simulator: AbstractSimulator
    streams: int
    episodes: int
    max_steps: int
    trace: float
    window: float
    sweeps: int
    explore: float
    certificate_batches: int
    confidence: float
    temperature: Scalar | None

    def __init__(
        self,
        problem: Any,
        *,
        streams: int = 64,
        episodes: int = 8,
        max_steps: int | None = None,
        trace: float = 1.0,
        window: float = 100.0,
        sweeps: int = 10,
        explore: float = 0.2,
        certificate_batches: int = 64,
        confidence: float = 0.99,
    ):
        self.simulator = as_simulator(problem)
        for name, value, least in (
            ("streams", streams, 2),
            ("episodes", episodes, 1),
            ("sweeps", sweeps, 1),
            ("certificate_batches", certificate_batches, 1),
        ):
            if value < least:
                raise ValueError(f"Sampled: {name} is {value}; give at least {least}.")
        for name, value in (("trace", trace), ("explore", explore)):
            if not 0 <= value <= 1:
                raise ValueError(f"Sampled: {name} is {value}; it must lie in [0, 1].")
        if not 0 < confidence < 1:
            raise ValueError(f"Sampled: confidence is {confidence}; it must lie in (0, 1).")
        if not window >= 0:
            raise ValueError(f"Sampled: window is {window}; give at least 0.")
        self.streams, self.episodes = streams, episodes
        self.max_steps = _length(problem, episodes) if max_steps is None else max_steps
        self.trace, self.window, self.sweeps = trace, float(window), sweeps
        self.explore, self.certificate_batches = explore, certificate_batches
        self.confidence, self.temperature = confidence, None

    def init(self, oracle, x, key):
        dynamics = self._dynamics(x)
        actions = dynamics.shape[-1]
        zero = jnp.zeros((_states(dynamics), actions), dynamics.tau.dtype)
        tables = Tables(zero, zero, zero, jnp.asarray(0), jnp.zeros_like(dynamics.tau))
        return _uniform(dynamics).reshape(dynamics.shape), tables

    def respond(self, oracle, x, policy, memory, key, *, single_loop=False):
        dynamics = self._dynamics(x)
        seen = self._rollout(dynamics, self._exploring(dynamics, memory), key)
        return self._count(self._improve(dynamics, memory, seen), seen)

    def interactive(self, x):
        return False

    def penalised_gradient(self, penalty, x, policy, weight, memory, key):
        _check_penalty(penalty)
        dynamics = self._dynamics(x)
        flat, best = _flat(policy), self.response(dynamics, memory)
        own_seen = self._rollout(dynamics, flat, key)
        best_seen = self._rollout(dynamics, best, key)
        upper = self._returns(dynamics, own_seen, flat, LEADER, memory.upper)
        own = self._returns(dynamics, own_seen, flat, FOLLOWER, memory.own)
        # Where both policies agree so do their returns, to the last bit if their tables do.
        hat = self._returns(dynamics, best_seen, best, FOLLOWER, memory.best)
        in_x = jax.tree.map(
            lambda f, high, low: -f + weight * (high - low),
            *(self._in_x(x, found) for found in (upper, hat, own)),
        )
        in_policy = -policy_gradient(dynamics, upper) - weight * policy_gradient(dynamics, own)
        gap = jnp.mean(value_samples(dynamics, hat)) - jnp.mean(value_samples(dynamics, own))
        terms = self._terms(dynamics, upper, gap)
        # Only now may the tables learn from these episodes.
        memory = self._improve(dynamics, memory, best_seen, own_seen)
        memory = self._evaluate(dynamics, memory, flat, own_seen)
        memory = self._count(memory, own_seen, best_seen)
        return terms, (in_x, in_policy.reshape(policy.shape)), memory

    def independent_gradient(self, x, policy, memory, key):
        dynamics, flat = self._dynamics(x), _flat(policy)
        seen = self._rollout(dynamics, flat, key)
        upper = self._returns(dynamics, seen, flat, LEADER, memory.upper)
        own = self._returns(dynamics, seen, flat, FOLLOWER, memory.own)
        in_x = jax.tree.map(jnp.negative, self._in_x(x, upper))
        in_policy = -policy_gradient(dynamics, own).reshape(policy.shape)
        terms = self._terms(dynamics, upper, jnp.full_like(dynamics.tau, jnp.nan))
        memory = self._count(self._evaluate(dynamics, memory, flat, seen), seen)
        return terms, (in_x, in_policy), memory

    def hypergradient(self, oracle, x, memory, key):
        _refuse("the hypergradient of f(x, pi*_x)")

    def unrolled_gradient(self, x, policy, memory, key, *, steps, step_size):
        _refuse("a gradient through the follower's learning")

    def certify(self, x, policy, memory=None, key=None):
        if memory is None or key is None:
            raise ValueError("Sampled: certify draws episodes; give it the memory and a key.")
        dynamics, flat = self._dynamics(x), _flat(policy)
        best, values = self.response(dynamics, memory), self._best_values(dynamics, memory.best)
        exploring = self._exploring(dynamics, memory)
        center = jnp.mean(jnp.stack(target_range(dynamics, values)))

        def batch(total, key):
            paired, alone = jax.random.split(key)
            own_seen = self._rollout(dynamics, flat, paired)
            own = self._returns(dynamics, own_seen, flat, FOLLOWER, memory.own)
            upper = self._returns(dynamics, own_seen, flat, LEADER, memory.upper)
            hat_seen = self._rollout(dynamics, best, paired)
            hat = self._returns(dynamics, hat_seen, best, FOLLOWER, memory.best)
            own_value = value_samples(dynamics, own)
            # With no residual a value sample is that of the table, from the same starts.
            table = eqx.tree_at(lambda r: r.residual, hat, jnp.zeros_like(hat.residual))
            room = value_samples(dynamics, table) - own_value
            gain = value_samples(dynamics, hat) - own_value
            other = self._rollout(dynamics, exploring, alone)
            seen = transitions(dynamics, other, FOLLOWER)
            total = jax.tree.map(jnp.add, total, moments(dynamics, seen, values, center))
            return total, (-value_samples(dynamics, upper), gain, room)

        empty = Moments(*(jnp.zeros_like(memory.best),) * 3)
        keys = jax.random.split(key, self.certificate_batches)
        total, samples = lax.scan(batch, empty, keys)
        upper, gain, room = (jnp.ravel(z) for z in samples)
        most = self.certificate_batches * self.streams * self.max_steps
        risk = (1 - self.confidence) / 3
        excess = dynamics.mass * optimality_bound(dynamics, total, values, center, risk, most)
        gap = gap_interval(gain, room, excess, self.confidence)
        return Certificate(mean_interval(upper, self.confidence), None, Gap(gap, None, None))

    def tempered(self, factor):
        return eqx.tree_at(lambda e: e.temperature, self, factor, is_leaf=lambda node: node is None)

    def mirror_step(self, x, policy, step):
        dynamics = self._dynamics(x)
        moved = dynamics.regularizer.mirror_step(_flat(policy), _flat(step), dynamics.available)
        return moved.reshape(policy.shape)

    def project(self, x):
        return self.simulator.project(x)

    def response(self, dynamics: AbstractDynamics, memory: Tables) -> Float[Array, "S A"]:
        """The tracked best response, over all contexts' states."""
        return dynamics.regularizer.greedy(memory.best, dynamics.tau, dynamics.available)

    def _dynamics(self, x) -> AbstractDynamics:
        dynamics = self.simulator.at(x)
        if self.temperature is None:
            return dynamics
        return eqx.tree_at(lambda d: d.tau, dynamics, self.temperature * dynamics.tau)

    def _rollout(self, dynamics, policy, key) -> Rollout:
        return rollout(
            dynamics,
            policy,
            key,
            streams=self.streams,
            episodes=self.episodes,
            max_steps=self.max_steps,
        )

    def _returns(self, dynamics, seen, policy, player: Player, table) -> Returns:
        return returns(dynamics, seen, policy, player, table, self.trace)

    def _in_x(self, x, found):
        return gradient_in_x(self.simulator, x, found)

    def _terms(self, dynamics, upper, gap):
        value = -jnp.mean(value_samples(dynamics, upper))
        # Samples never tell that a response is exact.
        return Terms(value, gap, jnp.asarray(False), None)

    def _exploring(self, dynamics, memory):
        greedy = self.response(dynamics, memory)
        return (1 - self.explore) * greedy + self.explore * _uniform(dynamics)

    def _best_values(self, dynamics, table):
        return dynamics.regularizer.conjugate(table, dynamics.tau, dynamics.available)

    def _improve(self, dynamics, memory, *seen):
        values = lambda table: self._best_values(dynamics, table)
        best = self._learn(dynamics, memory.best, values, FOLLOWER, *seen)
        return eqx.tree_at(lambda m: m.best, memory, best)

    def _evaluate(self, dynamics, memory, policy, seen):
        def under(player):
            cost = player.cost(dynamics, policy)
            return lambda table: jnp.sum(policy * table, axis=-1) - cost

        own = self._learn(dynamics, memory.own, under(FOLLOWER), FOLLOWER, seen)
        upper = self._learn(dynamics, memory.upper, under(LEADER), LEADER, seen)
        return eqx.tree_at(lambda m: (m.own, m.upper), memory, (own, upper))

    def _learn(self, dynamics, table, values, player, *seen):
        parts = [transitions(dynamics, one, player) for one in seen]
        joined = jax.tree.map(lambda *z: jnp.concatenate(z), *parts)
        return learn(
            table, joined, values, dynamics.discount, window=self.window, sweeps=self.sweeps
        )

    @staticmethod
    def _count(memory, *seen):
        steps = memory.steps + sum(one.steps for one in seen)
        cut = jnp.max(jnp.stack([memory.cut, *(one.cut for one in seen)]))
        return eqx.tree_at(lambda m: (m.steps, m.cut), memory, (steps, cut))


def _flat(policy: PyTree) -> Any:
    return policy.reshape(-1, policy.shape[-1])


def _states(dynamics):
    count = 1
    for size in dynamics.shape[:-1]:
        count *= size
    return count


def _uniform(dynamics):
    shape = (_states(dynamics), dynamics.shape[-1])
    mask = jnp.ones(shape, bool) if dynamics.available is None else dynamics.available
    mask = mask.astype(dynamics.tau.dtype)
    return mask / jnp.sum(mask, axis=-1, keepdims=True)


def _length(problem, episodes):
    discount = getattr(getattr(problem, "game", problem), "discount", None)
    if discount is None or not concrete(discount):
        raise ValueError(
            f"Sampled: {type(problem).__name__} has no number named discount to choose the length "
            "of a stream by; give max_steps."
        )
    return buffer_length(float(discount), episodes)


def _check_penalty(penalty):
    if not isinstance(penalty, NikaidoIsoda) or penalty.uniform_weight:
        raise ValueError(
            f"Sampled: the penalty is {penalty}; episodes begin at rho, and serve "
            "NikaidoIsoda(uniform_weight=0), the value penalty, alone."
        )


def _refuse(what: str) -> NoReturn:
    raise ValueError(
        f"Sampled: {what} has no unbiased estimate from the follower's episodes; use "
        "PBRL(update=SoftmaxLogits(...)) or IndependentGradient, or solve the problem itself."
    )
