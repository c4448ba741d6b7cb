"""What is printed: the progress of a run on stderr, its outcome on stdout."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from .._run import RunProgress
from ..io.outcome import Outcome
from ..io.page import counted, duration, number

_EVERY = 10.0
"""Seconds between two lines where stderr is no terminal."""


class ProgressDisplay:
    """A line on stderr that follows a run; in a log file, a line every ten seconds."""

    def __init__(self, name: str, *, maximize: bool, quiet: bool):
        self.name, self.sign, self.quiet = name, -1 if maximize else 1, quiet
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}", markup=False),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self.task = self.progress.add_task(name, total=None, line="compiling")
        self.compiled, self.printed = False, time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def __call__(self, progress: RunProgress) -> None:
        """Shows where the run stands."""
        if progress.phase == "compiling":
            return
        if not self.compiled:
            self._say(f"{self.name}: compiled in {duration(progress.compile_seconds)}")
            self.compiled, self.printed = True, time.monotonic()
        line = progress_line(progress, self.sign)
        self.progress.update(
            self.task, total=progress.max_steps, completed=progress.steps, line=line
        )
        if not self.console.is_terminal and time.monotonic() - self.printed >= _EVERY:
            share = progress.steps / progress.max_steps
            self._say(f"{self.name}: {share:.0%}  {line}")
            self.printed = time.monotonic()

    def polishing(self) -> None:
        """Shows that the run is over and its solutions are being polished."""
        self.progress.update(self.task, total=None, line="polishing")
        self._say(f"{self.name}: polishing")

    def _say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False)


def progress_line(progress: RunProgress, sign: int) -> str:
    """Objective, gap and weight of the best start so far, speed and the time left."""
    best = progress.best
    parts = []
    if best is not None:
        parts.append(f"objective {number(sign * best['upper_value'])}")
        if np.isfinite(best["penalty"]):
            parts.append(f"gap {abs(best['penalty']):.0e}")
        if np.isfinite(best["penalty_weight"]):
            parts.append(f"weight {best['penalty_weight']:.3g}")
    if np.isfinite(progress.steps_per_second):
        parts.append(f"{progress.steps_per_second:,.0f} steps/s")
        parts.append(f"{_clock(progress.seconds_left)} left")
    return "  ".join(parts)


def print_outcome(outcome: Outcome) -> None:
    """The outcome as a small table on stdout."""
    about, best = outcome.about, outcome.best
    better = "larger is better" if about.maximize else "smaller is better"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row(
        "upper value",
        number(best.upper_value_at_best_response),
        f"at the exact best response; {better}",
    )
    table.add_row("at the policy found", number(best.upper_value), "where the solver ended")
    table.add_row(
        "certified gap",
        number(best.gap, 2),
        f"what the lower level could still gain, at most; tolerance {number(about.gap_tol)}",
    )
    for name, (value, words) in outcome.measures.items():
        table.add_row(name.replace("_", " "), number(value), words)
    if about.starts > 1 and not np.isnan(outcome.median_value):
        spread = f"median {number(outcome.median_value)}, worst {number(outcome.worst_value)}"
        table.add_row("starts", str(about.starts), f"{spread}, best start {outcome.best_start}")
    for source, value in about.known.items():
        table.add_row("known", number(value), source)
    table.add_row(
        "time",
        duration(outcome.wall_seconds),
        f"{duration(outcome.compile_seconds)} of it compiling; {best.steps:,} steps per start",
    )
    method = f"{about.solver}, polished" if about.polished else about.solver
    title = Text.assemble((about.problem, "bold"), f" by {method}: ")
    title.append(best.result.replace("_", " "), "bold green" if outcome.feasible else "bold red")
    parts: list[Any] = [title, table]
    if best.message:
        parts.append(Text(f"{best.message}.", "yellow"))
    if about.out is not None:
        parts.append(Text(f"Report: {about.out}/report.html"))
    Console().print(Group(*parts), highlight=False)


def print_comparison(outcomes: Sequence[Outcome], failures: dict[str, str]) -> None:
    """One row per solver on stdout."""
    about = outcomes[0].about if outcomes else None
    table = Table(
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    if about is not None:
        better = "larger is better" if about.maximize else "smaller is better"
        table.title = (
            f"{about.problem}: upper value at the exact best response, "
            f"{counted(about.starts, 'start')}\n({better})"
        )
    table.add_column("solver", style="bold", no_wrap=True)
    for name in ("best", "median", "worst", "gap", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("result")
    for outcome in outcomes:
        row = comparison_row(outcome)
        table.add_row(
            row["solver"],
            number(row["best"]),
            number(row["median"]),
            number(row["worst"]),
            number(row["gap"], 2),
            f"{row['wall_seconds']:.1f}",
            Text(row["result"].replace("_", " "), "green" if outcome.feasible else "red"),
        )
    lines = [Text(f"{solver} does not apply: {why}", "red") for solver, why in failures.items()]
    Console().print(Group(table, *lines), highlight=False)


def comparison_row(outcome: Outcome) -> dict[str, Any]:
    """One solver's line in a comparison."""
    best = outcome.best
    return dict(
        solver=outcome.about.solver,
        best=best.upper_value_at_best_response,
        median=outcome.median_value,
        worst=outcome.worst_value,
        gap=best.gap,
        result=best.result,
        steps=best.steps,
        starts=outcome.about.starts,
        wall_seconds=round(outcome.wall_seconds, 3),
        compile_seconds=round(outcome.compile_seconds, 3),
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
