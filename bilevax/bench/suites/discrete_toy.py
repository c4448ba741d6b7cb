"""DiscreteToy: a leader who does best by being unpredictable (BC-HG, ICAPS 2026)."""

from pathlib import Path

from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "discrete-toy.json")

SUITE = Suite(
    name="discrete-toy",
    summary=(
        "A leader mixes two actions before a follower who sees each of them; three states, and six "
        "sizes of the bonus that draws the follower away (BC-HG, ICAPS 2026)."
    ),
    cases=tuple(
        Case(f"bonus {bonus:g}", "discrete-toy", dict(bonus=bonus))
        for bonus in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    ),
    methods=("pbrl", "implicit", "meta-gradient", "independent"),
    steps=2000,
    references=_REFERENCES,
)
