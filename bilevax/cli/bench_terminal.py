"""What ``bilevax bench`` shows on a terminal: a line while it works, and a table of what came."""

import math
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..bench.plan import short
from ..bench.run import BenchProgress
from ..bench.statistics import Summary
from ..io.page import number


def print_summaries(summaries: list[Summary], folder: Path | None) -> None:
    """Prints the medians, and why runs failed."""
    heads = ["case", "method", "median", "95 % interval", "reference", "gap", "CPU s", "failed"]
    rows, last = [], None
    for s in summaries:
        interval = "" if s.interval is None else f"{_value(s.interval[0])} {_value(s.interval[1])}"
        row = [
            "" if s.case == last else s.case,
            short(s.method),
            _value(s.median),
            interval,
            "" if s.reference is None else _value(s.reference),
            "" if math.isnan(s.gap) else number(s.gap, 1),
            "" if math.isnan(s.cpu_seconds) else number(s.cpu_seconds, 2),
            f"{s.failures} of {s.runs}" if s.failures else "",
        ]
        rows.append(row)
        last = s.case
    table = Table(box=None, padding=(0, 1, 0, 0))
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    for i in used:
        words = i < 2
        table.add_column(
            heads[i], justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(row[i]) for i in used))
    console = Console()
    console.print(table, highlight=False)
    for method, reason in dict.fromkeys((s.method, s.reason) for s in summaries if s.failures):
        console.print(
            f"failed: {short(method)}: {reason}", style="red", highlight=False, markup=False
        )
    if folder is not None:
        console.print(f"Report: {folder}/report.html", highlight=False, markup=False)


def _value(value: float) -> str:
    return number(value) if math.isfinite(value) else "failed"


class Display:
    """A line on stderr that follows the jobs; silent where stderr is no terminal."""

    def __init__(self, name: str, *, quiet: bool):
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._name = name
        self._task = self._progress.add_task(name, total=None, failed="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def __call__(self, progress: BenchProgress) -> None:
        """Shows where the benchmark stands."""
        self._progress.update(
            self._task,
            description=f"{self._name}: {progress.phase}",
            total=progress.total,
            completed=progress.done,
            failed=f"{progress.failed} failed" if progress.failed else "",
        )
