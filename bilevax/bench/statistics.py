"""What many runs come to: medians with intervals, shortfalls, shares within a tolerance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._median import median_interval as median_interval
from .suite import Suite

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Summary:
    """One method on one case.

    Attributes:
        case, method: which.
        values: the natural value of each seed, its best start counting; a seed without any value
            counts as infinitely bad.
        maximize: whether larger is better.
        median: over seeds.
        interval: of the median, at 95 per cent; ``None`` below six seeds.
        best: over seeds.
        reference: the value to reach, if any.
        gap: the largest certified gap.
        steps, environment_steps: of a start, at most.
        cpu_seconds: of a start, the median.
        failures: runs without a value.
        runs: how many.
        reason: why one of them failed.
    """

    case: str
    method: str
    values: tuple[float, ...]
    maximize: bool
    median: float
    interval: tuple[float, float] | None
    best: float
    reference: float | None
    gap: float
    steps: int | None
    environment_steps: int | None
    cpu_seconds: float
    failures: int
    runs: int
    reason: str

    @property
    def fraction(self) -> float | None:
        """The median as a share of the reference: value/reference, reference/value for a cost.

        ``None`` unless both are positive: a share of anything else says nothing.
        """
        if not math.isfinite(self.median) or self.median <= 0 or (self.reference or 0) <= 0:
            return None
        assert self.reference is not None
        share = self.median / self.reference
        return share if self.maximize else 1 / share


def share_ahead(one: Sequence[float], other: Sequence[float], *, maximize: bool = True) -> float:
    """The share of pairs of seeds, one of each method, in which the first method's value is better.

    Ties count half, and values that agree to a millionth are a tie. It estimates the probability
    that a new seed of the one does better than a new seed of the other (Mann and Whitney 1947;
    Agarwal et al. 2021), where medians say nothing of how far seeds scatter.
    """
    sign = 1 if maximize else -1
    first, second = sign * np.asarray(one)[:, None], sign * np.asarray(other)
    level = np.isclose(first, second, rtol=1e-6, atol=0)
    return float(np.mean(level) / 2 + np.mean((first > second) & ~level))


def summarise(rows: Rows, suite: Suite) -> list[Summary]:
    """A summary per case and method, in the order of the rows."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["number"]):
        cells.setdefault((row["case"], row["method"]), []).append(row)
    maximize = senses(rows)
    return [
        _summary(case, method, own, maximize.get(case, True), suite)
        for (case, method), own in cells.items()
    ]


def senses(rows: Rows) -> dict[str, bool]:
    """By case, whether larger is better."""
    return {row["case"]: row["maximize"] for row in rows if row["maximize"] is not None}


def _summary(case: str, method: str, rows: Rows, maximize: bool, suite: Suite) -> Summary:
    sign = 1 if maximize else -1
    values = tuple(
        sign * max(sign * value_of(row, maximize) for row in rows if row["seed"] == seed)
        for seed in sorted({row["seed"] for row in rows})
    )
    good = [row for row in rows if row["error"] is None]
    failed = [row for row in rows if row["error"] is not None]
    reference = suite.references.get(case)
    ordered = sorted(values)
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return Summary(
        case=case,
        method=method,
        values=values,
        maximize=maximize,
        median=middle[0] if middle[0] == middle[1] else sum(middle) / 2,
        interval=median_interval(values),
        best=sign * max(sign * value for value in values),
        reference=None if reference is None else reference.value,
        gap=max((row["gap"] for row in good if row["gap"] is not None), default=math.nan),
        steps=_most(good, "steps"),
        environment_steps=_most(good, "environment_steps"),
        cpu_seconds=float(np.median([r["cpu_seconds"] for r in good])) if good else math.nan,
        failures=len(failed),
        runs=len(rows),
        reason=failed[0]["error"] if failed else "",
    )


def _most(rows: Rows, name: str) -> int | None:
    return max((row[name] for row in rows if row[name] is not None), default=None)


def value_of(row: dict[str, Any], maximize: bool) -> float:
    """F(x) in the natural sense; infinitely bad where the run failed."""
    value: Any = row["value"]
    if row["error"] is not None or value is None:
        return -math.inf if maximize else math.inf
    return value


def best_known(rows: Rows, suite: Suite) -> dict[str, float]:
    """By case, the better of the reference and of all runs here; none without either."""
    best = {name: reference.value for name, reference in suite.references.items()}
    for case, maximize in senses(rows).items():
        choose = max if maximize else min
        values = [value_of(r, maximize) for r in rows if r["case"] == case]
        values = [value for value in values if math.isfinite(value)]
        if case in best or values:
            best[case] = choose([*values, *([best[case]] if case in best else [])])
    return best


def shortfall(value: float | None, best: float) -> float:
    """|best - value| / |best|, absolute where the best is 0; infinite without a value."""
    if value is None or not math.isfinite(value):
        return math.inf
    return abs(best - value) / (abs(best) or 1.0)


def seed_shortfalls(rows: Rows, suite: Suite) -> dict[str, np.ndarray]:
    """By method, the shortfall of every case and seed from the best value known."""
    best = best_known(rows, suite)
    result: dict[str, list[float]] = {}
    for one in summarise(rows, suite):
        missing = one.case not in best
        each = [math.inf if missing else shortfall(v, best[one.case]) for v in one.values]
        result.setdefault(one.method, []).extend(each)
    return {method: np.asarray(each) for method, each in result.items()}


def curves(rows: Rows, suite: Suite, *, axis: int = 1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By method, the median CPU seconds and the median shortfall at each share of the budget.

    Over all cases, seeds and starts; a failed run stays infinitely far from the best. Curves of
    several lengths are read at the same shares of each. Where a value is unknown, as where no
    episode ended in a round, the last one known stands for it; before the first one a run has no
    part in the median. With ``axis=0`` steps are in the place of seconds; in learning from
    preferences they are environment steps.
    """
    best = best_known(rows, suite)
    result = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        good = [row for row in own if row["error"] is None and row["case"] in best]
        count = min((len(row["curve"]) for row in good), default=0)
        if count == 0:
            continue
        lost = [math.inf] * sum(row["error"] is not None for row in own)
        goals = [best[row["case"]] for row in good]
        filled = [_filled(row["curve"]) for row in good]
        along, short = [], []
        for i in range(count):
            points = [_at(curve, i, count) for curve in filled]
            along.append(np.median([point[axis] for point in points]))
            pairs = zip(points, goals, strict=True)
            each = [shortfall(p[2], goal) for p, goal in pairs if p[2] is not None]
            short.append(np.median(each + lost) if each else math.inf)
        result[method] = (np.asarray(along), np.asarray(short))
    return result


def _filled(curve: list[Any]) -> list[Any]:
    """The curve with the last known value where one is unknown."""
    filled, known = [], None
    for *spent, value in curve:
        known = known if value is None else value
        filled.append((*spent, known))
    return filled


def _at(curve: list[Any], i: int, count: int) -> Any:
    """The point of a curve at the share (i + 1) / count of its length."""
    return curve[-(-(i + 1) * len(curve) // count) - 1]
