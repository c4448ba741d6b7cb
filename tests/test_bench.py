import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import optax
import pytest
from scipy.stats import binom

import bilevax as bx
from bilevax.bench import (
    Arguments,
    Budget,
    Case,
    Reference,
    Suite,
    find_suite,
    median_interval,
    plan,
    run_bench,
    summarise,
)
from bilevax.bench.job import empty_row, run_calibration, run_job, shared
from bilevax.bench.pool import run_jobs
from bilevax.bench.report import write_bench_report
from bilevax.bench.rows import ROWS, Lines, read_lines
from bilevax.bench.rows import table as frame
from bilevax.bench.run import read_rows
from bilevax.bench.statistics import best_known, curves, seed_shortfalls
from bilevax.bench.suites import SUITES
from bilevax.bench.workers import AbstractWorker, LocalWorker, ProcessWorker, WorkerDied
from bilevax.cli.entry import execute
from bilevax.tasks.catalogue import ZOO, build
from bilevax.tasks.settings import SOLVERS

NETWORKS = Path(os.environ.get("BILEVAX_ROAD_NETWORKS", "road-networks"))

OWN = """
import os
import equinox as eqx
import jax.numpy as jnp
import optax
import bilevax as bx
from bilevax.bench import Case, Suite

def toy(price=0.1):
    def lower(x):
        return bx.MDP(jnp.stack([x, 1 - x]).T, jnp.full((2, 2, 2), 0.5), discount=0.5, tau=0.5)

    def upper(x, policy, evaluation):
        return price * jnp.sum(x**2) - evaluation.expected_return(jnp.eye(2))

    return bx.BilevelProblem(upper, lower), jnp.zeros(2)

def flat():
    problem, x0 = toy()
    return bx.BilevelProblem(lambda x, policy, evaluation: 0 * x[0], problem.lower), x0

def good(problem, steps):
    return bx.ImplicitGradient(optax.sgd(0.1))

def raises(problem, steps):
    raise RuntimeError("no such luck")

def diverges(problem, steps):
    return bx.ImplicitGradient(optax.sgd(float("nan")))

class Stuck(bx.ImplicitGradient):
    def step(self, estimator, state):
        return eqx.tree_at(lambda s: s.failed, state, jnp.asarray(True))

def stuck(problem, steps):
    return Stuck(optax.sgd(0.1))

def dies(problem, steps):
    os.kill(os.getpid(), 9)

def no_solver(problem, steps):
    return 3

SUITE = Suite(
    name="own",
    summary="Toys.",
    cases=(Case("cheap", "own.py:toy"), Case("dear", "own.py:toy", dict(price=1.0))),
    methods=("own.py:good",),
    steps=5,
    seeds=3,
    starts=2,
)

FLAT = Suite("flat", "A toy.", (Case("flat", "own.py:flat"),), ("own.py:good",), steps=5)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The arguments of a small benchmark in a user's own file."""
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return Arguments(f"{path}:SUITE", ("cheap", "dear"), ("own.py:good",), 3, 2, Budget())


@pytest.fixture
def compiled(own, monkeypatch):
    """Programs that one process has compiled serve the next."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", f"{own.suite}-compiled")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.fixture
def cli(capsys):
    def call(*arguments):
        code = execute([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


class Canned(AbstractWorker):
    """Answers at once, without any solver; jobs of the methods named "deadly" kill it."""

    seen: ClassVar[list[tuple[int, str]]] = []
    deadly: ClassVar[str] = "deadly"

    def run(self, function, job):
        if self.deadly in job["method"]:
            raise WorkerDied("by SIGKILL")
        self.seen.append((id(self), job["group"]))
        if function is run_calibration:
            price = 0.001 if job["case"] == "cheap" else 0.00037
            return dict(id=job["id"], seconds_per_step=price, error=None)
        value = float(job["seed"])
        return empty_row(job) | dict(
            maximize=True, value=value, gap=0.0, cpu_seconds=0.1, curve=[[1, 0.1, value]] * 8
        )

    def close(self):
        pass


def without_times(rows):
    """The rows without what no two runs share."""

    def kept(row):
        curve = [[step, value] for step, _, value in row["curve"]]
        return {k: v for k, v in row.items() if "seconds" not in k} | {"curve": curve}

    return [kept(row) for row in sorted(rows, key=lambda row: row["number"])]


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_keeps_its_contract(name):
    suite = SUITES[name]
    assert suite.name == name and suite.summary.endswith(".")
    assert set(suite.methods) <= set(SOLVERS)
    assert {case.problem for case in suite.cases} <= set(ZOO)
    needs_files = any(case.files for case in suite.cases)
    if needs_files and not NETWORKS.is_dir():
        pytest.skip("BILEVAX_ROAD_NETWORKS names no folder")
    arguments = Arguments(name, tuple(suite.case_names), suite.methods, 2, 1, Budget())
    jobs = plan(replace(arguments, networks=str(NETWORKS))).jobs
    assert len({job.id for job in jobs}) == len(jobs)
    assert [job.number for job in jobs] == list(range(len(jobs)))
    one_each = {job.case: job for job in jobs}
    assert list(one_each) == suite.case_names
    for job in one_each.values():
        build(job.problem, job.options)
    if name != "smoke":
        assert set(suite.references) == set(suite.case_names)
        assert all(one.command and one.versions for one in suite.references.values())


def test_the_smoke_suite_has_a_thousand_runs():
    smoke = SUITES["smoke"]
    assert len(smoke.cases) * len(smoke.methods) * smoke.seeds * smoke.starts == 1000


def test_a_suite_with_equal_names_is_refused():
    case = Case("one", "bimatrix")
    with pytest.raises(ValueError, match="cases holds one twice"):
        Suite("s", "S.", (case, case))
    with pytest.raises(ValueError, match="references names two"):
        Suite("s", "S.", (case,), references={"two": Reference(1.0, "here")})


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 9, 12, 25, 26, 100])
def test_the_interval_of_the_median_is_that_of_the_sign_test(count):
    values = np.random.default_rng(count).normal(size=count)
    k = int(binom.ppf(0.025, count, 0.5))  # as many values may lie outside on each side
    if binom.cdf(k, count, 0.5) > 0.025:
        k -= 1
    expected = None if k < 0 else (np.sort(values)[k], np.sort(values)[count - 1 - k])
    assert median_interval(values) == expected
    assert (expected is None) == (count < 6)


def test_the_interval_covers_the_median_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(2000, 9))
    intervals = [median_interval(draw) for draw in draws]
    inside = [i is not None and i[0] <= np.log(2) <= i[1] for i in intervals]
    assert 0.95 <= np.mean(inside) < 0.99


def test_equal_functions_become_one_so_that_they_compile_once():
    first, second, other = (bx.ImplicitGradient(optax.adam(rate)) for rate in (0.05, 0.05, 0.06))
    assert first.optimizer != second.optimizer
    assert shared(first).optimizer == shared(second).optimizer
    assert shared(first).optimizer != shared(other).optimizer


def test_every_job_becomes_a_row_and_a_folder_is_never_run_twice(own, tmp_path):
    own = replace(own, cases=("cheap",), seeds=6)
    rows = run_bench(own, tmp_path / "out")
    assert [row["number"] for row in rows] == list(range(12))
    assert all(row["error"] is None and row["steps"] == 5 for row in rows)
    assert [step for step, *_ in rows[0]["curve"]] == [1, 1, 1, 1, 1, 1, 2, 5]
    assert rows[0]["value"] == rows[0]["curve"][-1][-1]
    assert rows[0]["maximize"] is False

    path = tmp_path / "out" / ROWS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:40])  # as a crash leaves it
    seen = []
    again = run_bench(own, tmp_path / "out", on_progress=lambda p: seen.append(p.row))
    assert path.read_bytes().splitlines(keepends=True)[:7] == lines[:7]
    assert len([row for row in seen if row]) == 5
    assert without_times(again) == without_times(rows)

    with pytest.raises(ValueError, match="whose budget is 5 steps, and 6 steps is asked for"):
        run_bench(replace(own, budget=Budget("steps", 6)), tmp_path / "out")
    with pytest.raises(ValueError, match="whose seeds is 6, and 4 is asked for"):
        run_bench(replace(own, seeds=4), tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    stored = json.loads(config.read_bytes())
    config.write_text(json.dumps(stored | {"fingerprint": "of another content"}))
    with pytest.raises(ValueError, match="another content of the suite own"):
        run_bench(own, tmp_path / "out")


def test_failing_and_diverging_methods_become_rows(own):
    methods = tuple(f"own.py:{m}" for m in ("raises", "diverges", "no_solver", "absent"))
    rows = run_bench(replace(own, cases=("cheap",), methods=methods, seeds=1, starts=1))
    errors = [row["error"] for row in rows]
    assert "RuntimeError: no such luck" in errors[0]
    assert "infinite or NaN" in errors[1] and rows[1]["result"] == "nonfinite"
    assert "gave a int; give a solver" in errors[2]
    assert "has no function 'absent'" in errors[3]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    summaries = summarise(rows, find_suite(own.suite))
    assert [s.failures for s in summaries] == [1, 1, 1, 1]
    assert not np.isfinite(summaries[0].median)


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


def test_equal_cpu_time_becomes_steps_by_the_measured_speed(own, tmp_path):
    timed = replace(own, budget=Budget("cpu-seconds", 0.5))
    rows = run_bench(timed, tmp_path / "out", make_worker=Canned)
    assert {row["case"]: row["steps"] for row in rows} == {"cheap": 500, "dear": 1300}
    Canned.seen = []
    run_bench(timed, tmp_path / "out", make_worker=Canned)
    assert not Canned.seen  # neither measured nor run again


def test_a_calibration_measures_a_positive_price(own):
    line = LocalWorker().run(run_calibration, vars(plan(own).jobs[0]))
    assert line["error"] is None
    assert 1e-8 < line["seconds_per_step"] < 0.1


def test_a_stationary_start_is_measured_and_takes_its_steps(own):
    name = own.suite.replace(":SUITE", ":FLAT")
    flat = replace(own, suite=name, cases=("flat",), seeds=1, starts=1)
    line = LocalWorker().run(run_calibration, vars(plan(flat).jobs[0]))
    assert line["error"] is None and line["seconds_per_step"] > 0
    (row,) = run_bench(flat)
    assert row["error"] is None and row["steps"] == 5


def test_a_method_that_never_steps_has_no_price(own):
    stuck = replace(own, cases=("cheap",), methods=("own.py:stuck",), seeds=1, starts=1)
    line = LocalWorker().run(run_calibration, vars(plan(stuck).jobs[0]))
    assert "takes no step that could be measured" in line["error"]


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


def test_tables_keep_every_row(own, tmp_path):
    import pandas

    methods = ("own.py:good", "own.py:deadly")
    rows = run_bench(replace(own, methods=methods), tmp_path / "out", make_worker=Canned)
    write_bench_report(tmp_path / "out")
    made = frame(rows)
    assert len(made) == 24 and made["error"].isna().tolist().count(True) == 12
    parquet = pandas.read_parquet(tmp_path / "out" / "rows.parquet")
    pandas.testing.assert_frame_equal(parquet, made)
    csv = pandas.read_csv(tmp_path / "out" / "rows.csv")
    assert list(csv.columns) == list(made.columns)
    np.testing.assert_array_equal(csv["value"], made["value"])
    points = pandas.read_csv(tmp_path / "out" / "curves.csv")
    assert len(points) == 12 * 8 and set(points["id"]) <= set(made["id"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "its process died 2 times" in page and "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "| cheap | own.py:good |" in (tmp_path / "out" / "table.md").read_text()


def test_summaries_count_the_best_start_and_failed_seeds_as_worst():
    def row(number, seed, start, value):
        job = dict.fromkeys(("id", "suite", "problem", "options", "steps", "budget"), "")
        job |= dict(number=number, seed=seed, start=start, case="c", method="m")
        error = None if value is not None else "no"
        fields = dict(maximize=True, value=value, cpu_seconds=1.0, gap=0.1, steps=3)
        return empty_row(job, error) | fields

    values = [(1.0, 3.0), (2.0, None), (None, None), (4.0, 1.0)]
    rows = [row(2 * i + j, i, j, v) for i, pair in enumerate(values) for j, v in enumerate(pair)]
    suite = Suite("s", "S.", (Case("c", "bimatrix"),), references={"c": Reference(5.0, "here")})
    (one,) = summarise(rows, suite)
    assert one.values == (3.0, 2.0, -np.inf, 4.0)
    assert (one.median, one.best, one.failures, one.fraction) == (2.5, 4.0, 3, 0.5)
    assert best_known(rows, suite) == {"c": 5.0}
    np.testing.assert_allclose(seed_shortfalls(rows, suite)["m"], [0.4, 0.6, np.inf, 0.2])
    # A share of a negative number, or of a reference beyond zero, says nothing.
    assert replace(one, median=-2.0, reference=-1.0).fraction is None
    assert replace(one, median=-2.0).fraction is None
    assert replace(one, reference=0.0).fraction is None
    assert replace(one, maximize=False).fraction == 2.0


def test_short_runs_are_points_of_the_curves_and_failed_ones_are_lost(own):
    rows = run_bench(replace(own, methods=("own.py:good", "own.py:deadly")), make_worker=Canned)
    ((seconds, short),) = curves(rows, find_suite(own.suite)).values()
    assert len(seconds) == len(short) == 8 and np.isfinite(short).all()
    some = [row | {"error": "no"} if row["seed"] else row for row in rows]
    ((_, short),) = curves(some, find_suite(own.suite)).values()
    assert np.isinf(short).all()


def test_a_report_of_nothing_but_diverged_runs(own, tmp_path):
    methods = ("own.py:diverges",)
    some = replace(own, cases=("cheap",), methods=methods, seeds=1, starts=1)
    rows = run_bench(some, tmp_path / "out")
    assert best_known(rows, find_suite(own.suite)) == {}
    assert curves(rows, find_suite(own.suite)) == {}
    page = write_bench_report(tmp_path / "out").read_text()
    assert "infinite or NaN" in page


def test_a_report_needs_no_file_of_a_network(tmp_path, cli, monkeypatch):
    folder = tmp_path / "networks"
    folder.mkdir()
    for name in SUITES["tolls"].case("Sioux Falls").files.values():
        (folder / name).write_text("")
    arguments = Arguments("tolls", ("Sioux Falls",), ("pbrl",), 1, 1, Budget(), str(folder))
    run_bench(arguments, tmp_path / "out", make_worker=Canned)
    shutil.rmtree(folder)
    monkeypatch.delenv("BILEVAX_ROAD_NETWORKS", raising=False)
    code, printed, _ = cli("report", tmp_path / "out")
    assert code == 0 and printed.strip() == str(tmp_path / "out" / "report.html")


def test_two_methods_of_one_name_are_refused(own, tmp_path):
    other = tmp_path / "own.py"
    other.write_text(OWN)
    with pytest.raises(ValueError, match=r"methods holds own\.py:good twice"):
        plan(replace(own, methods=("own.py:good", f"{other}:good")))
    with pytest.raises(ValueError, match="cases holds cheap twice"):
        plan(replace(own, cases=("cheap", "cheap")))


def test_bench_on_the_command_line(own, tmp_path, cli, monkeypatch):
    monkeypatch.setattr("bilevax.cli.bench.ProcessWorker", Canned)
    out = tmp_path / "out"
    code, printed, _ = cli("bench", own.suite, "--out", out, "--quiet")
    assert code == 0 and "cheap" in printed and "own.py:good" in printed
    code, printed, _ = cli("bench", "--resume", out, "--json")
    record = json.loads(printed)
    assert code == 0 and record["runs"] == 12 and record["failed"] == 0
    assert [cell["case"] for cell in record["cells"]] == ["cheap", "dear"]
    assert record["cells"][0]["interval"] is None
    for command in (["report", out], ["bench", "--report-only", "--out", out]):
        code, printed, _ = cli(*command)
        assert code == 0 and printed.strip() == str(out / "report.html")
    code, _, error = cli("bench", own.suite, "--out", out, "--steps", "7")
    assert code == 2 and "5 steps, and 7 steps is asked for" in error
    code, printed, _ = cli("list")
    assert code == 0 and "four-rooms" in printed and "smoke" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a SUITE"),
        (["smok"], "did you mean smoke?"),
        (["smoke", "--methods", "pbr"], "did you mean pbrl?"),
        (["smoke", "--cases", "game 10"], "did you mean game 1"),
        (["smoke", "--steps", "3", "--cpu-seconds", "1"], "are two budgets"),
        (["smoke", "--cpu-seconds", "-1"], "--cpu-seconds is -1.0; give a positive number"),
        (["--resume", "nowhere"], "nowhere holds no benchmark"),
        (["smoke", "--resume", "nowhere"], "--resume takes everything from the folder"),
        (["--report-only"], "give --out DIR"),
        (["smoke", "--retry-failed"], "--retry-failed needs the folder"),
        (["smoke", "--reference", "--steps", "3", "--json"], "leave out --steps and --json"),
        (["smoke", "--methods", ",", "--out", "x"], "methods is empty: name at least one"),
        (["smoke", "--cases", " ; ", "--out", "x"], "cases is empty: name at least one"),
        (["none.py:SUITE"], "none.py does not exist"),
        (["tolls"], "name its folder by --network or BILEVAX_ROAD_NETWORKS"),
        (["tolls", "--network", "nowhere"], "nowhere has no such file"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(arguments, words, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BILEVAX_ROAD_NETWORKS", raising=False)
    code, printed, error = cli("bench", *arguments)
    assert code == 2 and not printed
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_failed_runs_are_repeated_on_request_only(own, tmp_path, cli, monkeypatch):
    monkeypatch.setattr("bilevax.cli.bench.ProcessWorker", Canned)
    out = tmp_path / "out"
    methods = ("--methods", "own.py:good,own.py:deadly", "--cases", "cheap")
    code, printed, _ = cli("bench", own.suite, *methods, "--out", out, "--json")
    assert code == 0 and json.loads(printed)["failed"] == 6
    monkeypatch.setattr(Canned, "deadly", "nothing")
    code, printed, _ = cli("bench", "--resume", out, "--json")
    assert json.loads(printed)["failed"] == 6
    code, printed, _ = cli("bench", "--resume", out, "--retry-failed", "--json")
    assert code == 0 and json.loads(printed)["failed"] == 0
    rows = read_rows(out)
    assert [row["number"] for row in rows] == list(range(12))
    assert len(read_lines(out / ROWS)) == 18 and not any(row["error"] for row in rows)


def test_a_failed_measurement_is_repeated_too(own, tmp_path, monkeypatch):
    timed = replace(own, methods=("own.py:deadly",), budget=Budget("cpu-seconds", 0.5))
    rows = run_bench(timed, tmp_path, make_worker=Canned)
    assert all("its process died" in row["error"] for row in rows)
    monkeypatch.setattr(Canned, "deadly", "nothing")
    rows = run_bench(timed, tmp_path, make_worker=Canned, retry_failed=True)
    assert not any(row["error"] for row in rows)
    assert {row["case"]: row["steps"] for row in rows} == {"cheap": 500, "dear": 1300}


@pytest.mark.slow
def test_a_reference_says_for_itself_what_computed_it(own, tmp_path, cli):
    path = tmp_path / "own.py"
    path.write_text(OWN.replace('"own.py:good",', '"pbrl",'))
    suite = f"{path}:SUITE"
    old = dict(value=-1e9, source="a guess", command="guess", versions={"guess": "1"})
    stored = tmp_path / "own.reference.json"
    stored.write_text(json.dumps(dict(cases=dict(dear=old, cheap=old | dict(value=1e9)))))
    code, printed, error = cli(
        "bench", suite, "--reference", "--cases", "cheap", "--starts", "1", "--quiet"
    )
    assert code == 0 and printed.strip() == str(stored) and not error
    cases = json.loads(stored.read_text())["cases"]
    assert cases["dear"] == old
    assert cases["cheap"]["command"] == (
        "bilevax bench own.py:SUITE --reference --cases cheap --starts 1"
    )
    assert (
        cases["cheap"]["source"].startswith("best of 1 wide start") and cases["cheap"]["versions"]
    )
    assert str(tmp_path) not in stored.read_text()


def test_ray_that_is_missing_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, error = cli("bench", "smoke", "--ray", "local")
    assert code == 2 and 'pip install "bilevax[ray]"' in error


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", "no Ray answers there"), ("somewhere", "give HOST:PORT, auto or local")],
)
def test_a_ray_that_does_not_answer_is_one_line(address, words, cli):
    pytest.importorskip("ray")
    code, _, error = cli("bench", "smoke", "--ray", address)
    assert code == 2 and words in error and error.count("\n") == 1


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
