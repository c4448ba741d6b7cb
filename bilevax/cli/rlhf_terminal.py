"""What ``bilevax rlhf`` prints: progress on stderr, the outcome on stdout."""

import time
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ..deep.rlhf.outcome import LEAST, RLHFProgress
from ..io.page import counted, duration, number

_EVERY = 10.0
"""Seconds between two lines where stderr is no terminal."""


class LearningDisplay:
    """A line on stderr that follows a run; in a log file, a line every ten seconds."""

    def __init__(self, name: str, *, quiet: bool):
        self.name, self.quiet = name, quiet
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
        self.printed = time.monotonic()

    def __enter__(self) -> "LearningDisplay":
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def __call__(self, progress: RLHFProgress) -> None:
        """Shows where the run stands."""
        line = learning_line(progress) or "compiling"
        self.progress.update(
            self.task, total=progress.max_rounds, completed=progress.rounds, line=line
        )
        if self.quiet or self.console.is_terminal or time.monotonic() - self.printed < _EVERY:
            return
        share = progress.rounds / progress.max_rounds
        self.console.print(
            f"{self.name}: {share:.0%}  {line}", highlight=False, markup=False, soft_wrap=True
        )
        self.printed = time.monotonic()


def learning_line(progress: RLHFProgress) -> str:
    """True and predicted return, labels and accuracy, medians over seeds; speed and time left."""
    lines = [line for line in progress.latest if line]
    if not lines:
        return ""
    parts = []
    for name, words, shape in (
        ("true_return", "true return", "{:.4g}"),
        ("predicted_reward", "predicted", "{:.3g} a step"),
        ("labels", "labels", "{:.0f}"),
        ("reward_accuracy", "accuracy", "{:.0%}"),
    ):
        values = [line[name] for line in lines if np.isfinite(line[name])]
        if values and not (name == "labels" and not any(values)):
            parts.append(f"{words} {shape.format(np.median(values))}")
    if np.isfinite(progress.steps_per_second):
        parts.append(f"{progress.steps_per_second:,.0f} steps/s")
        parts.append(f"{duration(progress.seconds_left)} left")
    return "  ".join(parts)


def print_rlhf(record: dict[str, Any]) -> None:
    """The outcome as a small table on stdout."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    count = record["seeds"]
    each = record["each_seed"]
    over = "median over seeds; " if count > 1 else ""
    table.add_row(
        "true return",
        number(record["true_return"]),
        f"{over}a whole episode under the environment's own reward",
    )
    if count > 1:
        low, high = record["interval"]
        spread = f"{number(low, 4)} to {number(high, 4)}"
        known = sum(np.isfinite(one["true_return"]) for one in each)
        if known >= LEAST:
            table.add_row("interval", spread, f"for that median with 95%, from {known} seeds")
        else:
            words = f"lowest to highest; a 95% interval takes {LEAST} seeds, not {known}"
            table.add_row("range", spread, words)
        values = ", ".join(number(one["true_return"], 4) for one in each)
        table.add_row("every seed", "", values)
    if record["teacher"]:
        table.add_row("labels", f"{record['labels']:,}", f"pairs answered by {record['teacher']}")
        table.add_row(
            "reward accuracy",
            f"{record['reward_accuracy']:.0%}"
            if np.isfinite(record["reward_accuracy"])
            else "not known",
            f"of {counted(record['held_out'], 'answer')} that the reward model never saw, ordered "
            "as the teacher did",
        )
    table.add_row("steps", f"{record['steps']:,}", "of the environment per seed, all policies")
    table.add_row("scored", "", record["scored"])
    table.add_row("time", duration(record["wall_seconds"]), "compiling included")
    title = Text.assemble((record["env"], "bold"), f" by {record['algorithm']}")
    parts: list[Any] = [title, table]
    parts += [Text(f"{fault}.", "bold red") for fault in record["faults"]]
    if "out" in record:
        parts.append(Text(f"Report: {record['out']}/report.html"))
    Console().print(Group(*parts), highlight=False)
