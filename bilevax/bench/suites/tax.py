"""Tax design: consumers who work, spend and save (Thoma et al., NeurIPS 2024)."""

from pathlib import Path

from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "tax.json")

SUITE = Suite(
    name="tax",
    summary=(
        "A government taxes income and three goods; consumers decide how much to work, spend and "
        "save; three weights of their entropy (Thoma et al., NeurIPS 2024; assets on a grid)."
    ),
    cases=tuple(Case(f"tau {tau:g}", "tax", dict(tau=tau)) for tau in (0.1, 0.2, 0.3)),
    methods=("pbrl", "implicit", "hpgd"),
    references=_REFERENCES,
)
