"""What a policy earns: the true return of whole episodes, apart from any learning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._types import Float, Key
from ..policy import ActorCritic
from ..rollout import start_actors
from ..sampler import AbstractSampler, CompiledSampler, HostSampler


def evaluate(
    sampler: AbstractSampler,
    network: ActorCritic,
    key: Key,
    *,
    episodes: int = 64,
    max_steps: int = 100_000,
) -> Float[np.ndarray, " E"]:
    """The true return of the first episode of each of ``episodes`` fresh environments.

    One episode from each, however long it takes: the episodes that end first would be the short
    ones. Actions are drawn from the policy, as they were while it learned. An episode ends where
    the environment ends or cuts it; one still under way after ``max_steps`` counts as it stands.
    """
    for name, value in (("episodes", episodes), ("max_steps", max_steps)):
        if value < 1:
            raise ValueError(f"evaluate: {name} is {value}; give at least 1.")
    if isinstance(sampler, CompiledSampler):
        returns = _compiled(sampler.env, network, key, episodes, max_steps)
    elif isinstance(sampler, HostSampler):
        returns = _on_host(sampler, network, key, episodes, max_steps)
    else:
        raise TypeError(f"evaluate: no way to step a {type(sampler).__name__}.")
    return np.asarray(returns, np.float32)


@eqx.filter_jit
def _compiled(env, network, key, episodes, max_steps):
    start_key, walk_key = jax.random.split(key)
    actors = start_actors(env, start_key, episodes)

    def step(carry):
        time, state, observation, total, ended = carry
        act_key, step_key = jax.random.split(jax.random.fold_in(walk_key, time))
        action = jax.random.categorical(act_key, network(observation)[0])
        result = jax.vmap(env.step)(jax.random.split(step_key, episodes), state, action)
        total = total + jnp.where(ended, 0, result.reward)
        # A finished environment is stepped on, for the others' sake, and counts no more.
        ended = ended | result.terminated | result.truncated
        return time + 1, result.state, result.observation, total, ended

    under_way = lambda carry: (carry[0] < max_steps) & ~jnp.all(carry[4])
    carry = (0, actors.state, actors.observation, actors.total, jnp.zeros(episodes, bool))
    return lax.while_loop(under_way, step, carry)[3]


def _on_host(sampler, network, key, episodes, max_steps):
    start_key, walk_key = jax.random.split(key)
    env = sampler.make.get(episodes, "evaluation")
    observation = env.reset(int(jax.random.randint(start_key, (), 0, 2**31 - 1)))
    total, ended = np.zeros(episodes, np.float32), np.zeros(episodes, bool)
    for time in range(max_steps):
        result = env.step(np.asarray(_act(network, observation, walk_key, np.uint32(time))))
        total += np.where(ended | result.fake, 0, result.reward)
        ended |= result.terminated | result.truncated
        observation = result.observation
        if ended.all():
            break
    return total


@eqx.filter_jit
def _act(network, observation, key, time):
    return jax.random.categorical(jax.random.fold_in(key, time), network(observation)[0])
