"""A thousand tiny runs, to try the harness itself."""

from ..suite import Case, Suite

SUITE = Suite(
    name="smoke",
    summary=(
        "A thousand runs of twenty steps on tiny random games: they say nothing about methods, and "
        "everything about whether a benchmark survives its machine."
    ),
    cases=tuple(
        Case(
            f"game {seed}",
            "stackelberg",
            dict(states=2, leader_actions=2, follower_actions=2, tau=0.1, seed=seed),
        )
        for seed in range(10)
    ),
    methods=("pbrl", "independent"),
    steps=20,
    seeds=25,
    starts=2,
)
