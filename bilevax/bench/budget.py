"""What each start may use, and a run that used something else done again."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KINDS = ("steps", "cpu-seconds", "environment-steps")
OFF = 1.5
"""A run that used this many times its CPU seconds, or left as much of them, is done again."""

_ATTEMPTS = 3


@dataclass(frozen=True)
class Budget:
    """What each start may use.

    Attributes:
        kind: "steps", "cpu-seconds" or "environment-steps": transitions that are sampled.
        amount: how much; ``None`` is each problem's own number of steps.
    """

    kind: str = "steps"
    amount: int | float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"Budget: kind is {self.kind!r}; give one of {', '.join(KINDS)}.")
        if self.amount is None and self.kind != "steps":
            raise ValueError(f"Budget: amount is None; give a number of {self.kind}.")

    @property
    def is_measured(self) -> bool:
        """Whether the steps follow from a calibration."""
        return self.kind == "cpu-seconds"

    def steps(self, price: float) -> int:
        """The steps that these CPU seconds pay for at this price each, in two digits."""
        return two_digits(self.amount / price if self.amount and price > 0 else 1)

    def __str__(self) -> str:
        if self.amount is None:
            return "each problem's own number of steps"
        return f"{self.amount:,.10g} {self.kind.replace('cpu', 'CPU').replace('-', ' ')}"


def two_digits(count: float) -> int:
    """A number of steps, at least 1, rounded down to two digits.

    Equal numbers of steps share a compilation.
    """
    if count >= 100:
        unit = 10 ** (math.floor(math.log10(count)) - 1)
        count = count // unit * unit
    return max(1, int(count))


def within_budget(
    job: dict[str, Any], run: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """What ``run`` gives for a job, and ``attempts``: how often it was run.

    A calibration measures the first steps, and later ones may be dearer or cheaper. A run whose CPU
    seconds are more than ``OFF`` times off the job's is done anew, with the steps that its own
    price per step pays for, at most twice; the attempt closest in ratio counts. One that fails is
    neither done again nor preferred to one that did not.
    """
    made, attempts = [run(job)], 1
    while (steps := _other_steps(made, job)) is not None:
        attempts += 1
        try:
            made.append(run(job | dict(steps=steps)))
        except Exception:  # the run that is there already stays
            break
    whole = [fields for fields in made if fields["error"] is None] or made
    return min(whole, key=lambda fields: _distance(fields, job)) | dict(attempts=attempts)


def share_spent(fields: dict[str, Any], job: dict[str, Any]) -> float | None:
    """What a run used as a share of its budget; ``None`` where that is a number of steps."""
    used = None if job["kind"] == "steps" else fields[job["kind"].replace("-", "_")]
    return None if used is None else round(used / job["amount"], 4)


def _other_steps(made: list[dict[str, Any]], job: dict[str, Any]) -> int | None:
    """The steps of the next attempt; ``None`` where the last one will do, or none is left."""
    last = made[-1]
    failed = last["error"] is not None or not last["cpu_seconds"]
    if failed or _distance(last, job) <= math.log(OFF) or len(made) == _ATTEMPTS:
        return None
    steps = _paid_for([(one["steps"], one["cpu_seconds"]) for one in made], job["amount"])
    # One step is the least, and two digits are the most.
    return None if steps in [one["steps"] for one in made] else steps


def _paid_for(tried: list[tuple[int, float]], seconds: float) -> int:
    """The steps at the last price of one; between the last two attempts if they lie either side."""
    steps, spent = tried[-1]
    power = 1.0
    if len(tried) > 1:
        before, other = tried[-2]
        if (spent - seconds) * (other - seconds) < 0:
            power = math.log(spent / other) / math.log(steps / before)
    return two_digits(steps * (seconds / spent) ** (1 / power))


def _distance(fields: dict[str, Any], job: dict[str, Any]) -> float:
    """The logarithm of the ratio by which the CPU seconds are off; 0 for another budget."""
    if job["kind"] != "cpu-seconds":
        return 0.0
    used = fields["cpu_seconds"]
    return abs(math.log(used / job["amount"])) if used else math.inf
