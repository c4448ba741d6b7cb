"""Tolls on Sioux Falls: travellers by recursive logit, congestion by BPR."""

from pathlib import Path

from ..suite import Case, Suite, stored_references

_REFERENCES = stored_references(Path(__file__).parent / "reference" / "tolls.json")

SUITE = Suite(
    name="tolls",
    summary=(
        "An authority sets tolls of 0 to 10 minutes on the links of Sioux Falls so that the mean "
        "travel time is low; travellers respond to tolls and free-flow times. Smaller is better."
    ),
    cases=(
        Case(
            "Sioux Falls",
            "tolls",
            dict(theta=2.0, max_toll=10.0),
            files=dict(network="SiouxFalls_net.tntp", trips="SiouxFalls_trips.tntp"),
        ),
    ),
    methods=("pbrl", "implicit"),
    references=_REFERENCES,
)
