"""Incentives in random zero-sum games: the third experiment of Shen, Yang and Chen (2025)."""

from pathlib import Path

from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "incentive-game.json")

SUITE = Suite(
    name="incentive-game",
    summary=(
        "A designer pays player 1 of a random zero-sum game for chosen outcomes, and wants its own "
        "reward high at the equilibrium; ten games of 10 states with 5 x 5 actions (the third "
        "experiment of Shen, Yang and Chen 2025, sizes ours)."
    ),
    cases=tuple(Case(f"game {seed}", "incentive-game", dict(seed=seed)) for seed in range(10)),
    methods=("pbrl", "panda", "implicit", "meta-gradient"),
    steps=1000,
    references=_REFERENCES,
)
