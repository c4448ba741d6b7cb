"""RL from human feedback in four MinAtar games: the second experiment of Shen et al. (2025)."""

from ..suite import Case, Suite

SUITE = Suite(
    name="rlhf-minatar",
    summary=(
        "Four MinAtar games learned from 1,000 preferences of a teacher who sees the true return; "
        "RL on the true reward beside it (the second experiment of Shen, Yang and Chen 2025, on "
        "games of a CPU's size)."
    ),
    cases=tuple(
        Case(name, f"rlhf:minatar-{game}", dict(labels=1000))
        for name, game in (
            ("Breakout", "breakout"),
            ("Asterix", "asterix"),
            ("Freeway", "freeway"),
            ("SpaceInvaders", "space-invaders"),
        )
    ),
    methods=("pbrl", "drlhf", "true-reward"),
    environment_steps=1_000_000,
    seeds=6,
    starts=1,
    note=(
        "All methods have the same environment steps, networks and learner. PBRL's steps are those "
        "of both its policies; true-reward needs no labels and shows what the others could reach."
    ),
)
