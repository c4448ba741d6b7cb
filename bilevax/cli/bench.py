"""The command bench: methods compared on a suite of problems."""

import math
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..bench.budget import Budget
from ..bench.learned import is_learned
from ..bench.plan import Arguments, Plan, plan
from ..bench.run import check_folder, is_bench, read_arguments, run_bench
from ..bench.statistics import summarise
from ..bench.suite import find_suite
from ..bench.suites import SUITES
from ..bench.workers import ProcessWorker, RayWorker, start_ray
from ..io.files import to_json
from ..io.page import counted, number
from .bench_terminal import Display, print_summaries
from .running import INTERRUPTED, need, refuse_beside_resume

FAILED = 1
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
    environment_steps: Annotated[
        int | None, _option("Transitions, for methods that learn from samples.", _BUDGET, min=1)
    ] = None,
    out: Annotated[
        Path | None, _option("Folder for the rows and report.html; continued if begun.", _RUN)
    ] = None,
    resume: Annotated[Path | None, _option("Continue the benchmark in this folder.", _RUN)] = None,
    retry_failed: Annotated[
        bool, _option("Repeat the runs of the folder that failed.", _RUN, "--retry-failed")
    ] = False,
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
    budgets = {
        "steps": steps,
        "cpu-seconds": cpu_seconds,
        "environment-steps": environment_steps,
    }
    folder = resume or out
    if reference:
        ignored = dict(methods=methods, seeds=seeds, **budgets, out=out)
        ignored |= dict(resume=resume, workers=workers, ray=ray)
        switches = dict(retry_failed=retry_failed, report_only=report_only, json=json)
        _refuse_with_reference(ignored | {name: on or None for name, on in switches.items()})
    if resume is not None:
        what = dict(suite=suite, methods=methods, cases=cases, seeds=seeds, starts=starts)
        times = dict(steps=steps, cpu_seconds=cpu_seconds, environment_steps=environment_steps)
        refuse_beside_resume(bench, what | times | dict(network=network, out=out))
    if report_only:
        if folder is None:
            raise ValueError("--report-only needs the folder: give --out DIR.")
        return write_bench_page(folder)
    if retry_failed and folder is None:
        raise ValueError("--retry-failed needs the folder: give --out DIR or --resume DIR.")
    if suite is None and resume is None:
        raise ValueError("name a SUITE (bilevax list shows them), or give --resume DIR.")
    if resume is not None:
        arguments = read_arguments(resume)
    else:
        assert suite is not None
        budget = _budget(budgets)
        arguments = _arguments(suite, methods, cases, seeds, starts, network, budget)
    work = plan(arguments)
    if reference:
        return _reference(work, starts, quiet)
    if folder is not None:
        check_folder(folder, work)
        need("pandas", "pyarrow", "matplotlib")
    workers = workers or os.cpu_count() or 1
    return _bench(work, folder, workers, ray, retry_failed, json, quiet)


def list_bench(table: Table) -> None:
    """Adds the suites of ``bilevax bench`` to a list."""
    table.add_row("")
    table.add_row("[underline]Suites of bilevax bench")
    for name, suite in SUITES.items():
        *others, last = dict.fromkeys(case.problem for case in suite.cases)
        problems = f"{', '.join(others)} and {last}" if others else last
        table.add_row(name, f"{counted(len(suite.cases), 'case')} of {problems}.")
    table.add_row("FILE.py:SUITE", "A suite of your own.")


def write_bench_page(directory: Path) -> int:
    """Writes the report of a benchmark again, from the rows that are there."""
    from ..bench.report import write_bench_report

    need("pandas", "pyarrow", "matplotlib")
    print(write_bench_report(directory))
    return 0


def _budget(budgets: dict[str, Any]) -> Budget:
    given = {kind: amount for kind, amount in budgets.items() if amount is not None}
    if len(given) > 1:
        flags = " and ".join(f"--{kind}" for kind in given)
        raise ValueError(f"{flags} are {len(given)} budgets: give one of them.")
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
    from ..tasks.catalogue import absolute

    return absolute(name)


def _names(given: str | None, separator: str, default) -> tuple[str, ...]:
    if given is None:
        return tuple(default)
    names = [name.strip() for name in given.split(separator) if name.strip()]
    return tuple(dict.fromkeys(names))


def _refuse_with_reference(options: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(
            f"--reference takes SUITE, --cases, --starts, --network and --quiet alone: leave out "
            f"{' and '.join(given)}."
        )


def _bench(
    work: Plan, folder: Path | None, workers: int, ray: str | None, retry: bool, json: bool, quiet
) -> int:
    make_worker = ProcessWorker
    if ray is not None:
        start_ray(ray, workers)
        make_worker = RayWorker
    try:
        with Display(work.suite.name, quiet=quiet) as display:
            rows = run_bench(
                work.arguments,
                folder,
                make_worker=make_worker,
                workers=workers,
                retry_failed=retry,
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
        print_summaries(summaries, folder)
    return FAILED if failed == len(rows) else 0


def _record(work: Plan, summaries, failed: int, folder: Path | None) -> dict[str, Any]:
    cells = []
    for one in summaries:
        cell = {name: getattr(one, name) for name in ("case", "method", "median", "interval")}
        names = ("best", "reference", "fraction", "gap", "steps", "environment_steps")
        names += ("cpu_seconds", "runs", "failures")
        cell |= {name: getattr(one, name) for name in names}
        cells.append(cell | ({"reason": one.reason} if one.failures else {}))
    record = dict(suite=work.suite.name, runs=len(work.jobs), failed=failed, cells=cells)
    return record | ({} if folder is None else {"out": str(folder)})


def _reference(work: Plan, starts: int | None, quiet: bool) -> int:
    from ..bench.reference import STARTS, compute_references, reference_path, write_references

    learned = [one.case for one in work.jobs if is_learned(one.problem)]
    if learned:
        raise ValueError(
            f"--reference: the case {learned[0]} is learned from preferences, where no value to "
            "reach can be computed: leave it out of --cases, or leave --reference out."
        )
    found: dict[str, Any] = {}
    starts = starts or STARTS
    command = _reference_command(work, starts)

    def store(case: str, entry: dict[str, Any]) -> None:
        found[case] = entry
        write_references(work, found, command)  # what an interruption leaves is kept
        if not quiet:
            print(f"{case}: {number(entry['value'], 7)}", file=sys.stderr)

    compute_references(work, starts=starts, on_progress=store)
    print(reference_path(work.arguments.suite, work.suite))
    return 0


def _reference_command(work: Plan, starts: int) -> str:
    # Files by their names alone: where they lie is this machine's matter.
    command = ["bilevax", "bench", Path(work.arguments.suite).name, "--reference"]
    if list(work.arguments.cases) != work.suite.case_names:
        command += ["--cases", ";".join(work.arguments.cases)]
    return shlex.join([*command, "--starts", str(starts)])


def _interrupted(folder: Path | None) -> int:
    message = "interrupted (with --out DIR a benchmark can be continued)"
    if folder is not None and is_bench(folder):
        message = (
            "interrupted, and nothing finished is lost; continue with: bilevax bench --resume "
            f"{shlex.quote(str(folder))}"
        )
    print(f"bilevax: {message}", file=sys.stderr)
    return INTERRUPTED
