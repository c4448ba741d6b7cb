"""Atari games by ale-py's vector environment (Bellemare et al. 2013), preprocessed as usual.

Frames of 84 x 84 grey pixels, one in four and the maximum of its last two, the last four of them
along the last axis: ``[84, 84, 4]`` of uint8. Episodes end with the game, not with a life, and are
cut after 108,000 frames (half an hour) unless asked otherwise. Up to 30 frames of no operation come
first, and the button that starts a game is pressed. Rewards are the game's own, never clipped.

Sticky actions (Machado et al. 2018): with probability 0.25 a frame repeats the last action, as in
Gymnasium's games of version 5. Christiano et al. (2017) had none: ``sticky=0`` for that.
"""

import difflib
from typing import NamedTuple

import numpy as np

from ..environment import HostStep, frame_to_rgb
from ..sampler import HostSampler
from .gymnasium import GymnasiumVector


class Rectangle(NamedTuple):
    """Rows ``top`` to ``bottom - 1`` and columns ``left`` to ``right - 1`` of a frame."""

    top: int
    bottom: int
    left: int = 0
    right: int = 84


class Blank(NamedTuple):
    """What would give a game's reward away, and where it is shown."""

    what: str
    where: tuple[Rectangle, ...]


# Found by following which pixels change along 2,800 frames of random play. The games are those of
# Christiano et al. (2017), who hid the score everywhere, the ships in BeamRider and the speedometer
# in Enduro. What a player acts on stays: Seaquest's oxygen, BeamRider's torpedoes.
HIDDEN = {
    "beam_rider": Blank(
        "score, sector, enemies left, lives",
        (Rectangle(0, 12), Rectangle(12, 17, 0, 24), Rectangle(73, 77)),
    ),
    "breakout": Blank("score, lives", (Rectangle(0, 7),)),
    "enduro": Blank("distance, day, cars to pass", (Rectangle(63, 77),)),
    "pong": Blank("score", (Rectangle(0, 9),)),
    "qbert": Blank("score, lives", (Rectangle(0, 12, 0, 34),)),
    "seaquest": Blank("score, lives", (Rectangle(0, 13),)),
    "space_invaders": Blank("score", (Rectangle(0, 9),)),
}


class Atari:
    """A ``HostEnvironment`` of one game, its automatic resets flagged as fake steps.

    ``spec.name`` is ``atari-beam-rider`` for ``beam-rider``. What ``blank`` covers is black in
    every observation: the policy sees as little of it as the reward model does. Without ``blank``
    it is what ``HIDDEN`` says of the game.
    """

    def __init__(
        self,
        game: str,
        count: int,
        *,
        sticky: float = 0.25,
        blank: Blank | None = None,
        life_ends_episode: bool = False,
        max_frames: int = 108_000,
        threads: int = 0,
    ):
        rom = game.replace("-", "_")
        vector_class = _vector_class(rom)
        if not 0 <= sticky <= 1:
            raise ValueError(f"Atari: sticky is {sticky}; give a probability in [0, 1].")
        blank = HIDDEN.get(rom) if blank is None else blank
        if blank is None:
            raise ValueError(
                f"Atari: where {game} shows its score is not known; give blank=Blank(what, where), "
                "with where=() to show all of it to the reward model."
            )
        self._where = blank.where
        envs = vector_class(
            rom,
            count,
            repeat_action_probability=sticky,
            episodic_life=life_ends_episode,
            max_num_frames_per_episode=max_frames,
            reward_clipping=False,
            num_threads=threads,
        )
        self._vector = GymnasiumVector(envs, name="atari-" + rom.replace("_", "-"))
        spec = self._vector.spec
        frames, *size = spec.observation_shape
        self.spec = type(spec)(
            spec.name, (*size, frames), spec.observation_dtype, spec.num_actions, blank.what
        )
        self.num_envs = count

    def reset(self, seed: int) -> np.ndarray:
        """The first observations; equal seeds give equal episodes, on any number of threads."""
        return self._show(self._vector.reset(seed % 2**30))  # ale-py's seeds have 32 bits

    def step(self, action: np.ndarray) -> HostStep:
        """Four frames of every game."""
        step = self._vector.step(action)
        observation = self._show(step.observation)
        return step._replace(observation=observation, final_observation=observation)

    def picture(self, observation: np.ndarray) -> np.ndarray:
        """The newest frame, enlarged."""
        return frame_to_rgb(observation)

    def close(self) -> None:
        """Frees the games."""
        self._vector.close()

    def _show(self, frames):
        # Frame by frame: four times as fast as a transposition.
        observation = np.stack(list(frames.swapaxes(0, 1)), axis=-1)
        for top, bottom, left, right in self._where:
            observation[:, top:bottom, left:right] = 0
        return observation


def atari_sampler(game: str, count: int, steps: int, *, sticky: float = 0.25) -> HostSampler:
    """Rollouts of ``steps`` steps, of four frames each, in ``count`` games of that name."""
    return HostSampler(lambda count: Atari(game, count, sticky=sticky), count, steps)


def _vector_class(rom):
    """ale-py's vector environment, if it is installed and knows the game."""
    try:
        from ale_py import roms
        from ale_py.vector_env import AtariVectorEnv
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Atari needs ale-py and Gymnasium ({error}): install them with "
            "pip install 'bilevax[atari]'.",
            name=error.name,
        ) from None
    known = roms.get_all_rom_ids()
    if rom not in known:
        near = difflib.get_close_matches(rom, known, 3) or sorted(HIDDEN)
        names = ", ".join(name.replace("_", "-") for name in near)
        raise ValueError(f"Atari: game is {rom.replace('_', '-')!r}; did you mean {names}?")
    return AtariVectorEnv
