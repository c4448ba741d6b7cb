"""Nothing is lost: workers that die, benchmarks that are killed, Ray."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench_suite import Canned, own_suite, without_times

import bilevax as bx
from bilevax.bench import (
    Arguments,
    Budget,
    plan,
    run_bench,
)
from bilevax.bench.job import run_job
from bilevax.bench.pool import run_jobs
from bilevax.bench.rows import ROWS, Lines, read_lines
from bilevax.bench.suites import SUITES
from bilevax.bench.workers import ProcessWorker


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return own_suite(tmp_path_factory.mktemp("own"))


@pytest.fixture
def compiled(own, monkeypatch):
    """Programs that one process has compiled serve the next."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", f"{own.suite}-compiled")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def test_a_process_that_dies_becomes_a_row_and_the_others_still_run(own):
    methods = ("own.py:dies", "own.py:raises")
    some = replace(own, cases=("cheap",), methods=methods, seeds=1, starts=1)
    rows = run_bench(some, make_worker=ProcessWorker)
    assert rows[0]["error"] == "its process died 2 times, the last time by SIGKILL."
    assert "no such luck" in rows[1]["error"]


@pytest.mark.slow
def test_a_killed_benchmark_goes_on_and_ends_as_an_uninterrupted_one(own, compiled, tmp_path):
    many = replace(own, cases=("cheap",), seeds=60)
    out = tmp_path / "out"
    options = ("--seeds", "60", "--cases", "cheap")
    _kill_when(own.suite, out, lambda: _count(out) >= 7, "--workers", "1", *options)
    assert 7 <= _count(out) < 120
    rows = run_bench(many, out, make_worker=ProcessWorker)
    assert len({row["id"] for row in read_lines(out / ROWS)}) == len(rows) == 120
    # One worker or two, killed or not: the rows are the same.
    whole = run_bench(many, make_worker=ProcessWorker, workers=2)
    assert without_times(rows) == without_times(whole)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_a_thousand_runs_killed_at_random_moments_give_each_job_once(seed, tmp_path):
    draw, out = random.Random(seed), tmp_path / "out"
    kills = 0
    while kills < 4:
        target = _count(out) + draw.randrange(1, 250)
        _kill_when("smoke", out, lambda t=target: _count(out) >= t, "--workers", "2")
        kills += 1
    assert _count(out) < 1000
    smoke = SUITES["smoke"]
    arguments = Arguments("smoke", tuple(smoke.case_names), smoke.methods, 25, 2, Budget())
    rows = run_bench(arguments, out, make_worker=ProcessWorker, workers=2)
    lines = read_lines(out / ROWS)
    assert len(lines) == len({line["id"] for line in lines}) == 1000
    whole = run_bench(arguments, make_worker=ProcessWorker, workers=2)
    assert without_times(rows) == without_times(whole)


@pytest.mark.long
# Ray starts its processes from this one, where JAX may be at work: they run programs of their own.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_ray_gives_the_rows_of_this_process(own):
    ray = pytest.importorskip("ray")
    from bilevax.bench.workers import RayWorker, start_ray

    methods = ("own.py:good", "own.py:dies")
    some = replace(own, methods=methods, seeds=2, starts=1)
    start_ray("local", 2)
    try:
        rows = run_bench(some, make_worker=RayWorker, workers=2)
    finally:
        ray.shutdown()
    good = [row for row in rows if "good" in row["method"]]
    here = run_bench(replace(some, methods=("own.py:good",)))
    values = lambda rows: [(row["case"], row["seed"], row["value"]) for row in rows]
    assert values(good) == values(here)
    dead = [row["error"] for row in rows if "dies" in row["method"]]
    assert len(dead) == 4 and all("its process died 2 times" in error for error in dead)


def test_jobs_of_a_group_stay_with_one_worker_until_another_is_idle(own):
    jobs = plan(replace(own, methods=("own.py:good", "own.py:other"), seeds=10)).jobs
    Canned.seen = []
    answers = list(run_jobs(jobs, run_job, Canned, 1))
    assert sorted(row["number"] for row in answers) == list(range(80))
    groups = [group for _, group in Canned.seen]
    assert groups == sorted(groups)
    assert len(list(run_jobs(jobs, run_job, Canned, 5))) == 80


def test_a_worker_that_dies_is_replaced_after_one_retry(own):
    jobs = plan(replace(own, methods=("own.py:deadly", "own.py:good"))).jobs
    made = []
    rows = list(run_jobs(jobs, run_job, lambda: made.append(1) or Canned(), 1))
    assert sum(row["error"] is not None for row in rows) == 12
    assert len(rows) == 24 and 24 <= len(made) <= 25


def test_a_worker_that_cannot_start_becomes_rows(own, monkeypatch):
    some = replace(own, cases=("cheap",), seeds=1, starts=1)
    with monkeypatch.context() as patch:
        patch.setattr("bilevax.bench.workers.sys.executable", "/bin/false")
        (row,) = run_bench(some, make_worker=ProcessWorker)
    assert "died 2 times, the last time with exit code 1 before its first job" in row["error"]
    monkeypatch.setattr("bilevax.bench.workers.sys.executable", "/no/such/program")
    (row,) = run_bench(some, make_worker=ProcessWorker)
    assert "before it could start" in row["error"]


def test_this_process_runs_one_job_at_a_time(own):
    # Two at once would share their CPU seconds.
    with pytest.raises(ValueError, match="workers is 2"):
        run_bench(own, workers=2)


def test_two_processes_never_write_one_folder(tmp_path):
    with (
        Lines(tmp_path / ROWS),
        pytest.raises(ValueError, match="another process is writing"),
        Lines(tmp_path / ROWS),
    ):
        pass


def _count(out: Path) -> int:
    path = out / ROWS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _kill_when(suite: str, out: Path, ready, *options: str) -> None:
    """Begins a benchmark in a process of its own, and kills that without warning."""
    command = [sys.executable, "-m", "bilevax", "bench", suite, "--out", str(out), *options]
    root = str(Path(bx.__file__).parents[1])
    process = subprocess.Popen(
        [*command, "--quiet"],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
