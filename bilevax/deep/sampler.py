"""Learning rounds: a policy acts and improves many times in a row, on a reward of one's choice.

``CompiledSampler`` runs a whole round as one compiled program; ``HostSampler`` steps environments
that live outside JAX. The algorithms see no difference.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._types import Array, Float, Int, Key, PyTree, Scalar
from .actor_critic import AbstractLearner, Agent
from .environment import AbstractEnvironment, HostVectors, Spec
from .policy import ActorCritic
from .rollout import Rollout, collect, collect_on_host, start_actors, start_host_actors


class AbstractRate(eqx.Module):
    """The reward that a policy learns from."""

    @abc.abstractmethod
    def __call__(self, rollout: Rollout) -> Float[Array, "T N"]:
        """One number for each step."""


class TrueRate(AbstractRate):
    """The environment's own reward."""

    def __call__(self, rollout):
        return rollout.reward


class AbstractExtra(eqx.Module):
    """A loss beside the actor-critic's."""

    @abc.abstractmethod
    def __call__(self, network: ActorCritic, key: Key) -> Scalar:
        """A function of the network, differentiated; ``key`` draws a sample of its terms."""


class NoExtra(AbstractExtra):
    """Nothing is added."""

    def __call__(self, network, key):
        return jnp.zeros((), jnp.float32)


class Summary(eqx.Module):
    """What happened in a round.

    Attributes:
        episode_return, episodes: the sum of true returns of the episodes that ended, and their
            number.
        learned_reward: the mean of the reward learned from, per step.
        entropy, value_loss: means over the round's updates.
        steps: transitions taken.
    """

    episode_return: Scalar
    episodes: Int[Array, ""]
    learned_reward: Scalar
    entropy: Scalar
    value_loss: Scalar
    steps: Int[Array, ""]


class Round(NamedTuple):
    """A round's outcome; ``window`` is what was done in its last iterations, as one rollout."""

    agent: Agent
    actors: PyTree
    window: Rollout
    summary: Summary


class AbstractSampler(eqx.Module):
    """Where policies act: a vector of environments of one kind."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """T, the steps of each rollout."""

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """Observations and actions."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """The number of environments."""

    @abc.abstractmethod
    def split(self, count: int) -> tuple["AbstractSampler", "AbstractSampler"]:
        """Two that share no environment: ``count`` of them, and the rest."""

    @abc.abstractmethod
    def start(self, key: Key) -> PyTree:
        """Environments at the start of their first episodes."""

    @abc.abstractmethod
    def improve(
        self,
        learner: AbstractLearner | None,
        agent: Agent,
        actors: PyTree,
        rate: AbstractRate,
        extra: AbstractExtra,
        key: Key,
        *,
        iterations: int,
        window: int,
    ) -> Round:
        """``iterations`` times a rollout and an update; no update where ``learner`` is ``None``."""


class CompiledSampler(AbstractSampler):
    """Functional environments, stepped inside the compiled program.

    Attributes:
        env: the environment.
        envs: how many are stepped at once.
        steps: the length T of each rollout.
    """

    env: AbstractEnvironment
    envs: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    @property
    def spec(self):
        return self.env.spec

    @property
    def count(self):
        return self.envs

    @property
    def length(self):
        return self.steps

    def split(self, count):
        part = lambda count: CompiledSampler(self.env, count, self.steps)
        return part(count), part(self.envs - count)

    @eqx.filter_jit
    def start(self, key):
        return start_actors(self.env, key, self.envs)

    @eqx.filter_jit
    def improve(self, learner, agent, actors, rate, extra, key, *, iterations, window):
        def one(carry, key):
            agent, actors = carry
            act, learn = jax.random.split(key)
            actors, rollout = collect(self.env, agent.network, actors, act, self.steps)
            agent, summary = _improve_once(learner, agent, rollout, rate, extra, learn)
            return (agent, actors), (rollout, summary)

        window = min(window, iterations)
        keys = jax.random.split(key, iterations)

        # Only the last rollouts are kept: all of them would not fit into memory.
        def forget(carry, key):
            carry, (_, summary) = one(carry, key)
            return carry, summary

        carry, early = lax.scan(forget, (agent, actors), keys[: iterations - window])
        carry, (rollouts, late) = lax.scan(one, carry, keys[iterations - window :])
        agent, actors = carry
        return Round(agent, actors, joined(rollouts), _total(early, late))


class HostSampler(AbstractSampler):
    """Environments outside JAX, stepped by a loop in Python; acting and learning are compiled.

    A vector is made once and shared by everything that acts in it, one at a time: ``start`` resets
    it, and ``improve`` refuses actors whose environments have moved on without them.

    Attributes:
        make: ``make(count)`` gives a vector of that many environments.
        envs: how many are stepped at once.
        steps: the length T of each rollout.
        part: which part of a split this is.
    """

    make: HostVectors = eqx.field(static=True, converter=HostVectors.of)
    envs: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    part: str = eqx.field(static=True, default="")

    @property
    def spec(self):
        return self.make.spec or self.make.get(self.envs, self.part).spec

    @property
    def count(self):
        return self.envs

    @property
    def length(self):
        return self.steps

    def split(self, count):
        part = lambda count, name: HostSampler(self.make, count, self.steps, self.part + name)
        return part(count, "a"), part(self.envs - count, "b")

    def start(self, key):
        actors = start_host_actors(self.make.get(self.envs, self.part), key)
        self.make.place[self.envs, self.part] = actors.place  # pyright: ignore
        return actors

    def improve(self, learner, agent, actors, rate, extra, key, *, iterations, window):
        at = (self.envs, self.part)
        env = self.make.get(*at)
        if not np.array_equal(self.make.place.get(at, ()), actors.place):
            raise ValueError(
                f"HostSampler: the environments of {self.spec.name} are not where these actors "
                "left them (another run restarted them, a round was interrupted, or a checkpoint "
                "was read); go on from start(key)."
            )
        del self.make.place[at]
        rollouts, summaries = [], []
        for i, k in enumerate(jax.random.split(key, iterations)):
            act, learn = jax.random.split(k)
            actors, rollout = collect_on_host(env, agent.network, actors, act, self.steps)
            agent, summary = _improve_compiled(learner, agent, rollout, rate, extra, learn)
            summaries.append(summary)
            if i >= iterations - window:
                rollouts.append(rollout)
        self.make.place[at] = actors.place  # pyright: ignore
        # Observations stay on the host: a window of frames is large.
        rollout = joined(jax.tree.map(lambda *leaves: np.stack(leaves), *rollouts))
        late = jax.tree.map(lambda *leaves: jnp.stack(leaves), *summaries)
        return Round(agent, actors, rollout, _total(late))


def joined(rollouts: Rollout) -> Rollout:
    """Consecutive rollouts ``[K, T, N, ...]`` as one of ``[K T, N, ...]``."""
    last_value = rollouts.last_value[-1]
    flat = jax.tree.map(lambda z: z.reshape(-1, *z.shape[2:]), rollouts)
    return eqx.tree_at(lambda r: r.last_value, flat, last_value)


def _improve_once(learner, agent, rollout, rate, extra, key):
    reward = rate(rollout).astype(jnp.float32)
    zero = jnp.zeros((), jnp.float32)
    losses = dict(entropy=zero, value_loss=zero)
    if learner is not None:
        update, sample = jax.random.split(key)
        agent, losses = learner.update(
            agent,
            rollout,
            reward,
            update,
            lambda network, step: extra(network, jax.random.fold_in(sample, step)),
        )
    ended = ~jnp.isnan(rollout.finished_return)
    real = ~rollout.fake
    summary = Summary(
        episode_return=jnp.sum(jnp.where(ended, rollout.finished_return, 0)),
        episodes=jnp.sum(ended),
        learned_reward=jnp.sum(jnp.where(real, reward, 0)) / jnp.maximum(jnp.sum(real), 1),
        entropy=losses["entropy"],
        value_loss=losses["value_loss"],
        steps=jnp.sum(real),
    )
    return agent, summary


_improve_compiled = eqx.filter_jit(_improve_once)


def _total(*parts):
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return Summary(
        episode_return=jnp.sum(whole.episode_return),
        episodes=jnp.sum(whole.episodes),
        learned_reward=jnp.mean(whole.learned_reward),
        entropy=jnp.mean(whole.entropy),
        value_loss=jnp.mean(whole.value_loss),
        steps=jnp.sum(whole.steps),
    )
