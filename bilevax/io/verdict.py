"""What every result of a run is called, and what a report says of it."""

from dataclasses import dataclass

from .._solution import RESULTS, Solution

UNFINISHED = "unfinished"
"""The name of what has no result yet."""


@dataclass(frozen=True)
class Verdict:
    """What a report says first.

    Attributes:
        kind: "good", "warn" or "bad".
        headline: one sentence.
        explanation: with places for the ``gap``, the tolerance ``tol`` and the result's
            ``message``.
    """

    kind: str
    headline: str
    explanation: str


VERDICTS = {
    "successful": Verdict(
        "good",
        "The answer is certified.",
        "The lower level could gain at most {gap} by changing its policy, which is within the "
        "tolerance of {tol}. That no other x is better is not certified: compare several starts.",
    ),
    "max_steps_reached": Verdict(
        "warn",
        "The answer is certified, and could still improve.",
        "The lower level could gain at most {gap} (tolerance {tol}), but the run ended before it "
        "had come to rest: {message}.",
    ),
    "infeasible": Verdict(
        "bad",
        "The lower level has not settled: this is not yet an answer.",
        "By changing its policy the lower level might still gain {gap}, above the tolerance of "
        "{tol}. What to do: {message}.",
    ),
    "undecided": Verdict(
        "bad",
        "The samples do not tell whether the lower level has settled.",
        "What it could still gain may lie on either side of the tolerance of {tol}. What to do: "
        "{message}.",
    ),
    "no_model": Verdict(
        "bad", "The lower level is no decision process.", "What happened: {message}."
    ),
    "nonfinite": Verdict("bad", "The run broke down.", "What happened: {message}."),
    UNFINISHED: Verdict(
        "warn",
        "The run is unfinished.",
        "The values below are the solver's own, and nothing is certified yet: {message}",
    ),
}
"""By the name of the result: every member of ``RESULTS``, and ``UNFINISHED``."""


def result_name(solution: Solution) -> str:
    """The name of the solution's result: "successful", "infeasible", ..."""
    names = (name for name in VERDICTS if name != UNFINISHED)
    return next(name for name in names if solution.result == getattr(RESULTS, name))
