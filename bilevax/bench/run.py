"""A benchmark from its plan to its folder: calibrated, run, resumed."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..io.files import read_json, write_json
from ..io.provenance import provenance
from ..io.run_folder import CONFIG, check_new_folder
from .budget import Budget
from .job import empty_row, run_calibration, run_job
from .plan import Arguments, Job, Plan, plan
from .pool import run_jobs
from .rows import ROWS, SPEEDS, Lines, latest, read_lines
from .workers import AbstractWorker, LocalWorker

KIND = "bench"


@dataclass(frozen=True)
class BenchProgress:
    """Where a benchmark stands.

    Attributes:
        phase: "calibrating" or "running".
        done, total: jobs, those of earlier sessions counted in.
        failed: rows with an error.
        row: the last answer; ``None`` before the first.
    """

    phase: str
    done: int
    total: int
    failed: int
    row: dict[str, Any] | None = None


def run_bench(
    arguments: Arguments,
    directory: Path | None = None,
    *,
    make_worker: Callable[[], AbstractWorker] = LocalWorker,
    workers: int = 1,
    retry_failed: bool = False,
    on_progress: Callable[[BenchProgress], None] | None = None,
) -> list[dict[str, Any]]:
    """The rows of a benchmark, in the order of its plan.

    Arguments:
        arguments: what to run.
        directory: its folder, where every row is on the disk before the next job counts as begun;
            the rows that it holds already are not run again.
        make_worker: what runs the jobs: ``LocalWorker`` (this process), ``ProcessWorker``, which
            survives a job that dies, or ``RayWorker``.
        workers: how many.
        retry_failed: repeat what the folder holds as failed; its new row takes the old one's place.
        on_progress: called after each answer.

    Raises ``ValueError`` if the folder belongs to another benchmark.
    """
    if make_worker is LocalWorker and workers > 1:
        raise ValueError(
            f"run_bench: workers is {workers}, and this process can time one job at a time only; "
            "give make_worker=ProcessWorker."
        )
    work = plan(arguments)
    tell = on_progress or (lambda progress: None)
    if directory is None:
        speeds = _calibrated(work, {}, lambda line: None, make_worker, workers, tell)
        rows: list[dict[str, Any]] = []
        _run(work, speeds, {}, rows.append, make_worker, workers, tell)
        return latest(rows)
    open_folder(directory, work)
    with Lines(directory / ROWS) as written:
        speeds = {}
        if work.calibrations:
            with Lines(directory / SPEEDS) as file:
                known = _kept(file.lines, work.calibrations, retry_failed)
                speeds = _calibrated(work, known, file.append, make_worker, workers, tell)
        known = _kept(written.lines, work.jobs, retry_failed)
        _run(work, speeds, known, written.append, make_worker, workers, tell)
        return latest(written.lines)


def open_folder(directory: Path, work: Plan) -> None:
    """Makes the folder with its ``config.json``; ``ValueError`` if it is another benchmark's."""
    check_folder(directory, work)
    if not (directory / CONFIG).exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / CONFIG, _config(work))


def check_folder(directory: Path, work: Plan) -> None:
    """``ValueError`` unless the folder is new or holds this very benchmark; writes nothing."""
    if not (directory / CONFIG).exists():
        check_new_folder(directory)
        return
    stored, asked = read_arguments(directory).to_json(), work.arguments.to_json()
    for name, value in asked.items():
        if name != "networks" and stored[name] != value:
            raise ValueError(
                f"{directory} holds a benchmark whose {name} is {_shown(stored[name])}, and "
                f"{_shown(value)} is asked for: continue it by --resume {directory}, or name "
                "another folder."
            )
    config = read_json(directory / CONFIG)
    if config["fingerprint"] != work.fingerprint:
        raise ValueError(
            f"{directory} was begun with bilevax {config['versions']['bilevax']} and another "
            f"content of the suite {work.suite.name}: name another folder."
        )


def is_bench(directory: Path) -> bool:
    """Whether the folder is that of a benchmark."""
    path = directory / CONFIG
    return path.exists() and (read_json(path) or {}).get("kind") == KIND


def read_arguments(directory: Path) -> Arguments:
    """The arguments of the benchmark in a folder."""
    if not (directory / CONFIG).exists():
        raise ValueError(f"{directory} holds no benchmark: it has no {CONFIG}.")
    if not is_bench(directory):
        raise ValueError(f"{directory} holds a run, no benchmark: name another folder.")
    try:
        return Arguments.from_json(read_json(directory / CONFIG)["arguments"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{directory / CONFIG} was not written by bilevax bench.") from error


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of the benchmark in a folder, in the order of its plan."""
    return latest(read_lines(directory / ROWS))


def _config(work: Plan) -> dict[str, Any]:
    return provenance() | dict(
        kind=KIND,
        arguments=work.arguments.to_json(),
        jobs=len(work.jobs),
        fingerprint=work.fingerprint,
        machine=f"{platform.platform()}, {platform.machine()}",
    )


def _kept(
    lines: Sequence[dict[str, Any]], jobs: Sequence[Job], retry_failed: bool
) -> dict[str, dict[str, Any]]:
    """By id, the last line of all jobs that need not be run again."""
    last, asked = {line["id"]: line for line in lines}, {job.id for job in jobs}
    again = lambda id: id not in asked or (retry_failed and last[id]["error"])
    return {id: line for id, line in last.items() if not again(id)}


def _calibrated(
    work: Plan, known: Mapping[str, dict[str, Any]], save, make_worker, workers, tell
) -> dict[tuple[str, str], dict[str, Any]]:
    """What a step costs, by case and method."""
    jobs = {job.id: job for job in work.calibrations}
    lines = dict(known)
    missing = [job for job in jobs.values() if job.id not in lines]
    for line in run_jobs(missing, run_calibration, make_worker, workers):
        save(line)
        lines[line["id"]] = line
        failed = sum(one["error"] is not None for one in lines.values())
        tell(BenchProgress("calibrating", len(lines), len(jobs), failed))
    return {(job.case, job.method): lines[job.id] for job in jobs.values()}


def _run(work: Plan, speeds, known, save, make_worker, workers, tell) -> None:
    finished = set(known)
    failed = sum(row["error"] is not None for row in known.values())

    def add(row):
        nonlocal failed
        save(row)
        finished.add(row["id"])
        failed += row["error"] is not None
        tell(BenchProgress("running", len(finished), len(work.jobs), failed, row))

    tell(BenchProgress("running", len(finished), len(work.jobs), failed))
    ready = []
    for job in work.jobs:
        if job.id in finished:
            continue
        job, reason = _with_steps(job, work, speeds)
        if reason is None:
            ready.append(job)
        else:
            add(empty_row(asdict(job), reason))
    for row in run_jobs(ready, run_job, make_worker, workers):
        add(row)


def _with_steps(job: Job, work: Plan, speeds) -> tuple[Job, str | None]:
    """The job with its number of steps, or why it has none."""
    budget = work.arguments.budget
    if not budget.is_measured:
        return job, None
    line = speeds[job.case, job.method]
    if line["error"] is not None:
        return job, line["error"]
    return replace(job, steps=budget.steps(line["seconds_per_step"])), None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return str(Budget(**value))
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)
