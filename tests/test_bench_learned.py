"""Cases of `bilevax bench` that are learned from preferences: `rlhf:ENV`."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from bench_suite import without_times

from bilevax.bench import Arguments, Budget, Case, Suite, find_suite, plan, run_bench
from bilevax.bench import learned as learned_module
from bilevax.bench.job import empty_row, run_job
from bilevax.bench.report import write_bench_report
from bilevax.bench.rows import ROWS, read_lines
from bilevax.bench.statistics import curves
from bilevax.bench.suites import SUITES
from bilevax.bench.words import LEARNED, MIXED, SOLVED, words_for
from bilevax.deep.presets import preset
from bilevax.deep.rlhf.run import run_rlhf
from bilevax.deep.teacher import ScriptedTeacher

OWN = """
from bilevax.bench import Case, Suite

dot = dict(labels=20, rounds=3)
SUITE = Suite(
    name="dots",
    summary="A dot that is to stay left.",
    cases=(Case("dot", "rlhf:moving-dot", dot), Case("toy", "bimatrix", dict(game=3))),
    methods=("pbrl",),
    environment_steps=2000,
    seeds=2,
    starts=1,
)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("dots") / "dots.py"
    path.write_text(OWN)
    budget = Budget("environment-steps", 2000)
    return Arguments(f"{path}:SUITE", ("dot",), ("true-reward",), 2, 1, budget)


@pytest.mark.slow
def test_a_learned_run_is_a_row_and_is_never_run_twice(own, tmp_path):
    rows = run_bench(own, tmp_path / "out")
    for row in rows:
        assert row["error"] is None and row["result"] == "finished" and row["maximize"]
        assert row["gap"] is None and row["upper_value"] is None and row["attempts"] == 1
        steps, seconds, returns = zip(*row["curve"], strict=True)
        assert len(row["curve"]) == 3 and list(steps) == sorted(steps)
        # Three rounds of as many rollouts of 8 steps as fit, after a first window of as many.
        assert row["environment_steps"] == row["steps"] == steps[-1] == (8 + 3 * 5) * 8 * 16
        assert row["spent"] == row["environment_steps"] / 2000
        assert list(seconds) == sorted(seconds) and 0 < seconds[-1] <= row["cpu_seconds"]
        assert None in returns  # no episode of 50 steps ended in that round
    assert rows[0]["compile_seconds"] > 0 == rows[1]["compile_seconds"]
    assert rows[0]["value"] != rows[1]["value"]

    # The numbers are those of the library's own runs, in float32.
    algorithm = learned_module._prepare(asdict(plan(own).jobs[0])).algorithm
    run = run_rlhf(algorithm, [100, 101], workers=1)
    assert [row["value"] for row in rows] == [one.true_return for one in run.seeds]
    assert [row["steps"] for row in rows] == [one.steps for one in run.seeds]
    history = [line["true_return"] for line in run.history if line["seed"] == 100]
    seen = [math.nan if point[2] is None else point[2] for point in rows[0]["curve"]]
    np.testing.assert_array_equal(seen, history)

    path = tmp_path / "out" / ROWS
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    done = []
    again = run_bench(own, tmp_path / "out", on_progress=lambda p: done.append(p.row))
    assert len([row for row in done if row]) == 1 and len(read_lines(path)) == 2
    assert without_times(again) == without_times(rows)

    page = write_bench_report(tmp_path / "out").read_text()
    assert "true return" in page and "147 %" in page
    for words in ("lower level", "certif", "Gap", "eference"):
        assert words not in page, words
    assert len(next(iter(curves(rows, find_suite(own.suite)).values()))[0]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["drlhf", "pbrl"])
def test_learning_from_preferences_gives_the_numbers_of_the_library(own, method):
    (row,) = run_bench(replace(own, methods=(method,), seeds=1))
    found = preset("moving-dot")
    algorithm = found.algorithm(method, found.setup(steps=2000, labels=20, rounds=3))
    run = run_rlhf(algorithm, [100], teacher=ScriptedTeacher.oracle(), workers=1)
    assert row["error"] is None and row["value"] == run.true_return
    assert row["environment_steps"] == run.seeds[0].steps


@pytest.mark.slow
def test_a_run_with_another_preset_is_another_run(own, monkeypatch):
    from bilevax.deep import presets

    ids = lambda: [job.id for job in plan(own).jobs]
    first = ids()
    learned_module._prepared.cache_clear()
    assert ids() == first
    slower = replace(presets.preset("moving-dot"), learner=presets._a2c(2e-3))
    monkeypatch.setattr(presets, "preset", lambda name: slower)
    learned_module._prepared.cache_clear()
    assert not set(ids()) & set(first)
    learned_module._prepared.cache_clear()


@pytest.mark.slow
def test_a_run_that_is_stopped_is_a_row_with_its_reason(own, monkeypatch):
    from bilevax.deep.rlhf import rounds

    stopped = lambda algorithm, state, teacher: (state, {}, "the reward became NaN")
    monkeypatch.setattr(rounds, "one_round", stopped)
    job = asdict(plan(own).jobs[0])
    row = run_job(job)
    assert row["error"] == "round 0: the reward became NaN." and row["result"] == "stopped"
    assert row["value"] is None and row["curve"] == []
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_every_teacher_that_a_case_may_name_is_the_librarys():
    made = [learned_module._teacher(name) for name in learned_module.TEACHERS]
    wanted = ("oracle", "noisy", "mistaken", "myopic")
    assert made == [getattr(ScriptedTeacher, name)() for name in wanted]


@pytest.mark.parametrize(
    ("name", "methods", "settings"),
    [
        ("rlhf-minatar", 3, {(1000, "oracle")}),
        ("rlhf-labels", 2, {(500, "oracle"), (250, "oracle")}),
        ("rlhf-teachers", 2, {(1000, "mistake"), (1000, "noisy")}),
    ],
)
def test_the_minatar_suites_say_what_is_compared(name, methods, settings):
    pytest.importorskip("gymnax")
    suite = SUITES[name]
    arguments = Arguments(name, tuple(suite.case_names), suite.methods, 6, 1, Budget())
    work = plan(arguments)
    assert work.arguments.budget == Budget("environment-steps", 1_000_000)
    assert len(work.jobs) == 4 * len(settings) * methods * 6 and not work.calibrations
    assert {job.steps for job in work.jobs} == {1_000_000}
    labels = lambda job: (job.options["labels"], job.options.get("teacher", "oracle"))
    assert {labels(job) for job in work.jobs} == settings
    games = {"breakout", "asterix", "freeway", "space-invaders"}
    assert {job.problem for job in work.jobs} == {f"rlhf:minatar-{game}" for game in games}


def test_without_a_budget_the_preset_has_its_own(own, tmp_path):
    path = tmp_path / "dots.py"
    path.write_text(OWN.replace("    environment_steps=2000,\n", ""))
    mixed = replace(own, suite=f"{path}:SUITE", cases=("dot", "toy"), methods=("pbrl",))
    jobs = plan(replace(mixed, budget=Budget())).jobs
    assert {job.steps for job in jobs} == {None}
    assert {job.budget for job in jobs} == {"each problem's own number of steps"}


def test_the_words_are_those_that_hold():
    job = dict.fromkeys(("id", "number", "suite", "case", "options", "method", "seed"), "")
    job |= dict(start=0, steps=1, budget="")
    rows = [empty_row(job | dict(problem=name)) for name in ("rlhf:moving-dot", "bimatrix")]
    assert [words_for(some) for some in (rows[:1], rows[1:], rows)] == [LEARNED, SOLVED, MIXED]


def test_curves_of_several_lengths_are_read_at_the_same_shares():
    def row(number, points):
        job = dict.fromkeys(("id", "suite", "problem", "options", "steps", "budget"), "")
        job |= dict(number=number, seed=number, start=0, case="c", method="m")
        curve = [[i + 1, (i + 1) / points, 1 - (i + 1) / points] for i in range(points)]
        return empty_row(job) | dict(maximize=True, value=0.0, cpu_seconds=1.0, curve=curve)

    suite = Suite("s", "S.", (Case("c", "bimatrix"),))
    ((seconds, short),) = curves([row(0, 3), row(1, 9)], suite).values()
    np.testing.assert_allclose(seconds, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(short, [2 / 3, 1 / 3, 0], atol=1e-12)
    ((steps, _),) = curves([row(0, 3)], suite, axis=0).values()
    np.testing.assert_array_equal(steps, [1, 2, 3])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "3"], "by environment steps, and the budget is 3 steps: give --env"),
        (["--cpu-seconds", "3"], "and the budget is 3 CPU seconds: give --environment-steps"),
        (["--methods", "hpgd"], "hpgd is no method for that: give --methods pbrl,drlhf,true-rew"),
        (["--methods", "own.py:good"], "own.py:good is no method for that"),
        (["--environment-steps", "9"], "the case dot: Setup: 9 steps in all, rounds 3, leave no"),
        (["--cases", "dot;toy"], "pbrl samples no episodes on the case toy and takes no"),
        (["--cases", "toy", "--methods", "drlhf"], "there is no method 'drlhf'"),
        (["--reference"], "the case dot is learned from preferences, where no value to reach"),
    ],
)
def test_what_learning_cannot_do_is_one_line(own, options, words, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [] if "--cases" in options else ["--cases", "dot"]
    given += [] if "--reference" in options else ["--out", "x"]
    code, printed, error = cli("bench", own.suite, *given, *options)
    assert code == 2 and not printed
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("problem", "options", "words"),
    [
        ("rlhf:moving-dots", {}, "the case c: preset: there is no 'moving-dots'"),
        ("rlhf:moving-dot", dict(weight=3), "takes no option weight; give some of labels, teacher"),
        ("rlhf:moving-dot", dict(teacher="kind"), "the teacher is 'kind'; give one of oracle"),
        ("rlhf:moving-dot", dict(labels=-1), "the case c: Decreasing: -1 labels over"),
    ],
)
def test_a_case_that_cannot_be_learned_is_refused_before_anything_runs(
    problem, options, words, monkeypatch
):
    suite = Suite("s", "S.", (Case("c", problem, options),), environment_steps=2000)
    monkeypatch.setitem(SUITES, "s", suite)
    with pytest.raises(ValueError, match=words):
        plan(Arguments("s", ("c",), ("pbrl",), 1, 1, Budget()))


def test_two_default_budgets_are_refused():
    with pytest.raises(ValueError, match="steps and environment_steps are two budgets"):
        Suite("s", "S.", (Case("c", "bimatrix"),), steps=3, environment_steps=3)


def test_a_missing_extra_is_named_before_anything_runs(cli, monkeypatch, tmp_path):
    learned_module._prepared.cache_clear()
    monkeypatch.setitem(sys.modules, "gymnax", None)
    code, printed, error = cli("bench", "rlhf-minatar", "--out", tmp_path / "x")
    assert code == 2 and not printed and error.count("\n") == 1
    assert "bilevax[minatar]" in error and not list(tmp_path.iterdir())


def test_benchmarks_of_tabular_problems_do_not_import_the_deep_package():
    code = (
        "import sys, bilevax.bench, bilevax.bench.run, bilevax.bench.report;"
        "assert not [name for name in sys.modules if name.startswith('bilevax.deep')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
