"""Environments behind one small protocol: pure functions in JAX, or a vector on the host.

A functional environment is stepped inside compiled loops, so that a whole run is one program. What
lives outside JAX (Gymnasium, Atari) is a ``HostEnvironment``: a vector of environments that a loop
in Python steps. ``rollout.py`` turns both into the same ``Rollout``.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import numpy as np

from .._types import Array, Bool, Int, Key, PyTree, Scalar


class Spec(eqx.Module):
    """What an agent has to know of an environment.

    Attributes:
        name: as on the command line.
        observation_shape: of one observation.
        observation_dtype: what observations are stored in; ``bool`` or ``uint8`` saves memory.
        num_actions: actions are 0 to ``num_actions - 1``.
        hidden: what the reward model must not see, for the record (score, lives); empty where an
            observation holds nothing of the kind.
    """

    name: str = eqx.field(static=True)
    observation_shape: tuple[int, ...] = eqx.field(static=True)
    observation_dtype: Any = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)
    hidden: str = eqx.field(static=True, default="")


class Step(NamedTuple):
    """What one action brought about, before any reset.

    ``terminated`` ends the episode for good: the value after it is 0. ``truncated`` cuts it short
    for reasons that the agent cannot see, such as a time limit: the value after it is that of
    ``observation``.
    """

    state: PyTree
    observation: Array
    reward: Scalar
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


class AbstractEnvironment(eqx.Module):
    """A functional environment: pure, one instance, no automatic reset."""

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """Observations and actions."""

    @abc.abstractmethod
    def reset(self, key: Key) -> tuple[PyTree, Array]:
        """The first state and its observation."""

    @abc.abstractmethod
    def step(self, key: Key, state: PyTree, action: Int[Array, ""]) -> Step:
        """The state after an action."""

    def picture(self, observation: np.ndarray) -> np.ndarray:
        """An observation as a picture, ``[height, width, 3]`` in uint8."""
        return channels_to_rgb(observation)


@runtime_checkable
class HostEnvironment(Protocol):
    """A vector of environments outside JAX, with automatic reset."""

    spec: Spec
    num_envs: int

    def reset(self, seed: int) -> np.ndarray:
        """The first observations ``[N, *obs]``."""
        ...

    def step(self, action: np.ndarray) -> "HostStep":
        """One step of every environment."""
        ...

    def picture(self, observation: np.ndarray) -> np.ndarray:
        """An observation as a picture, ``[height, width, 3]`` in uint8."""
        ...

    def close(self) -> None:
        """Frees what the environments hold."""
        ...


class HostStep(NamedTuple):
    """One step of a vector, arrays ``[N, ...]``.

    Attributes:
        observation: what to act on next.
        final_observation: where an episode ended in this step, its last observation; else
            ``observation``.
        reward, terminated, truncated: as in ``Step``.
        fake: whether the step was an automatic reset: its action was ignored and it is no
            transition of the environment. No update and no segment may use it.
    """

    observation: np.ndarray
    final_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    fake: np.ndarray


class HostVectors:
    """Vectors of host environments, each made when first used and kept for every later run.

    Attributes:
        place: where each vector stands: the seed that it was last reset with and the steps since.
            Absent before a reset, and while steps are being taken.
    """

    def __init__(self, make: Callable[[int], HostEnvironment]):
        self._make = make
        self._made: dict[tuple[int, str], HostEnvironment] = {}
        self.place: dict[tuple[int, str], np.ndarray] = {}

    @classmethod
    def of(cls, make: "Callable[[int], HostEnvironment] | HostVectors") -> "HostVectors":
        """The vectors that ``make(count)`` gives; or these, if they are there already."""
        return make if isinstance(make, HostVectors) else cls(make)

    def get(self, count: int, part: str) -> HostEnvironment:
        """The vector of ``count`` environments for this part of a split."""
        if (count, part) not in self._made:
            self._made[count, part] = self._make(count)
        return self._made[count, part]

    @property
    def spec(self) -> Spec | None:
        """What every vector has in common, once there is one."""
        return next((env.spec for env in self._made.values()), None)

    def close(self) -> None:
        """Closes every vector."""
        for env in self._made.values():
            env.close()
        self._made.clear()
        self.place.clear()


# Colours that stay apart for people with colour-blind eyes (Okabe and Ito 2008).
_COLOURS = np.array(
    [
        [86, 180, 233],
        [230, 159, 0],
        [0, 158, 115],
        [240, 228, 66],
        [213, 94, 0],
        [204, 121, 167],
        [0, 114, 178],
        [220, 220, 220],
    ],
    np.uint8,
)


def channels_to_rgb(observation: np.ndarray, scale: int = 12) -> np.ndarray:
    """Binary channels ``[height, width, channels]``, each in its own colour on black.

    A vector is shown as one row of grey cells.
    """
    observation = np.asarray(observation)
    if observation.ndim == 1:
        low, high = float(observation.min()), float(observation.max())
        grey = (observation - low) / (high - low if high > low else 1.0)
        picture = np.repeat((grey[None, :, None] * 255).astype(np.uint8), 3, axis=2)
    else:
        picture = np.zeros((*observation.shape[:2], 3), np.uint8)
        for channel in range(observation.shape[2]):
            picture[observation[..., channel] > 0] = _COLOURS[channel % len(_COLOURS)]
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def frame_to_rgb(observation: np.ndarray, scale: int = 3) -> np.ndarray:
    """Pixels ``[height, width]`` or ``[height, width, channels]`` of uint8, enlarged.

    Three channels are colours; of any other number, frames in a row, the last is shown in grey.
    """
    picture = np.asarray(observation)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[2] != 3:
        picture = np.repeat(picture[..., -1:], 3, axis=2)
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)
