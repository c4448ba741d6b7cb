"""The protocol that solvers consume, from samples alone."""

from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..._estimator import AbstractEstimator, Certificate, Terms
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
    widened,
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
from ._learner import Learned, learn, transitions
from ._rollout import Rollout, buffer_length, rollout
from ._simulator import AbstractDynamics, AbstractSimulator, as_simulator

_MOST_CUT = 1e-3
"""The share of streams cut off by the buffer's end above which a return is not known."""


class Tables(eqx.Module):
    """What ``Sampled`` has learned, and what it took.

    Attributes:
        best: Q of the best response; its greedy policy is the tracked response.
        upper: the leader's Q under the follower's current policy.
        steps: environment steps taken so far.
        cut: the largest share of streams that the buffer's end cut off; 0 unless it is too short.
    """

    best: Learned
    upper: Learned
    steps: Int[Array, ""]
    cut: Scalar


class Sampled(AbstractEstimator):
    """Values and gradients of a tabular bilevel problem from episodes, without its model.

    Give it to ``solve`` in place of a problem, with a solver that takes gradients as they come:
    ``PBRL(update=SoftmaxLogits(...))``. The best response is tracked by soft Q-learning from the
    same episodes, so the solver's oracle is not used. Given that response every gradient of spec
    (M8) is unbiased (``trace`` 1): see ``returns``. Half of the episodes follow the policy, half
    the tracked response, and both halves serve both returns: their difference, which a
    large weight multiplies, then is as little noisy as the policies differ little.

    ``upper_value`` comes back as an interval, ``gap`` as one whose lower end is the tracked
    response's gain and whose upper end bounds V* itself (``optimality_bound``); F(x) is not known
    from samples and is ``None``.

    Gradients in x are those through rewards and through the log-probabilities of starts and steps.
    x must move neither tau nor the discount: what that does to a value is left out.

    Arguments:
        problem: an ``AbstractSimulator``, a ``StackelbergGame`` (both players' actions are drawn),
            or a problem whose lower level is one ``MDP`` and that has ``upper_reward(x)``, the
            leader's reward per state and action, of the policy's shape; f is minus its return.
        streams: episodes side by side, an even number.
        episodes: one after the other in each stream, per batch.
        max_steps: length of a stream's buffer; by default such that one in a million is longer.
            Where it cuts more than one stream in a thousand the certificate's intervals are
            infinite.
        trace: in [0, 1]; 1 is unbiased, less leans on the learned tables (see ``returns``).
        window: the most earlier visits of a pair that learning remembers. The tracked response must
            keep up with x: its lag is an error in the gradient, multiplied by the penalty weight.
        decay: in [0, 1], of the learning rate in the visits of a pair (see ``learn``): 1 where
            states mix within a few steps, .7 where a reward is far away.
        sweeps: of learning, per batch; few where states mix, more where a reward is far away.
        explore: share of uniform actions in the episodes that the tracked response learns from.
        certificate_batches: batches of episodes for the certificate.
        confidence: of each interval.
    """

    simulator: AbstractSimulator
    streams: int = eqx.field(static=True)
    episodes: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    trace: float = eqx.field(static=True)
    window: float = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    sweeps: int = eqx.field(static=True)
    explore: float = eqx.field(static=True)
    certificate_batches: int = eqx.field(static=True)
    confidence: float = eqx.field(static=True)
    temperature: Scalar | None

    def __init__(
        self,
        problem: Any,
        *,
        streams: int = 64,
        episodes: int = 8,
        max_steps: int | None = None,
        trace: float = 1.0,
        window: float = 500.0,
        decay: float = 0.8,
        sweeps: int = 3,
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
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"Sampled: max_steps is {max_steps}; give at least 1.")
        if streams * certificate_batches < 4:
            raise ValueError(
                f"Sampled: streams is {streams} and certificate_batches {certificate_batches}: two "
                "streams give one sample, which has no spread; give more of either."
            )
        if streams % 2:
            raise ValueError(
                f"Sampled: streams is {streams}; two policies share them: give an even number."
            )
        for name, value in (("trace", trace), ("decay", decay), ("explore", explore)):
            if not 0 <= value <= 1:
                raise ValueError(f"Sampled: {name} is {value}; it must lie in [0, 1].")
        if not 0 < confidence < 1:
            raise ValueError(f"Sampled: confidence is {confidence}; it must lie in (0, 1).")
        if not window >= 0:
            raise ValueError(f"Sampled: window is {window}; give at least 0.")
        self.streams, self.episodes = streams, episodes
        self.max_steps = _length(problem, episodes) if max_steps is None else max_steps
        self.trace, self.window, self.decay, self.sweeps = trace, float(window), decay, sweeps
        self.explore, self.certificate_batches = explore, certificate_batches
        self.confidence, self.temperature = confidence, None

    def init(self, oracle, x, key):
        dynamics = self._dynamics(x)
        actions = dynamics.shape[-1]
        zero = jnp.zeros((_states(dynamics), actions), dynamics.tau.dtype)
        none = Learned(zero, zero)
        tables = Tables(none, none, jnp.asarray(0), jnp.zeros_like(dynamics.tau))
        return _uniform(dynamics).reshape(dynamics.shape), tables

    def respond(self, oracle, x, policy, memory, key, *, single_loop=False):
        dynamics = self._dynamics(x)
        seen = self._rollout(dynamics, self._exploring(dynamics, memory)[None], key)
        return self._learn(dynamics, memory, None, seen)

    def interactive(self, x):
        return False

    def penalised_gradient(self, penalty, x, policy, weight, memory, key):
        _check_penalty(penalty)
        dynamics = self._dynamics(x)
        policies = jnp.stack([_flat(policy), self.response(dynamics, memory)])
        seen = self._rollout(dynamics, policies, key)
        upper = self._returns(dynamics, seen, LEADER, memory.upper)
        # One table for both returns: what they share then cancels in their difference.
        own = self._returns(dynamics, seen, FOLLOWER, memory.best)
        best = self._returns(dynamics, seen, FOLLOWER, memory.best, policy=1)
        in_x = jax.tree.map(
            lambda f, high, low: -f + weight * (high - low),
            *(gradient_in_x(self.simulator, x, found) for found in (upper, best, own)),
        )
        in_policy = -policy_gradient(dynamics, upper) - weight * policy_gradient(dynamics, own)
        gap = jnp.mean(value_samples(dynamics, best) - value_samples(dynamics, own))
        terms = self._terms(dynamics, upper, gap)
        # Only now may the tables learn from these episodes.
        memory = self._learn(dynamics, memory, policies[0], seen)
        return terms, (in_x, in_policy.reshape(policy.shape)), memory

    def independent_gradient(self, x, policy, memory, key):
        dynamics, flat = self._dynamics(x), _flat(policy)
        seen = self._rollout(dynamics, flat[None], key)
        upper = self._returns(dynamics, seen, LEADER, memory.upper)
        own = self._returns(dynamics, seen, FOLLOWER, memory.best)
        in_x = jax.tree.map(jnp.negative, gradient_in_x(self.simulator, x, upper))
        in_policy = -policy_gradient(dynamics, own).reshape(policy.shape)
        terms = self._terms(dynamics, upper, jnp.full_like(dynamics.tau, jnp.nan))
        return terms, (in_x, in_policy), self._learn(dynamics, memory, flat, seen)

    def hypergradient(self, oracle, x, memory, key):
        _refuse("the hypergradient of f(x, pi*_x)")

    def best_response_value(self, oracle, x, memory, key):
        _refuse("F(x) = f(x, pi*_x)")

    def response_hypergradient(self, x, memory, measure, key, *, rollouts, adjoint):
        _refuse("the gradient through the exact best response")

    def unrolled_gradient(self, x, policy, memory, key, *, steps, step_size):
        _refuse("a gradient through the follower's learning")

    def certify(self, x, policy, memory=None, key=None):
        if memory is None or key is None:
            raise ValueError("Sampled: certify draws episodes; give it the memory and a key.")
        dynamics = self._dynamics(x)
        best, values = self.response(dynamics, memory), self._best_values(dynamics, memory)
        policies = jnp.stack([_flat(policy), best])
        exploring = self._exploring(dynamics, memory)[None]
        center = jnp.mean(jnp.stack(target_range(dynamics, values)))

        def batch(total, key):
            paired, alone = jax.random.split(key)
            seen = self._rollout(dynamics, policies, paired)
            # No trace below 1: an interval must not lean on a table.
            upper = returns(dynamics, seen, LEADER, memory.upper.table)
            own = returns(dynamics, seen, FOLLOWER, memory.best.table)
            hat = returns(dynamics, seen, FOLLOWER, memory.best.table, policy=1)
            # Without residual a value sample is that of the table, from the same starts.
            table = eqx.tree_at(lambda r: r.residual, hat, jnp.zeros_like(hat.residual))
            value = value_samples(dynamics, own)
            gain, room = (value_samples(dynamics, high) - value for high in (hat, table))
            other = transitions(dynamics, self._rollout(dynamics, exploring, alone), FOLLOWER)
            total = jax.tree.map(jnp.add, total, moments(dynamics, other, values, center))
            return total, (-value_samples(dynamics, upper), gain, room, seen.cut)

        empty = Moments(*(jnp.zeros_like(memory.best.table),) * 3)
        keys = jax.random.split(key, self.certificate_batches)
        total, samples = lax.scan(batch, empty, keys)
        upper, gain, room, cut = (jnp.ravel(z) for z in samples)
        most = self.certificate_batches * self.streams * self.max_steps
        risk = (1 - self.confidence) / 3
        excess = dynamics.mass * optimality_bound(dynamics, total, values, center, risk, most)
        gap = gap_interval(gain, room, excess, self.confidence)
        value = mean_interval(upper, self.confidence)
        # Of an episode that was cut off what it would still have earned is unknown.
        unknown = jnp.mean(cut) > _MOST_CUT
        gap, value = (widened(interval, unknown) for interval in (gap, value))
        return Certificate(value, None, Gap(gap, None, None))

    def tempered(self, factor):
        factor = factor if self.temperature is None else self.temperature * factor
        return eqx.tree_at(lambda e: e.temperature, self, factor, is_leaf=lambda node: node is None)

    def mirror_step(self, x, policy, step):
        dynamics = self._dynamics(x)
        moved = dynamics.regularizer.mirror_step(_flat(policy), _flat(step), dynamics.available)
        return moved.reshape(policy.shape)

    def project(self, x):
        return self.simulator.project(x)

    def response(self, dynamics: AbstractDynamics, memory: Tables) -> Float[Array, "S A"]:
        """The tracked best response, over all contexts' states."""
        return dynamics.regularizer.greedy(memory.best.table, dynamics.tau, dynamics.available)

    def _dynamics(self, x) -> AbstractDynamics:
        dynamics = self.simulator.at(x)
        if self.temperature is None:
            return dynamics
        return eqx.tree_at(lambda d: d.tau, dynamics, self.temperature * dynamics.tau)

    def _rollout(self, dynamics, policies, key) -> Rollout:
        return rollout(
            dynamics,
            policies,
            key,
            streams=self.streams,
            episodes=self.episodes,
            max_steps=self.max_steps,
        )

    def _returns(self, dynamics, seen, player: Player, learned: Learned, policy=0) -> Returns:
        return returns(dynamics, seen, player, learned.table, policy=policy, trace=self.trace)

    def _terms(self, dynamics, upper, gap):
        value = -jnp.mean(value_samples(dynamics, upper))
        # Samples never tell that a response is exact.
        return Terms(value, gap, jnp.asarray(False), None)

    def _exploring(self, dynamics, memory):
        greedy = self.response(dynamics, memory)
        return (1 - self.explore) * greedy + self.explore * _uniform(dynamics)

    def _best_values(self, dynamics, memory):
        return dynamics.regularizer.conjugate(memory.best.table, dynamics.tau, dynamics.available)

    def _learn(self, dynamics, memory, policy, seen) -> Tables:
        """The tables renewed: ``best`` from any episodes, ``upper`` where a policy is given."""
        learn_from = lambda learned, player, values: learn(
            learned,
            transitions(dynamics, seen, player),
            values,
            dynamics.discount,
            window=self.window,
            decay=self.decay,
            sweeps=self.sweeps,
        )
        soft = lambda q: dynamics.regularizer.conjugate(q, dynamics.tau, dynamics.available)
        best, upper = learn_from(memory.best, FOLLOWER, soft), memory.upper
        if policy is not None:
            upper = learn_from(upper, LEADER, lambda q: jnp.sum(policy * q, axis=-1))
        steps, cut = memory.steps + seen.steps, jnp.maximum(memory.cut, seen.cut)
        return Tables(best, upper, steps, cut)


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
