"""gymnax's MinAtar games (Young and Tian 2019; Lange 2022), behind the protocol.

Four games of 10 x 10 binary channels. gymnax cuts episodes at 1,000 steps (Freeway: 2,500), which
the original does not; it names this a truncation, and so do we.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..environment import AbstractEnvironment, Spec, Step

GAMES = ("Asterix", "Breakout", "Freeway", "SpaceInvaders")


class MinAtar(AbstractEnvironment):
    """One of gymnax's MinAtar games.

    Observations are ``[10, 10, channels]`` of bool; none shows the score, lives or an episode's
    end. ``ModuleNotFoundError`` names the extra to install where gymnax is missing.
    """

    game: Any = eqx.field(static=True)
    params: Any
    sticky: float = 0.1

    @property
    def spec(self):
        shape = self.game.obs_shape
        name = self.game.name.removesuffix("-MinAtar").lower()
        return Spec(f"minatar-{name}", tuple(shape), jnp.bool_, int(self.game.num_actions))

    def reset(self, key):
        observation, state = self.game.reset_env(key, self.params)
        return (state, jnp.zeros((), jnp.int32)), observation.astype(bool)

    def step(self, key, state, action):
        state, last = state
        key, sticky_key = jax.random.split(key)
        action = jnp.where(jax.random.bernoulli(sticky_key, self.sticky), last, action)
        observation, state, reward, terminated, _ = self.game.step_env(
            key, state, action, self.params
        )
        truncated = self.game.is_truncated(state, self.params)
        reward = reward.astype(jnp.float32)
        return Step((state, action), observation.astype(bool), reward, terminated, truncated)


def minatar(game: str) -> MinAtar:
    """The game of that name in ``GAMES``."""
    if game not in GAMES:
        raise ValueError(f"minatar: game is {game!r}; choose one of {', '.join(GAMES)}.")
    try:
        import gymnax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"MinAtar needs gymnax ({error}): install it with pip install 'bilevax[minatar]'."
        ) from None
    env, params = gymnax.make(f"{game}-MinAtar")
    return MinAtar(env, params)
