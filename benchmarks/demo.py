"""What `make demo` runs: ten Stackelberg games and two cells of four rooms, and a report.

python benchmarks/demo.py [--games 10] [--out runs/demo]

A short version of `benchmarks/stackelberg.py` and `benchmarks/four_rooms.py`: two starts each.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from methods import Row, implicit, independent, pbrl, row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bilevax.cli.entry import execute
from bilevax.problems import four_rooms, stackelberg

jax.config.update("jax_enable_x64", True)

METHODS = {"pbrl": pbrl, "implicit": implicit, "independent": independent}
STARTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--games", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    began = time.perf_counter()
    tasks = [
        (f"Stackelberg game {seed}", stackelberg(seed=seed), tuple(METHODS))
        for seed in range(arguments.games)
    ]
    # Both cells at the default temperature: they share a compiled program.
    tasks += [
        (f"four rooms, beta {beta:g}", four_rooms(beta=beta), tuple(METHODS)[:2])
        for beta in (1.0, 3.0)
    ]
    rows = solve(tasks)
    show(rows)
    report(arguments.out)
    Console().print(f"[dim]All in all {time.perf_counter() - began:.0f} s.[/dim]")


def solve(tasks) -> list[Row]:
    """Every task by its methods, from equal starts, with a progress bar on standard error."""
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        jobs = [(name, zoo, method) for name, zoo, methods in tasks for method in methods]
        bar = progress.add_task("compiling", total=len(jobs))

        def one(job) -> Row:
            name, zoo, method = job
            progress.update(bar, description=name)
            starts = zoo.starts(jax.random.key(0), STARTS)
            line = row(zoo, name, method, METHODS[method](zoo, starts))
            progress.advance(bar)
            return line

        # Two at a time: one compiles, on one core, while the other runs.
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, jobs))


def show(rows: list[Row]) -> None:
    """The comparison table: the upper value at the exact best response, best of the starts."""
    table = Table(
        title="Upper value at the follower's exact best response (larger is better)",
        caption=(
            "PBRL: the penalty method, annealed. Implicit: exact hypergradient. Independent: each "
            "side alone. Gap: what the follower could still gain under PBRL's answer, certified."
        ),
    )
    table.add_column("problem")
    for name in ("PBRL", "implicit", "independent", "gap (PBRL)"):
        table.add_column(name, justify="right")
    by_problem: dict[str, dict[str, Row]] = {}
    for line in rows:
        by_problem.setdefault(line.problem, {})[line.method] = line
    for problem, lines in by_problem.items():
        top = max(line.best for line in lines.values())
        cells = [
            ""
            if line is None
            else f"[bold]{line.best:.3f}[/]"
            if line.best == top
            else f"{line.best:.3f}"
            for line in (lines.get(method) for method in METHODS)
        ]
        table.add_row(problem, *cells, f"{lines['pbrl'].gap:.0e}")
    Console().print(table)


def report(out: Path) -> None:
    """One four-rooms run through the command line, whose folder holds the report."""
    number = 1
    folder = out
    while folder.exists():
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    if code := execute(["solve", "four-rooms", "--starts", "2", "--out", str(folder)]):
        sys.exit(code)
    Console().print(f"The report of that last run: [bold]{folder / 'report.html'}[/bold]")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped before there was a report: run it again to have one.")
