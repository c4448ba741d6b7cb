"""An environment of one's own, learned from preferences: a boat to be kept near the middle."""

import jax
import jax.numpy as jnp

from bilevax import deep


class Boat(deep.AbstractEnvironment):
    """A boat drifts on nine cells; steering left, not at all or right, it should stay near cell 4.

    Each step within one cell of the middle earns 1; an episode is cut after 30 steps.
    """

    @property
    def spec(self):
        return deep.Spec("boat", (9,), jnp.float32, num_actions=3)

    def reset(self, key):
        cell = jax.random.randint(key, (), 0, 9)
        return (cell, jnp.zeros((), jnp.int32)), jax.nn.one_hot(cell, 9)

    def step(self, key, state, action):
        cell, time = state
        wind = jax.random.choice(key, jnp.array([-1, 0, 0, 1]))
        cell = jnp.clip(cell + action - 1 + wind, 0, 8)
        reward = (jnp.abs(cell - 4) <= 1).astype(jnp.float32)
        cut = time + 1 >= 30
        return deep.Step(
            (cell, time + 1), jax.nn.one_hot(cell, 9), reward, jnp.zeros((), bool), cut
        )


preset = deep.own_preset(Boat())
setup = preset.setup(steps=60_000, labels=100, rounds=10, segment=10)
result = deep.run_rlhf(preset.algorithm("pbrl", setup), seeds=2)
for seed in result.seeds:
    print(f"seed {seed.seed}: {seed.true_return:.1f} of 30 with {seed.labels} labels")
assert min(seed.true_return for seed in result.seeds) > 24
