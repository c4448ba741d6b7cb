"""Learning from preferences in an environment of one's own: a lamp that should stay lit.

The agent never sees a reward. A teacher compares pairs of short clips of what it does; PBRL learns
a reward model from the answers and the policy together.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from bilevax.deep import PBRL, AbstractEnvironment, Spec, Step, own_preset, run_rlhf


class Lamp(AbstractEnvironment):
    """Three buttons, of which one lights the lamp; which one is shown and changes every step."""

    horizon: int = eqx.field(static=True, default=20)

    @property
    def spec(self):
        return Spec("lamp", (3,), jnp.bool_, 3)

    def reset(self, key):
        button = jax.random.randint(key, (), 0, 3)
        return (button, jnp.zeros((), int)), jnp.arange(3) == button

    def step(self, key, state, action):
        button, time = state
        lit = (action == button).astype(jnp.float32)
        shown = jax.random.randint(key, (), 0, 3)
        over = time + 1 >= self.horizon
        return Step((shown, time + 1), jnp.arange(3) == shown, lit, jnp.zeros((), bool), over)


setup = own_preset(Lamp()).setup(steps=40_000, labels=100, rounds=8, segment=5)
run = run_rlhf(PBRL(setup), seeds=1)
print(f"lit in {run.true_return:.1f} of 20 steps after {run.seeds[0].labels} answers")
assert run.true_return > 15
