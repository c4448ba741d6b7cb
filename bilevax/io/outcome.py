"""The outcome of a run in numbers, in the natural sense of its problem."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._solution import RESULTS, Solution
from .files import read_json
from .run_folder import RESULT
from .verdict import UNFINISHED, result_name

if TYPE_CHECKING:
    from .._run import Run

NAN = float("nan")


@dataclass(frozen=True)
class About:
    """What was run.

    Attributes:
        problem, solver: their names.
        description: one sentence about the problem.
        maximize: whether a larger upper value is better (a return), or a smaller one (a cost).
        known: upper values to compare with, by source.
        gap_tol: the largest gap that counts as feasible.
        starts, seed: how many starts, and the seed they were drawn from.
        out: the folder, if any.
        polished: whether every start was polished after its run.
    """

    problem: str
    solver: str
    description: str
    maximize: bool
    known: dict[str, float]
    gap_tol: float
    starts: int
    seed: int
    out: str | None
    polished: bool = False


@dataclass(frozen=True)
class StartOutcome:
    """How one start ended.

    Attributes:
        upper_value: at the policy found, in the natural sense of the problem.
        upper_value_at_best_response: F(x), at the exact best response.
        gap, relative_gap: the certified bound on the lower level's gap.
        result: the name of the result, or "unfinished".
        message: what to do next; empty where there is nothing to do.
        steps: steps taken, those of the polish counted in.
    """

    upper_value: float
    upper_value_at_best_response: float
    gap: float
    relative_gap: float
    result: str
    message: str
    steps: int


@dataclass(frozen=True)
class Outcome:
    """How a run ended: every start, which of them is the best, and the time it took.

    ``measures`` are further numbers of the best start, by name as (value, a sentence about it).
    """

    about: About
    each_start: tuple[StartOutcome, ...]
    best_start: int
    wall_seconds: float
    compile_seconds: float
    measures: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def best(self) -> StartOutcome:
        """The best start's outcome."""
        return self.each_start[self.best_start]

    @property
    def values(self) -> np.ndarray:
        """F(x) of every start, in the natural sense."""
        return np.asarray([one.upper_value_at_best_response for one in self.each_start])

    @property
    def best_value(self) -> float:
        """The best F(x) over the starts; NaN if none is finite."""
        return self._statistic(np.max if self.about.maximize else np.min)

    @property
    def worst_value(self) -> float:
        """The worst finite F(x) over the starts; NaN if there is none."""
        return self._statistic(np.min if self.about.maximize else np.max)

    @property
    def median_value(self) -> float:
        """The median of the finite F(x) over the starts; NaN if there is none."""
        return self._statistic(np.median)

    def _statistic(self, function) -> float:
        finite = self.values[np.isfinite(self.values)]
        return float(function(finite)) if finite.size else NAN

    @property
    def feasible(self) -> bool:
        """Whether the best start's gap is within tolerance and all its numbers are finite."""
        return self.best.result in ("successful", "max_steps_reached")

    def line(self) -> dict[str, Any]:
        """What ``bilevax solve --json`` prints."""
        about, best = self.about, self.best
        line = dict(
            problem=about.problem,
            solver=about.solver,
            upper_value=best.upper_value,
            upper_value_at_best_response=best.upper_value_at_best_response,
            gap=best.gap,
            relative_gap=best.relative_gap,
            result=best.result,
            steps=best.steps,
            starts=about.starts,
            seed=about.seed,
            polished=about.polished,
            wall_seconds=round(self.wall_seconds, 3),
            compile_seconds=round(self.compile_seconds, 3),
        )
        line |= {name: value for name, (value, _) in self.measures.items()}
        return line | ({} if about.out is None else {"out": about.out})


def finished(
    run: "Run", about: About, measures: dict[str, tuple[float, str]] | None = None
) -> Outcome:
    """The outcome of a finished run."""
    sign = -1 if about.maximize else 1
    return Outcome(
        about=about,
        each_start=tuple(_one(solution, sign) for solution in run.solutions),
        best_start=run.best_start,
        wall_seconds=run.wall_seconds,
        compile_seconds=run.compile_seconds,
        measures=measures or {},
    )


def unfinished(history: Sequence[dict[str, Any]], about: About) -> Outcome:
    """Where an unfinished run stands by its history: the solver's numbers, without certificate."""
    sign = -1 if about.maximize else 1
    latest = {line["start"]: line for line in history}
    message = f"continue it with: bilevax solve --resume {about.out}"

    def one(line):
        value, step = (sign * line["upper_value"], line["step"]) if line else (NAN, 0)
        return StartOutcome(value, NAN, NAN, NAN, UNFINISHED, message, step)

    each = tuple(one(latest.get(i)) for i in range(about.starts))
    objective = sign * np.asarray([one.upper_value for one in each])
    return Outcome(
        about=about,
        each_start=each,
        best_start=int(np.nanargmin(objective)) if np.isfinite(objective).any() else 0,
        wall_seconds=max((line["seconds"] for line in history), default=NAN),
        compile_seconds=NAN,
    )


def read_outcome(folder: Path) -> Outcome:
    """The outcome in a folder's ``result.json``."""
    path = folder / RESULT
    fields = read_json(path)
    try:
        return Outcome(
            about=read_about(fields["about"]),
            each_start=tuple(StartOutcome(**_with_nan(one)) for one in fields["each_start"]),
            best_start=fields["best_start"],
            wall_seconds=fields["wall_seconds"],
            compile_seconds=fields["compile_seconds"],
            measures={
                name: (NAN if value is None else value, words)
                for name, (value, words) in fields.get("measures", {}).items()
            },
        )
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not the result of a run.") from error


def read_about(fields: dict[str, Any]) -> About:
    """What was run, from the fields of a file, whose ``null`` stands for what JSON cannot hold.

    ``TypeError`` or ``KeyError`` where they are not those of a run.
    """
    restored: dict[str, Any] = dict(known=_with_nan(fields["known"]))
    restored |= dict(gap_tol=read_gap_tol(fields["gap_tol"]))
    return About(**(fields | restored))


def read_gap_tol(value: float | None) -> float:
    """The tolerance in a file, where ``null`` is infinity: any gap is accepted."""
    return float("inf") if value is None else value


def to_fields(outcome: Outcome) -> dict[str, Any]:
    """The outcome as ``result.json`` holds it; ``read_outcome`` is the inverse."""
    return asdict(outcome)


def _one(solution: Solution, sign: int) -> StartOutcome:
    return StartOutcome(
        upper_value=sign * float(solution.upper_value),
        upper_value_at_best_response=sign * float(solution.best_response_value),
        gap=float(solution.gap),
        relative_gap=float(solution.relative_gap),
        result=result_name(solution),
        message=RESULTS[solution.result],
        steps=int(solution.stats["steps"]),
    )


def _with_nan(fields) -> dict[str, Any]:
    return {name: NAN if value is None else value for name, value in fields.items()}
