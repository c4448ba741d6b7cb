"""Suites, jobs, statistics and tables of `bilevax bench`."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from bench_suite import OWN, Canned, own_suite, without_times

import bilevax as bx
from bilevax.bench import (
    Arguments,
    Budget,
    Case,
    Reference,
    Suite,
    find_suite,
    plan,
    run_bench,
    summarise,
)
from bilevax.bench import job as job_module
from bilevax.bench.budget import share_spent, within_budget
from bilevax.bench.job import run_calibration, shared
from bilevax.bench.learned import METHODS as LEARNERS
from bilevax.bench.report import markdown, write_bench_report
from bilevax.bench.rows import ROWS
from bilevax.bench.rows import table as frame
from bilevax.bench.statistics import best_known, curves
from bilevax.bench.suites import SUITES
from bilevax.bench.workers import LocalWorker
from bilevax.deep.presets import ALGORITHMS, PRESETS
from bilevax.tasks.catalogue import ZOO, build
from bilevax.tasks.settings import SOLVERS

NETWORKS = Path(os.environ.get("BILEVAX_ROAD_NETWORKS", "road-networks"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return own_suite(tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_keeps_its_contract(name):
    suite = SUITES[name]
    assert suite.name == name and suite.summary.endswith(".")
    learned = name.startswith("rlhf-")
    assert set(suite.methods) <= set(LEARNERS if learned else SOLVERS)
    assert set(LEARNERS) == set(ALGORITHMS)
    if learned:
        pytest.importorskip("gymnax")
        assert {case.problem.removeprefix("rlhf:") for case in suite.cases} <= set(PRESETS)
    else:
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
    if learned:  # no value to reach can be computed
        assert not suite.references
        return
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


def test_only_seed_0_begins_at_the_x0_of_ones_own_problem(own):
    begins = lambda starts: {
        (job.seed, job.start): np.asarray(job_module._prepare(asdict(job))[1])
        for job in plan(replace(own, cases=("cheap",), starts=starts)).jobs
    }
    single, double = begins(1), begins(2)
    x0 = build(f"{own.suite.rpartition(':')[0]}:toy", {}).starts
    for seed in range(3):
        key = jax.random.split(jax.random.key(seed))[0]
        assert (single[seed, 0] == 0).all() == (seed == 0)
        assert np.abs(single[seed, 0]).max() < np.abs(double[seed, 1]).max()  # near, and wide
        assert (double[seed, 1] == x0(key, 2)[1]).all() == (seed == 0)
    assert not (single[1, 0] == single[2, 0]).any()


def test_a_problem_of_the_zoo_keeps_the_starts_of_solve():
    for job in plan(Arguments("discrete-toy", ("bonus 1",), ("pbrl",), 2, 2, Budget())).jobs:
        key = jax.random.split(jax.random.key(job.seed))[0]
        drawn = build("discrete-toy", {}).starts(key, 2)[job.start]
        np.testing.assert_array_equal(job_module._prepare(asdict(job))[1], drawn)


def test_only_the_runs_of_an_edited_file_are_repeated(own, tmp_path):
    method = tmp_path / "method.py"
    method.write_text("def mine(problem, steps): return 1")
    both = replace(own, methods=("own.py:good", f"{method}:mine"), cases=("cheap",), seeds=2)
    before = run_bench(both, tmp_path / "out", make_worker=Canned)
    assert run_bench(both, tmp_path / "out", make_worker=Canned) == before
    method.write_text("def mine(problem, steps): return 2")
    seen = []
    tell = lambda progress: seen.append(progress)
    after = run_bench(both, tmp_path / "out", make_worker=Canned, on_progress=tell)
    repeated = [progress.row["method"] for progress in seen if progress.row]
    assert repeated == [f"{method}:mine"] * 4
    assert [progress.done for progress in seen] == [4, 5, 6, 7, 8]
    assert [row["id"] == old["id"] for row, old in zip(after, before, strict=True)] == [
        "good" in row["method"] for row in after
    ]


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


def test_equal_cpu_time_becomes_steps_by_the_measured_speed(own, tmp_path):
    timed = replace(own, budget=Budget("cpu-seconds", 0.5))
    rows = run_bench(timed, tmp_path / "out", make_worker=Canned)
    assert {row["case"]: row["steps"] for row in rows} == {"cheap": 500, "dear": 1300}
    Canned.seen = []
    run_bench(timed, tmp_path / "out", make_worker=Canned)
    assert not Canned.seen  # neither measured nor run again


@pytest.mark.parametrize(("power", "within"), [(1, 1.01), (1.5, 1.25), (2, 1.25), (0.5, 1.5)])
def test_runs_come_within_their_cpu_budget_whatever_later_steps_cost(power, within):
    seen = []

    def run(job):
        seen.append(job["steps"])
        return dict(steps=job["steps"], cpu_seconds=1e-4 * job["steps"] ** power, error=None)

    exact = (10.0 / 1e-4) ** (1 / power)  # the steps that use the budget up
    for factor in (0.2, 1.1, 5.0):
        seen.clear()
        job = dict(kind="cpu-seconds", amount=10.0, steps=max(1, round(factor * exact)))
        fields = within_budget(job, run)
        assert fields["attempts"] == len(seen) <= 3 and (len(seen) == 1) == (factor == 1.1)
        used = [(1e-4 * steps**power, steps) for steps in seen]
        assert fields["steps"] == min(used, key=lambda one: abs(np.log(one[0] / 10)))[1]
        if factor != 1.1:
            assert 1 / within <= fields["cpu_seconds"] / 10 <= within
        assert share_spent(fields, job) == round(fields["cpu_seconds"] / 10, 4)


def test_a_run_that_cannot_come_closer_or_failed_is_not_repeated():
    job = dict(kind="cpu-seconds", amount=1.0, steps=1)
    seen = []

    def run(job, seconds=9.0, error=None):
        seen.append(job["steps"])
        return dict(steps=job["steps"], cpu_seconds=seconds, error=error)

    assert within_budget(job, run)["attempts"] == len(seen) == 1  # one step is the least
    failing = lambda job: run(job, error="no")
    assert within_budget(job | dict(steps=50), failing)["attempts"] == 1
    # An attempt that fails does not take the place of one that did not.
    later = lambda job: run(job, error="no" if job["steps"] < 50 else None)
    fields = within_budget(job | dict(steps=50), later)
    assert (fields["steps"], fields["attempts"], fields["error"]) == (50, 2, None)

    def raising(job):
        if job["steps"] < 50:
            raise ValueError("no")
        return run(job)

    fields = within_budget(job | dict(steps=50), raising)
    assert (fields["steps"], fields["attempts"], fields["error"]) == (50, 2, None)
    other = job | dict(kind="steps", amount=50)
    assert within_budget(other, run)["attempts"] == 1 and share_spent(run(other), other) is None


@pytest.mark.slow
def test_a_method_whose_steps_get_dearer_is_run_again_with_fewer(monkeypatch):
    clock = [0.0]

    def dearer(prepared, state, steps):
        clock[0] += 1e-5 * (steps**2 - int(state.step) ** 2)
        return advance(prepared, state, steps)

    advance = job_module._advance
    monkeypatch.setattr(job_module, "_advance", dearer)
    times = SimpleNamespace(process_time=lambda: clock[0], perf_counter=time.perf_counter)
    monkeypatch.setattr(job_module, "time", times)
    budget = Budget("cpu-seconds", 1.0)
    (row,) = run_bench(Arguments("smoke", ("game 0",), ("independent",), 1, 1, budget))
    assert row["error"] is None and row["attempts"] > 1
    assert row["cpu_seconds"] == pytest.approx(1e-5 * row["steps"] ** 2)
    assert 1 / 1.5 < row["spent"] < 1.5 and abs(row["spent"] - row["cpu_seconds"]) < 1e-4
    assert row["curve"][-1][0] == row["steps"] and row["curve"][0][0] < row["steps"] / 64
    words = markdown([row], SUITES["smoke"])
    assert "1 of 1 run, more than 1.5 times off at first, was done anew" in words


@pytest.mark.slow
def test_environment_steps_become_steps_by_what_each_of_them_draws():
    wanted = Arguments(
        "smoke", ("game 0", "game 1"), ("hpgd",), 1, 1, Budget("environment-steps", 40_000)
    )
    rows = run_bench(replace(wanted, cases=("game 0",)))
    (job, _) = plan(wanted).jobs
    zoo = build(job.problem, job.options)
    # 32 episodes, until what is left counts a thousandth.
    length = np.ceil(np.log(1e-3) / np.log(float(zoo.problem.discount)))
    assert rows[0]["error"] is None and rows[0]["steps"] == job.steps == 40_000 // (32 * length)
    assert rows[0]["environment_steps"] == 32 * length * job.steps <= 40_000
    assert rows[0]["spent"] == round(rows[0]["environment_steps"] / 40_000, 4) > 0.9
    assert "40,000 environment steps for each start" in markdown(rows, SUITES["smoke"])


def test_a_budget_names_its_kind_and_has_an_amount():
    with pytest.raises(ValueError, match="kind is 'hours'; give one of steps, cpu-seconds, env"):
        Budget("hours", 3)
    with pytest.raises(ValueError, match="amount is None; give a number of environment-steps"):
        Budget("environment-steps")


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
    table = (tmp_path / "out" / "table.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    details = [line for line in lines if line[:2] == ["Case", "Method"] or line[0] == "cheap"]
    column = details[-3].index("Ahead")
    assert [line[1] for line in details[-2:]] == ["own.py:good", "own.py:deadly"]
    # The other method always failed: the first has none to be compared with, that one is behind.
    assert [line[column].strip() for line in details[-2:]] == ["", "0.00"]


def test_a_report_of_nothing_but_diverged_runs(own, tmp_path):
    methods = ("own.py:diverges",)
    some = replace(own, cases=("cheap",), methods=methods, seeds=1, starts=1)
    rows = run_bench(some, tmp_path / "out")
    assert best_known(rows, find_suite(own.suite)) == {}
    assert curves(rows, find_suite(own.suite)) == {}
    page = write_bench_report(tmp_path / "out").read_text()
    assert "infinite or NaN" in page


def test_two_methods_of_one_name_are_refused(own, tmp_path):
    other = tmp_path / "own.py"
    other.write_text(OWN)
    with pytest.raises(ValueError, match=r"methods holds own\.py:good twice"):
        plan(replace(own, methods=("own.py:good", f"{other}:good")))
    with pytest.raises(ValueError, match="cases holds cheap twice"):
        plan(replace(own, cases=("cheap", "cheap")))
