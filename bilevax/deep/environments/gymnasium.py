"""Any vector environment of Gymnasium (Towers et al. 2024) with finitely many actions."""

from typing import Any

import numpy as np

from ..environment import HostStep, Spec, channels_to_rgb, frame_to_rgb
from ..sampler import HostSampler


class GymnasiumVector:
    """A ``HostEnvironment`` over a ``gymnasium.vector.VectorEnv``, whatever its automatic reset.

    ``NextStep`` spends one step on each reset, which is flagged as fake. ``SameStep`` hands over an
    episode's last observation in ``info``. Where it is ``Disabled``, episodes are restarted here.

    Actions must be ``Discrete``; observations a ``Box``, reals of which are kept in float32, or
    ``Discrete``, of which a one-hot vector is made. ``ValueError`` says what to wrap otherwise.
    """

    spec: Spec
    num_envs: int

    def __init__(self, envs: Any, *, name: str | None = None):
        self.name = type(envs.unwrapped).__name__ if name is None else name
        self._envs = envs
        self._mode = _autoreset_mode(envs, self.name)
        self._first_action = _first_action(envs.single_action_space, self.name)
        shape, dtype, self._states = _observations(envs.single_observation_space, self.name)
        self.spec = Spec(self.name, shape, dtype, int(envs.single_action_space.n))
        self.num_envs = envs.num_envs
        self._ended = np.zeros(self.num_envs, bool)

    def reset(self, seed: int) -> np.ndarray:
        """The first observations; equal seeds give equal episodes."""
        self._ended = np.zeros(self.num_envs, bool)
        return self._read(self._envs.reset(seed=seed)[0])

    def step(self, action: np.ndarray) -> HostStep:
        """One step of every environment; the reward of a fake step is 0."""
        fake = self._ended if self._mode == "NextStep" else np.zeros(self.num_envs, bool)
        raw, reward, terminated, truncated, info = self._envs.step(self._first_action + action)
        observation = final = self._read(raw)
        done = terminated | truncated
        if done.any() and self._mode == "SameStep":
            final = observation.copy()
            final[done] = self._read(np.stack([info["final_obs"][i] for i in np.flatnonzero(done)]))
        if done.any() and self._mode == "Disabled":
            observation = self._read(self._envs.reset(options={"reset_mask": done.copy()})[0])
        self._ended = done
        reward = np.where(fake, 0, reward).astype(np.float32)
        return HostStep(observation, final, reward, terminated, truncated, fake)

    def picture(self, observation: np.ndarray) -> np.ndarray:
        """Pixels as they are; a vector as a row of grey cells, since nothing is rendered."""
        if observation.dtype == np.uint8 and observation.ndim > 1:
            return frame_to_rgb(observation)
        return channels_to_rgb(observation.reshape(-1))

    def close(self) -> None:
        """Closes the vector environment."""
        self._envs.close()

    def _read(self, raw: Any) -> np.ndarray:
        """A copy in the dtype of ``spec``: an environment may write into the array it gave."""
        if self._states is not None:
            start, count = self._states
            return np.eye(count, dtype=np.float32)[np.asarray(raw) - start]
        return np.array(raw, self.spec.observation_dtype)


def gymnasium_sampler(name: str, count: int, steps: int) -> HostSampler:
    """Rollouts of ``steps`` steps in ``count`` environments of a registered name.

    ``ModuleNotFoundError`` names the extra to install where Gymnasium is missing.
    """

    def make(count: int) -> GymnasiumVector:
        try:
            import gymnasium
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{name} needs Gymnasium ({error}): install it with "
                "pip install 'bilevax[gymnasium]'.",
                name=error.name,
            ) from None
        return GymnasiumVector(gymnasium.make_vec(name, num_envs=count), name=name)

    return HostSampler(make, count, steps)


def _autoreset_mode(envs, name):
    mode = envs.metadata.get("autoreset_mode")
    mode = getattr(mode, "value", mode)
    if mode not in ("NextStep", "SameStep", "Disabled"):
        raise ValueError(
            f"{name}: metadata['autoreset_mode'] is {mode!r}, so it is not known which steps are "
            "resets; set it to the AutoresetMode that the environment follows."
        )
    return mode


def _first_action(space, name):
    from gymnasium.spaces import Discrete

    if not isinstance(space, Discrete):
        raise ValueError(
            f"{name}: its action space is {space}, but policies here choose among finitely many "
            "actions; wrap it with gymnasium.wrappers.DiscretizeAction (multidiscrete=False), or "
            "take another environment."
        )
    return int(space.start)


def _observations(space, name):
    """Shape and dtype of observations, and for ``Discrete`` ones the first state and how many."""
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete):
        return (int(space.n),), np.float32, (int(space.start), int(space.n))
    if not isinstance(space, Box):
        raise ValueError(
            f"{name}: its observation space is {type(space).__name__}, but networks here read one "
            "array; wrap it with gymnasium.wrappers.FlattenObservation."
        )
    kept = space.dtype in (np.dtype(np.uint8), np.dtype(bool))
    return space.shape, space.dtype.type if kept else np.float32, None
