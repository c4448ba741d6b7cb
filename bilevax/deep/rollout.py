"""Rollouts: what a policy did in a vector of environments, time first.

``collect`` steps functional environments inside compiled code; ``collect_on_host`` steps a
``HostEnvironment`` in a loop. Both give the same ``Rollout``.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._types import Array, Bool, Float, Int, Key, PyTree
from .environment import AbstractEnvironment, HostEnvironment
from .policy import ActorCritic


class Rollout(eqx.Module):
    """Transitions ``[T, N, ...]``.

    Attributes:
        observation, action: what was seen and done.
        log_prob: log pi(a|o) of the acting policy.
        value: V(o) by the acting critic.
        reward: the environment's own reward: for teachers and for reports. An algorithm that learns
            from preferences never learns from it.
        terminated, truncated: how the episode ended with this step, if it did.
        fake: an automatic reset, no transition: weight 0 everywhere.
        bootstrap: V of the last observation of a truncated episode; 0 where not truncated.
        last_value: V of the observation after the last step, ``[N]``.
        finished_return, finished_length: of the episode that ended with this step, else NaN and 0.
    """

    observation: Any
    action: Int[Array, "T N"]
    log_prob: Float[Array, "T N"]
    value: Float[Array, "T N"]
    reward: Float[Array, "T N"]
    terminated: Bool[Array, "T N"]
    truncated: Bool[Array, "T N"]
    fake: Bool[Array, "T N"]
    bootstrap: Float[Array, "T N"]
    last_value: Float[Array, " N"]
    finished_return: Float[Array, "T N"]
    finished_length: Int[Array, "T N"]


class Actors(eqx.Module):
    """A vector of functional environments under way.

    Attributes:
        state, observation: of each environment.
        total, length: reward and steps of the episode so far, ``[N]``.
    """

    state: PyTree
    observation: Array
    total: Float[Array, " N"]
    length: Int[Array, " N"]


def start_actors(env: AbstractEnvironment, key: Key, count: int) -> Actors:
    """``count`` environments, each at the start of an episode."""
    state, observation = jax.vmap(env.reset)(jax.random.split(key, count))
    return Actors(state, observation, jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.int32))


def collect(
    env: AbstractEnvironment, policy: ActorCritic, actors: Actors, key: Key, steps: int
) -> tuple[Actors, Rollout]:
    """``steps`` steps of every environment under the policy, episodes restarted as they end."""

    def step(actors, key):
        act_key, step_key, reset_key = jax.random.split(key, 3)
        count = actors.length.shape[0]
        log_probs, value = policy(actors.observation)
        action = jax.random.categorical(act_key, log_probs)
        result = jax.vmap(env.step)(jax.random.split(step_key, count), actors.state, action)
        done = result.terminated | result.truncated
        total, length = actors.total + result.reward, actors.length + 1
        fresh, first = jax.vmap(env.reset)(jax.random.split(reset_key, count))
        new = Actors(
            state=_where(done, fresh, result.state),
            observation=_where(done, first, result.observation),
            total=jnp.where(done, 0, total),
            length=jnp.where(done, 0, length),
        )
        cut = result.truncated & ~result.terminated
        record = dict(
            observation=actors.observation,
            action=action,
            log_prob=jnp.take_along_axis(log_probs, action[:, None], 1)[:, 0],
            value=value,
            reward=result.reward,
            terminated=result.terminated,
            truncated=cut,
            fake=jnp.zeros_like(done),
            bootstrap=_value_where(cut, policy, result.observation),
            finished_return=jnp.where(done, total, jnp.nan),
            finished_length=jnp.where(done, length, 0),
        )
        return new, record

    actors, records = lax.scan(step, actors, jax.random.split(key, steps))
    _, last_value = policy(actors.observation)
    return actors, Rollout(**records, last_value=last_value)


def _value_where(cut, policy, observation):
    """V where an episode was cut short. That is rare, so it is computed only when it happens."""
    return lax.cond(
        jnp.any(cut),
        lambda: jnp.where(cut, policy(observation)[1], 0),
        lambda: jnp.zeros(cut.shape, jnp.float32),
    )


def _where(flag: Bool[Array, " N"], yes: Any, no: Any):
    def one(a, b):
        return jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, yes, no)


class HostActors(eqx.Module):
    """A vector of host environments under way; the environments themselves hold their state.

    Attributes:
        observation: of each environment.
        total, length: reward and steps of the episode so far, ``[N]``.
        place: the seed of the last reset and the steps since, which tell where the environments
            must stand for these to be theirs.
    """

    observation: Any
    total: Float[Array | np.ndarray, " N"]
    length: Int[Array | np.ndarray, " N"]
    place: Int[Array | np.ndarray, "2"]


def start_host_actors(env: HostEnvironment, key: Key) -> HostActors:
    """Every environment at the start of an episode, seeded by the key."""
    seed = int(jax.random.randint(key, (), 0, 2**30))
    count = env.num_envs
    return HostActors(
        observation=env.reset(seed),
        total=np.zeros(count, np.float32),
        length=np.zeros(count, np.int32),
        place=np.array([seed, 0], np.int32),
    )


def collect_on_host(
    env: HostEnvironment, policy: ActorCritic, actors: HostActors, key: Key, steps: int
) -> tuple[HostActors, Rollout]:
    """As ``collect``, for environments outside JAX. Observations stay in NumPy."""
    records, actors = [], jax.tree.map(np.asarray, actors)
    for k in jax.random.split(key, steps):
        action, log_prob, value = map(np.asarray, _act(policy, actors.observation, k))
        result = env.step(action)
        done = result.terminated | result.truncated
        cut = result.truncated & ~result.terminated
        reward = np.asarray(result.reward, np.float32)
        total = actors.total + reward
        length = actors.length + ~result.fake
        bootstrap = np.zeros_like(value)
        if cut.any():
            bootstrap = np.where(cut, _values(policy, result.final_observation), 0)
        records.append(
            dict(
                observation=actors.observation,
                action=action,
                log_prob=log_prob,
                value=value,
                reward=reward,
                terminated=result.terminated,
                truncated=cut,
                fake=result.fake,
                bootstrap=bootstrap.astype(np.float32),
                finished_return=np.where(done, total, np.nan).astype(np.float32),
                finished_length=np.where(done, length, 0).astype(np.int32),
            )
        )
        actors = HostActors(
            result.observation,
            np.where(done, 0, total).astype(np.float32),
            np.where(done, 0, length).astype(np.int32),
            actors.place + np.array([0, 1], np.int32),
        )
    stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
    observation = stacked.pop("observation")
    small = {name: jnp.asarray(value) for name, value in stacked.items()}
    last_value = _values(policy, actors.observation)
    return actors, Rollout(observation=observation, **small, last_value=last_value)


@eqx.filter_jit
def _act(policy, observation, key):
    log_probs, value = policy(observation)
    action = jax.random.categorical(key, log_probs)
    return action, jnp.take_along_axis(log_probs, action[:, None], 1)[:, 0], value


@eqx.filter_jit
def _values(policy, observation):
    return policy(observation)[1]
