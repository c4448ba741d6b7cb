"""What the page of a benchmark says of its values: they are not the same for every kind of case."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..io.run_folder import CONFIG
from .learned import is_learned

TABLE = "table.md"
COLUMNS = (
    *("Median", "95 % interval", "Best", "Ahead", "Reference", "Of reference", "Gap", "Steps"),
    *("Environment steps", "CPU s", "Failed"),
)


@dataclass(frozen=True)
class Words:
    """Parts of sentences.

    Attributes:
        values: what all values are; a whole sentence but for its stop.
        median: what a median is taken of.
        point: what a point of a figure is.
        curve: what a line of curves.csv holds.
        fast: where and when the curves are looked at.
        axis: which number of a curve's points they are drawn against, and what it is.
        environment_steps: what is counted as such.
        seconds: what CPU seconds leave out.
        spread: why seeds differ; a whole sentence but for its stop.
    """

    values: str
    median: str
    point: str
    curve: str
    fast: str
    axis: tuple[int, str]
    environment_steps: str
    seconds: str
    spread: str


_SECONDS = (1, "CPU seconds of a start")

SOLVED = Words(
    values="All values are what the upper level gets with the x found once the lower level answers "
    "exactly, whatever policy a method ended with",
    median="the upper value once the lower level answers exactly, of which the best start of each "
    "seed counts",
    point="the value at the exact best response",
    curve="each run's value at the exact best response at eight shares of its budget",
    fast="The median distance from the best value known, after 1/128, 1/64, ... and all of the "
    "budget, against the CPU seconds until then. Lower and further left is better. A method that "
    "raises its penalty or cools its follower along the run is meant to be read at the right end.",
    axis=_SECONDS,
    environment_steps="transitions that a start drew, at most; none where the method samples no "
    "episodes",
    seconds="compilation and certificates are left out",
    spread="Local optima are the rule: the best start of a seed counts, and the spread over seeds "
    "is shown",
)

LEARNED = Words(
    values="All values are true returns: the mean over whole episodes of a final evaluation, of "
    "the policy that was trained",
    median="the true return of a final evaluation",
    point="the mean true return of its final evaluation",
    curve="the mean true return of the episodes that ended in each round of each run",
    fast="The median distance of the true return from the best value known, after each round, "
    "against the environment steps until then. Lower and further left is better. Returns are of "
    "the episodes that ended in the round, while the policy learned; where none did, of the last "
    "round with one.",
    axis=(0, "environment steps of a run"),
    environment_steps="transitions that a run took, over every policy that it trained",
    seconds="compilation and the final evaluation are left out",
    spread="Chance decides much in learning: the spread over seeds is shown",
)

MIXED = Words(
    values="Values of cases learned from preferences (rlhf:...) are true returns of a final "
    "evaluation; all others are what the upper level gets with the x found once the lower level "
    "answers exactly",
    median=f"{SOLVED.median}; in cases learned from preferences, of {LEARNED.median}",
    point=f"{SOLVED.point}; in cases learned from preferences, {LEARNED.point}",
    curve=f"{SOLVED.curve}; of cases learned from preferences, {LEARNED.curve}",
    fast="The median distance from the best value known along the budget, against the CPU seconds "
    "until then. Lower and further left is better.",
    axis=_SECONDS,
    environment_steps=f"{SOLVED.environment_steps}; in cases learned from preferences, "
    f"{LEARNED.environment_steps}",
    seconds="compilation, certificates and final evaluations are left out",
    spread=SOLVED.spread,
)


def words_for(rows: Sequence[dict[str, Any]]) -> Words:
    """The words that hold for these rows."""
    kinds = {is_learned(row["problem"]) for row in rows}
    return MIXED if len(kinds) > 1 else LEARNED if True in kinds else SOLVED


def columns(words: Words) -> list[tuple[str, str]]:
    """What each of ``COLUMNS`` means: part of a sentence."""
    meanings = (
        f"over seeds, of {words.median}; a seed that failed counts as the worst",
        "of that median, between two order statistics of the seeds: true for any distribution of "
        "the values; it needs six seeds",
        "of all seeds",
        "the share of pairs of seeds, one of this method and one of the case's first method, in "
        "which this one does better; ties, to a millionth, count half",
        "the value to reach: exact where it is known, else the best that many starts found",
        "median / reference; reference / median where smaller is better",
        "the largest certified gap of all runs: what the lower level could still gain against the "
        "policy that the method ended with",
        "of a start",
        words.environment_steps,
        f"of a start, the median; {words.seconds}",
        "runs that gave no value, of all runs",
    )
    return list(zip(COLUMNS, meanings, strict=True))


def files(words: Words) -> dict[str, str]:
    """What each file of the folder holds."""
    return {
        CONFIG: "what was asked for, and the versions: everything to repeat it",
        "rows.jsonl": "a line per run, written as soon as it ended",
        "rows.parquet": "the same rows as a table, for pandas.read_parquet",
        "rows.csv": "and as text",
        "curves.csv": words.curve,
        TABLE: "the tables of this page as Markdown",
    }
