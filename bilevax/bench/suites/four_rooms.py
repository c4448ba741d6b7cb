"""Four rooms: charges that lead a walker through a cell (Thoma et al., NeurIPS 2024)."""

from pathlib import Path

from ...problems._four_rooms import KNOWN
from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "four-rooms.json")

SUITE = Suite(
    name="four-rooms",
    summary=(
        "A designer charges a walker for cells of a grid of four rooms, so that it passes through "
        "one of them; nine pairs of the walker's entropy tau and the cost beta of charges "
        "(Thoma et al., NeurIPS 2024)."
    ),
    cases=tuple(
        Case(
            f"tau {tau:g}, beta {beta:g}",
            "four-rooms",
            dict(tau=tau, beta=beta),
            published=dict(zip(("HPGD", "AMD", "zero-order"), values[:3], strict=True)),
        )
        for (tau, beta), values in KNOWN.items()
    ),
    methods=("pbrl", "implicit"),
    steps=1000,
    note=(
        "The published columns are means over 10 seeds of 10,000 iterations. HPGD and zero-order "
        "learn from samples, and the methods here are given the model, which is more: those two "
        "columns say how far apart the worlds are rather than which method is better. AMD takes "
        "exact gradients of the model, as the methods here do."
    ),
    references=_REFERENCES,
)
