"""RL from human feedback in four MinAtar games: the second experiment of Shen et al. (2025)."""

from collections.abc import Mapping
from typing import Any

from ..suite import Case, Suite

_GAMES = {
    "Breakout": "breakout",
    "Asterix": "asterix",
    "Freeway": "freeway",
    "SpaceInvaders": "space-invaders",
}
_STEPS = 1_000_000
_NOTE = (
    "All methods have the same environment steps, networks and learner. PBRL's steps are those "
    "of both its policies."
)


def _cases(settings: Mapping[str, Mapping[str, Any]]) -> tuple[Case, ...]:
    """Every game under each of these settings, by what is added to the game's name."""
    return tuple(
        Case(name + words, f"rlhf:minatar-{game}", options)
        for words, options in settings.items()
        for name, game in _GAMES.items()
    )


SUITE = Suite(
    name="rlhf-minatar",
    summary=(
        "Four MinAtar games learned from 1,000 preferences of a teacher who sees the true return; "
        "RL on the true reward beside it (the second experiment of Shen, Yang and Chen 2025, on "
        "games of a CPU's size)."
    ),
    cases=_cases({"": dict(labels=1000)}),
    methods=("pbrl", "drlhf", "true-reward"),
    environment_steps=_STEPS,
    starts=1,
    note=f"{_NOTE} The method true-reward needs no labels and shows what the others could reach.",
)

LABELS = Suite(
    name="rlhf-labels",
    summary="The games of rlhf-minatar learned from fewer preferences: 250 and 500.",
    cases=_cases({f", {labels} labels": dict(labels=labels) for labels in (500, 250)}),
    methods=("pbrl", "drlhf"),
    environment_steps=_STEPS,
    starts=1,
    note=_NOTE,
)

TEACHERS = Suite(
    name="rlhf-teachers",
    summary=(
        "The games of rlhf-minatar learned from 1,000 preferences of teachers who err (B-Pref, Lee "
        "et al. 2021): one answer in ten is turned round (mistake), or the better of two returns "
        "is preferred with the probability of Bradley and Terry (noisy)."
    ),
    cases=_cases({f", {name}": dict(labels=1000, teacher=name) for name in ("mistake", "noisy")}),
    methods=("pbrl", "drlhf"),
    environment_steps=_STEPS,
    starts=1,
    note=_NOTE,
)
