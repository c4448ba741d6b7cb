"""One small setup for all tests of whole runs: what is compiled once serves them all."""

from typing import Any

import optax

from bilevax.deep.actor_critic import A2C
from bilevax.deep.environments.moving_dot import MovingDot
from bilevax.deep.presets import Preset, flat_reward
from bilevax.deep.rlhf import PBRL
from bilevax.deep.sampler import CompiledSampler

# Equal shares: both policies run the same programs.
PRESET = Preset(
    lambda count: CompiledSampler(MovingDot(size=4, horizon=6), count, 4),
    A2C(optax.adam(1e-2)),
    envs=4,
    fields=dict(
        steps=96,
        rounds=3,
        labels=6,
        segment=3,
        window=2,
        candidates=1,
        members=2,
        width=8,
        depth=1,
        first_fit_steps=3,
        fit_steps=3,
        batch=4,
        capacity=12,
        reward_network=flat_reward,
    ),
    pbrl=lambda rounds: dict(tracker_share=0.5),
    episodes=4,
)
SETUP = PRESET.setup()
ALGORITHM: Any = PBRL(SETUP, tracker_share=0.5)
