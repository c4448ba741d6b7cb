"""Four rooms: charges that lead a walker through a cell (Thoma et al., NeurIPS 2024)."""

from pathlib import Path

from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "four-rooms.json")

# (tau, beta): HPGD, AMD and zero-order, means over 10 seeds of 10,000 iterations.
_PUBLISHED = {
    (0.001, 1): (0.91, 0.58, 0.59),
    (0.001, 3): (0.51, 0.51, 0.50),
    (0.001, 5): (0.46, 0.46, 0.46),
    (0.003, 1): (0.95, 1.00, 0.91),
    (0.003, 3): (0.73, 0.39, 0.40),
    (0.003, 5): (0.29, 0.32, 0.32),
    (0.005, 1): (1.17, 1.28, 1.15),
    (0.005, 3): (1.01, 1.13, 1.02),
    (0.005, 5): (0.87, 0.97, 0.79),
}

SUITE = Suite(
    name="four-rooms",
    summary=(
        "A designer charges a walker for cells of a grid of four rooms, so that it passes through "
        "one of them; nine pairs of the walker's entropy tau and the cost beta of charges "
        "(Thoma et al., NeurIPS 2024)."
    ),
    cases=tuple(
        Case(
            f"tau {tau:g}, beta {beta}",
            "four-rooms",
            dict(tau=tau, beta=float(beta)),
            published=dict(zip(("HPGD", "AMD", "zero-order"), values, strict=True)),
        )
        for (tau, beta), values in _PUBLISHED.items()
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
