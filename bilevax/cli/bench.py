"""The command bench: methods compared on a suite of problems."""

import importlib.util
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..bench.plan import Arguments, Budget, Plan, plan
from ..bench.run import BenchProgress, check_folder, is_bench, read_arguments, run_bench
from ..bench.statistics import Summary, summarise
from ..bench.suite import find_suite
from ..bench.suites import SUITES
from ..bench.workers import ProcessWorker, RayWorker, start_ray
from ..io.files import to_json
from ..io.page import number

FAILED, INTERRUPTED = 1, 130
_WHAT, _BUDGET, _RUN = "What is compared", "Budget of each start (one of them)", "Run and output"


def _option(help: str, panel: str, *flags: str, **limits: Any):
    return typer.Option(*flags, help=help, rich_help_panel=panel, **limits)


def bench(
    suite: Annotated[
        str | None, typer.Argument(help="A suite of [bold]bilevax list[/bold], or FILE.py:SUITE.")
    ] = None,
    methods: Annotated[
        str | None,
        _option("Solvers, or FILE.py:FUNCTION, as pbrl,implicit. Default: the suite's.", _WHAT),
    ] = None,
    cases: Annotated[
        str | None, _option("Cases to run, by name, with semicolons between. Default: all.", _WHAT)
    ] = None,
    seeds: Annotated[
        int | None, _option("Draws of starts. Default: the suite's.", _WHAT, min=1)
    ] = None,
    starts: Annotated[
        int | None, _option("Starts of each draw, of which the best counts.", _WHAT, min=1)
    ] = None,
    network: Annotated[
        Path | None,
        _option("Folder of road networks; BILEVAX_ROAD_NETWORKS by default: tolls.", _WHAT),
    ] = None,
    steps: Annotated[int | None, _option("Steps.", _BUDGET, min=1)] = None,
    cpu_seconds: Annotated[
        float | None, _option("CPU seconds, by each method's speed on each case.", _BUDGET)
    ] = None,
    out: Annotated[
        Path | None, _option("Folder for the rows and report.html; continued if begun.", _RUN)
    ] = None,
    resume: Annotated[Path | None, _option("Continue the benchmark in this folder.", _RUN)] = None,
    report_only: Annotated[
        bool, _option("Write the report of --out again, and run nothing.", _RUN, "--report-only")
    ] = False,
    reference: Annotated[
        bool, _option("Compute and store the values to reach instead.", _RUN, "--reference")
    ] = False,
    workers: Annotated[int | None, _option("Processes. Default: one per CPU.", _RUN, min=1)] = None,
    ray: Annotated[
        str | None,
        _option("HOST:PORT of a Ray cluster, auto or local; needs bilevax\\[ray].", _RUN),
    ] = None,
    json: Annotated[bool, _option("Print one JSON object on stdout.", _RUN, "--json")] = False,
    quiet: Annotated[bool, _option("No progress on stderr.", _RUN, "--quiet", "-q")] = False,
) -> int:
    """Compare methods on a suite of problems: many seeds, equal budgets, nothing lost."""
    what = (suite, methods, cases, seeds, starts, network, steps, cpu_seconds)
    folder = resume or out
    if resume is not None and (out is not None or any(value is not None for value in what)):
        raise ValueError(
            "--resume takes everything from the folder: leave out SUITE and the other options."
        )
    if report_only:
        if folder is None:
            raise ValueError("--report-only needs the folder: give --out DIR.")
        return write_bench_page(folder)
    if suite is None and resume is None:
        raise ValueError("name a SUITE (bilevax list shows them), or give --resume DIR.")
    if resume is not None:
        arguments = read_arguments(resume)
    else:
        assert suite is not None
        budget = _budget(steps, cpu_seconds)
        arguments = _arguments(suite, methods, cases, seeds, starts, network, budget)
    work = plan(arguments)
    if reference:
        return _reference(work, quiet)
    if folder is not None:
        check_folder(folder, work)
        _need("pandas", "pyarrow", "matplotlib")
    return _bench(work, folder, workers or os.cpu_count() or 1, ray, json, quiet)


def list_bench(table: Table) -> None:
    """Adds the suites of ``bilevax bench`` to a list."""
    table.add_row("")
    table.add_row("[underline]Suites of bilevax bench")
    for name, suite in SUITES.items():
        problems = " and ".join(dict.fromkeys(case.problem for case in suite.cases))
        plural = "s" if len(suite.cases) > 1 else ""
        table.add_row(name, f"{len(suite.cases)} case{plural} of {problems}.")
    table.add_row("FILE.py:SUITE", "A suite of your own.")


def write_bench_page(directory: Path) -> int:
    """Writes the report of a benchmark again, from the rows that are there."""
    from ..bench.report import write_bench_report

    _need("pandas", "pyarrow", "matplotlib")
    print(write_bench_report(directory))
    return 0


def _budget(steps, cpu_seconds) -> Budget:
    given = {"steps": steps, "cpu-seconds": cpu_seconds}
    given = {kind: amount for kind, amount in given.items() if amount is not None}
    if len(given) > 1:
        flags = " and ".join(f"--{kind}" for kind in given)
        raise ValueError(f"{flags} are two budgets: give one of them.")
    for kind, amount in given.items():
        if not 0 < amount < math.inf:
            raise ValueError(f"--{kind} is {amount}; give a positive number.")
        return Budget(kind, amount)
    return Budget()


def _arguments(name, methods, cases, seeds, starts, network, budget) -> Arguments:
    suite = find_suite(name)
    return Arguments(
        suite=name if name in SUITES else _whole(name),
        cases=_names(cases, ";", suite.case_names),
        methods=_names(methods, ",", suite.methods),
        seeds=seeds or suite.seeds,
        starts=starts or suite.starts,
        budget=budget,
        networks=None if network is None else str(network.resolve()),
    )


def _whole(name: str) -> str:
    from .catalogue import absolute

    return absolute(name)


def _names(given: str | None, separator: str, default) -> tuple[str, ...]:
    if given is None:
        return tuple(default)
    names = [name.strip() for name in given.split(separator) if name.strip()]
    return tuple(dict.fromkeys(names))


def _bench(
    work: Plan, folder: Path | None, workers: int, ray: str | None, json: bool, quiet: bool
) -> int:
    make_worker = ProcessWorker
    if ray is not None:
        start_ray(ray, workers)
        make_worker = RayWorker
    try:
        with _Display(work.suite.name, quiet=quiet) as display:
            rows = run_bench(
                work.arguments,
                folder,
                make_worker=make_worker,
                workers=workers,
                on_progress=display,
            )
        if folder is not None:
            from ..bench.report import write_bench_report

            write_bench_report(folder)
    except KeyboardInterrupt:
        return _interrupted(folder)
    summaries = summarise(rows, work.suite)
    failed = sum(s.failures for s in summaries)
    if json:
        print(to_json(_record(work, summaries, failed, folder)))
    else:
        _print(summaries, folder)
    return FAILED if failed == len(rows) else 0


def _record(work: Plan, summaries, failed: int, folder: Path | None) -> dict[str, Any]:
    cells = []
    for one in summaries:
        cell = {name: getattr(one, name) for name in ("case", "method", "median", "interval")}
        names = ("best", "reference", "fraction", "gap", "steps", "cpu_seconds", "runs", "failures")
        cell |= {name: getattr(one, name) for name in names}
        cells.append(cell | ({"reason": one.reason} if one.failures else {}))
    record = dict(suite=work.suite.name, runs=len(work.jobs), failed=failed, cells=cells)
    return record | ({} if folder is None else {"out": str(folder)})


def _print(summaries: list[Summary], folder: Path | None) -> None:
    heads = ["case", "method", "median", "95 % interval", "reference", "gap", "CPU s", "failed"]
    rows, last = [], None
    for s in summaries:
        interval = "" if s.interval is None else f"{_value(s.interval[0])} {_value(s.interval[1])}"
        row = [
            "" if s.case == last else s.case,
            Path(s.method).name if "/" in s.method else s.method,
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
        name = Path(method).name if "/" in method else method
        console.print(f"failed: {name}: {reason}", style="red", highlight=False, markup=False)
    if folder is not None:
        console.print(f"Report: {folder}/report.html", highlight=False, markup=False)


def _value(value: float) -> str:
    return number(value) if math.isfinite(value) else "failed"


def _reference(work: Plan, quiet: bool) -> int:
    from ..bench.reference import compute_references, write_references

    def tell(case: str, value: float) -> None:
        if not quiet:
            print(f"{case}: {number(value, 7)}", file=sys.stderr)

    found = compute_references(work, on_progress=tell)
    command = shlex.join(["bilevax", "bench", *sys.argv[2:]])
    print(write_references(work, found, command))
    return 0


def _interrupted(folder: Path | None) -> int:
    message = "interrupted (with --out DIR a benchmark can be continued)"
    if folder is not None and is_bench(folder):
        message = (
            "interrupted, and nothing finished is lost; continue with: bilevax bench --resume "
            f"{shlex.quote(str(folder))}"
        )
    print(f"bilevax: {message}", file=sys.stderr)
    return INTERRUPTED


def _need(*modules: str) -> None:
    # Said before the work rather than after it.
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is needed", name=name)


class _Display:
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

    def __enter__(self) -> "_Display":
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
