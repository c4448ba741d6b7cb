"""Random Stackelberg Markov games: the first experiment of Shen, Yang and Chen (2025)."""

from pathlib import Path

from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "stackelberg.json")

SUITE = Suite(
    name="stackelberg",
    summary=(
        "A leader and a follower in ten random Markov games of 100 states with 5 x 5 actions, the "
        "follower's entropy at two weights; the first experiment of Shen, Yang and Chen (2025), "
        "sizes ours."
    ),
    cases=tuple(
        Case(f"tau {tau:g}, game {seed}", "stackelberg", dict(tau=tau, seed=seed))
        for tau in (0.01, 0.1)
        for seed in range(10)
    ),
    methods=("pbrl", "implicit", "independent"),
    steps=1000,
    references=_REFERENCES,
)
