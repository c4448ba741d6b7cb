"""`bilevax bench` on the command line."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_suite import OWN, Canned, own_suite

from bilevax.bench import (
    Arguments,
    Budget,
    run_bench,
)
from bilevax.bench.rows import ROWS, read_lines
from bilevax.bench.run import read_rows
from bilevax.bench.suites import SUITES

NETWORKS = Path(os.environ.get("BILEVAX_ROAD_NETWORKS", "road-networks"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return own_suite(tmp_path_factory.mktemp("own"))


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
        (["smok"], "did you mean 'smoke'?"),
        (["smoke", "--methods", "pbr"], "did you mean 'pbrl'?"),
        (["smoke", "--cases", "game 10"], "did you mean 'game 1"),
        (["smoke", "--steps", "3", "--cpu-seconds", "1"], "are 2 budgets"),
        (["smoke", "--cpu-seconds", "-1"], "--cpu-seconds is -1.0; give a positive number"),
        (["smoke", "--steps", "3", "--environment-steps", "9"], "are 2 budgets"),
        (
            ["smoke", "--methods", "hpgd,pbrl", "--environment-steps", "100000", "--out", "x"],
            "pbrl samples no episodes on the case game 0 and takes no environment steps: leave it "
            "out of --methods, or give another budget",
        ),
        (
            ["smoke", "--methods", "hpgd", "--environment-steps", "7", "--out", "x"],
            "--environment-steps is 7, and one step of hpgd on the case game 0 takes",
        ),
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
    assert cases["cheap"]["source"].startswith("best of 1 start") and cases["cheap"]["versions"]
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
