"""What the algorithms share: the state, and the parts of a round.

A run is a sequence of rounds. In each, segments that the current policy has just walked are paired
and labelled, the reward model is fitted to all labels so far, and policies learn on it:

    ask -> fit -> improve

An algorithm says how it fits and how it improves; the rest is here.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._types import Array, Float, Int, Key, PyTree, Scalar
from ..actor_critic import Agent
from ..buffer import Pairs, PreferenceBuffer
from ..environment import Spec
from ..policy import actor_critic
from ..reward_model import FitMetrics, Penalty, RewardModel, RewardState
from ..reward_network import AbstractReward, MLPReward, StridedReward
from ..reward_scale import RewardNormalizer, correlation
from ..rollout import Rollout
from ..sampler import (
    AbstractExtra,
    AbstractRate,
    AbstractSampler,
    HostSampler,
    NoExtra,
    Summary,
    TrueRate,
)
from ..segments import Segments, draw_segments, valid_starts
from ..teacher import Answers
from .setup import Setup


class Learner(eqx.Module):
    """A policy at work: the agent, its environments, and what it did last.

    Attributes:
        window: the last rollouts of the last round; segments are cut from it.
    """

    agent: Agent
    actors: PyTree
    window: Rollout


class RLHFState(eqx.Module):
    """Everything needed to continue bit for bit.

    Attributes:
        policy: pi_y, the policy that is scored and asked about.
        tracker: pi_hat, which tracks the best response to the reward model; ``None`` where an
            algorithm has none.
        reward, normalizer: the reward model and the unit of its predictions.
        buffer: the labelled pairs.
        fresh: the pairs labelled in this round, drawn from the current policy.
        weight: the penalty weight.
        key: consumed by what is random.
        round, steps, labels: rounds done, transitions taken (over all policies), labels given.
    """

    policy: Learner
    tracker: Learner | None
    reward: RewardState
    normalizer: RewardNormalizer
    buffer: PreferenceBuffer
    fresh: Pairs
    weight: Scalar
    key: Key
    round: Int[Array, ""]
    steps: Int[Array, ""]
    labels: Int[Array, ""]


class AbstractAlgorithm(eqx.Module):
    """An algorithm of RL from human feedback: how to fit, and how to improve."""

    setup: eqx.AbstractVar[Setup]

    @property
    @abc.abstractmethod
    def asks(self) -> bool:
        """Whether it learns from preferences, and so asks for labels."""

    @property
    @abc.abstractmethod
    def samplers(self) -> tuple[AbstractSampler, AbstractSampler | None]:
        """Where the policy acts, and where its tracker does if there is one."""

    @abc.abstractmethod
    def init(self, key: Key) -> RLHFState:
        """The state before the first round: random networks, one window walked, no label."""

    @abc.abstractmethod
    def fit(self, state: RLHFState, key: Key, steps: int) -> tuple[RLHFState, FitMetrics]:
        """The reward model fitted to the labels so far."""

    @abc.abstractmethod
    def improve(self, state: RLHFState, key: Key) -> tuple[RLHFState, Summary]:
        """One round of learning; the summary speaks of the scored policy."""


class PredictedRate(AbstractRate):
    """The normalised reward of the model: the mean of its members, shifted and scaled."""

    model: RewardModel
    normalizer: RewardNormalizer

    def __call__(self, rollout):
        return self.normalizer.apply(self.model(rollout.observation, rollout.action))


def first_state(
    setup: Setup, key: Key, sampler: AbstractSampler, tracking: AbstractSampler | None, weight
) -> RLHFState:
    """The state before the first round, with a tracker where there is an environment for it."""
    keys = jax.random.split(key, 5)
    policy, summary = first_learner(setup, sampler, keys[0])
    steps, tracker = summary.steps, None
    if tracking is not None:
        tracker, summary = first_learner(setup, tracking, keys[1])
        steps += summary.steps
    reward = _first_reward(setup, keys[2])
    like, _ = cut(setup, policy.window, keys[3], 1)
    buffer = PreferenceBuffer.empty(setup.capacity, like, share=setup.held_out)
    return RLHFState(
        policy=policy,
        tracker=tracker,
        reward=reward,
        # The model has changed since its last predictions: their statistics are of no use.
        normalizer=RewardNormalizer.create(decay=0.0, quantile=setup.center),
        buffer=buffer,
        fresh=_no_pairs(like, max(setup.most_asked, 1)),
        weight=jnp.asarray(weight, jnp.float32),
        key=keys[4],
        round=jnp.asarray(0),
        steps=steps,
        labels=jnp.asarray(0),
    )


def first_learner(setup: Setup, sampler: AbstractSampler, key: Key) -> tuple[Learner, Summary]:
    """A random policy that has walked one window without learning."""
    network_key, start_key, walk_key = jax.random.split(key, 3)
    agent = first_agent(setup, sampler.spec, sampler.count, network_key)
    walked = sampler.improve(
        None,
        agent,
        sampler.start(start_key),
        TrueRate(),
        NoExtra(),
        walk_key,
        iterations=setup.window,
        window=setup.window,
    )
    return Learner(agent, walked.actors, walked.window), walked.summary


# Compiled as a whole: a random network is dozens of operations that would be compiled one by one.
@eqx.filter_jit
def first_agent(setup: Setup, spec: Spec, count: int, key: Key) -> Agent:
    """A random policy for that many environments."""
    return setup.learner.start(actor_critic(key, spec, setup.width, setup.depth), count)


@eqx.filter_jit
def _first_reward(setup, key):
    network = lambda k: (setup.reward_network or reward_network)(k, setup.sampler)
    single = lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf
    model = RewardModel.create(key, network, members=setup.members)
    return setup.reward_learner.init(jax.tree.map(single, model))


def reward_network(key: Key, sampler: AbstractSampler) -> AbstractReward:
    """The network for an environment: patches of large images, else an MLP.

    In grids of cells ``ConvReward`` learns from fewer labels than an MLP, but it rates a tenth as
    many steps a second, and every step of a run is rated.
    """
    spec = sampler.spec
    scale = 1 / 255 if spec.observation_dtype == jnp.uint8 else 1.0
    large = len(spec.observation_shape) == 3 and max(spec.observation_shape[:2]) > 32
    kind = StridedReward if large else MLPReward
    return kind.create(key, spec.observation_shape, spec.num_actions, scale=scale)


@eqx.filter_jit
def cut(setup: Setup, window: Rollout, key: Key, count: int) -> tuple[Segments, Array]:
    """``count`` segments of a window, and whether it held that many different ones."""
    return draw_segments(
        key,
        window.observation,
        window.action,
        window.log_prob,
        window.reward,
        _starts(setup, window),
        setup.segment,
        count,
    )


@eqx.filter_jit
def holds_segment(setup: Setup, window: Rollout) -> Array:
    """Whether some episode of a window is as long as a segment; all cut from others are void."""
    return jnp.any(_starts(setup, window))


def _starts(setup, window):
    return valid_starts(window.terminated, window.truncated, window.fake, setup.segment)


def fitted(
    setup: Setup, state: RLHFState, key: Key, steps: int, penalty: Penalty | None = None
) -> tuple[RLHFState, FitMetrics]:
    """The state with the reward model fitted to its labels, and the unit of its predictions."""
    reward, metrics = setup.reward_learner.fit(
        state.reward, state.buffer, key, steps=steps, batch=setup.batch, penalty=penalty
    )
    state = eqx.tree_at(lambda s: s.reward, state, reward)
    return eqx.tree_at(lambda s: s.normalizer, state, renewed_normalizer(setup, state)), metrics


def improved(
    setup: Setup,
    sampler: AbstractSampler,
    learner: Learner,
    rate: AbstractRate,
    key: Key,
    extra: AbstractExtra = NoExtra(),
) -> tuple[Learner, Summary]:
    """A policy after one round in its environments, learning from this reward."""
    done = sampler.improve(
        setup.learner,
        learner.agent,
        learner.actors,
        rate,
        extra,
        key,
        iterations=setup.iterations,
        window=setup.window,
    )
    return Learner(done.agent, done.actors, done.window), done.summary


def one_policy_round(
    setup: Setup, state: RLHFState, rate: AbstractRate, key: Key
) -> tuple[RLHFState, Summary]:
    """One round of an algorithm that trains the scored policy and no other."""
    policy, summary = improved(setup, setup.sampler, state.policy, rate, key)
    steps = state.steps + summary.steps
    return eqx.tree_at(lambda s: (s.policy, s.steps), state, (policy, steps)), summary


@eqx.filter_jit
def renewed_normalizer(setup: Setup, state: RLHFState) -> RewardNormalizer:
    """The normaliser after the model's predictions on the scored policy's own steps."""
    window = state.policy.window
    # Only environments outside JAX spend steps on resets.
    real = ~window.fake if isinstance(setup.sampler, HostSampler) else None
    return state.normalizer.update(state.reward.model(window.observation, window.action), real)


@eqx.filter_jit
def agreement(setup: Setup, state: RLHFState, key: Key, count: int = 256) -> Scalar:
    """The correlation of predicted with true returns over segments of the policy; a report.

    NaN where the window holds no segment, or the true returns of all are the same.
    """
    segments, _ = cut(setup, state.policy.window, key, count)
    predicted = jnp.mean(state.reward.model.sums(segments), axis=0)
    true = jnp.sum(segments.reward, axis=1)
    known = holds_segment(setup, state.policy.window) & (jnp.ptp(true) > 0)
    return jnp.where(known, correlation(predicted, true), jnp.nan)


def _no_pairs(like: Segments, count: int) -> Pairs:
    blank = jax.tree.map(lambda z: jnp.zeros((count, *z.shape[1:]), z.dtype), like)
    zeros = jnp.zeros(count, jnp.float32)
    return Pairs(blank, blank, Answers(zeros, zeros))


def mean_reward(model: RewardModel, window: Rollout) -> Float[Array, ""]:
    """The mean prediction per step of a window."""
    real = ~window.fake
    return jnp.sum(real * model(window.observation, window.action)) / jnp.sum(real)
