import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevax as bx
from bilevax.cli.entry import _forget_halves
from bilevax.io.files import write_json
from bilevax.io.run_folder import history_line
from bilevax.tasks.catalogue import build
from bilevax.tasks.settings import Settings, prepare, read_settings

# One problem and one penalty weight throughout: what is compiled once serves all these tests.
GAME = ["bimatrix", "--starts", "2", "--penalty-weight", "5", "--quiet"]
QUICK = [*GAME, "--steps", "30"]

OWN = """
import jax.numpy as jnp
import bilevax as bx

def lower(x):
    return bx.MDP(jnp.stack([x, 1 - x]).T, jnp.full((2, 2, 2), 0.5), discount=0.5, tau=0.5)

def upper(x, policy, evaluation):
    return jnp.sum(x**2) - evaluation.expected_return(jnp.eye(2))

def make():
    '''A toy of one's own.'''
    return bx.BilevelProblem(upper, lower), [0.1, 0.2]

def no_start():
    return bx.BilevelProblem(upper, lower)

def not_a_problem():
    return 3

def needs(size):
    return make()

def raises():
    return 1 / 0

def vector():
    return bx.BilevelProblem(lambda x, policy, evaluation: x, lower), jnp.zeros(2)

def faulty():
    def wrong(x, policy, evaluation):
        return evaluation.no_such_thing
    return bx.BilevelProblem(wrong, lower), jnp.zeros(2)
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_list_names_every_problem_and_solver(cli):
    code, out, _ = cli("list")
    assert code == 0
    for name in (
        *("stackelberg", "four-rooms", "discrete-toy", "bimatrix", "random-reward"),
        *("reward-design", "matrix-game", "incentive-game", "sentinel-intruder", "preferences"),
        *("tolls", "tax"),
        *("pbrl", "pbrl-bellman", "panda", "implicit", "meta-gradient", "independent"),
    ):
        assert name in out


def test_version(cli):
    assert cli("--version") == (0, f"bilevax {bx.__version__}\n", "")


def test_without_arguments_the_help_is_shown(cli):
    code, out, err = cli()
    assert code == 2 and "compare" in out + err and "error" not in err


@pytest.mark.slow
def test_a_run_prints_one_json_object_and_fills_its_folder(cli, tmp_path):
    folder = tmp_path / "runs" / "game"
    arguments = ("solve", "--json", *QUICK, "--gap-tol", 10, "--out", folder, "--game", 4)
    code, out, err = cli(*arguments)
    line = json.loads(out)
    assert code == 0 and err == ""
    assert list(line) == [
        *("problem", "solver", "upper_value", "upper_value_at_best_response", "gap"),
        *("relative_gap", "result", "steps", "starts", "seed", "polished", "wall_seconds"),
        *("compile_seconds", "out"),
    ]
    assert (line["result"], line["steps"], line["starts"], line["seed"]) == ("successful", 30, 2, 0)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "history.jsonl", "picture.svg", "report.html", "result.json"),
        "solution.npz",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["options"] == {"game": 4}
    assert config["command"] == ["bilevax", *map(str, arguments)]
    assert {"bilevax", "jax", "python"} <= set(config["versions"])
    with np.load(folder / "solution.npz") as arrays:
        leader, follower = arrays["leader_policy"][0], arrays["policy"][0]
        assert leader @ [[3, 1], [2, 0]] @ follower == pytest.approx(line["upper_value"])
    code, out, _ = cli("report", folder)
    assert code == 0 and out.strip() == str(folder / "report.html")
    code, _, err = cli("solve", *QUICK, "--out", folder)
    assert code == 2 and "is not empty" in err
    code, _, err = cli("solve", "--resume", folder)
    assert code == 2 and "is finished" in err


def test_an_infeasible_outcome_has_exit_code_1_and_says_what_to_do(cli):
    code, out, _ = cli("solve", *QUICK, "--tau", 1, "--gap-tol", 1e-6)
    assert code == 1
    assert "infeasible" in out and "raise the penalty weight" in " ".join(out.split())


@pytest.mark.slow
def test_a_problem_of_ones_own_is_solved(cli, own):
    code, out, err = cli("solve", f"{own}:make", "--json", "--starts", 1, "--steps", 400)
    line = json.loads(out)
    assert code == 0 and "compiled in" in err

    # F at the solution is below F anywhere on a coarse grid around it, up to the penalty's bias.
    def value(x):
        reward = jnp.stack([x, 1 - x]).T
        mdp = bx.MDP(reward, jnp.full((2, 2, 2), 0.5), discount=0.5, tau=0.5)
        evaluation = bx.evaluate(mdp, bx.best_responses(mdp).policy)
        return jnp.sum(x**2) - evaluation.expected_return(jnp.eye(2))

    grid = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, 21), jnp.linspace(-1, 1, 21)), -1)
    lowest = jnp.min(jax.jit(jax.vmap(value))(grid.reshape(-1, 2)))
    assert line["upper_value_at_best_response"] < lowest + 1e-3


def bad(*arguments):
    return pytest.param(arguments[:-1], arguments[-1], id=" ".join(map(str, arguments[:-1])))


@pytest.mark.parametrize(
    "arguments, message",
    [
        bad("solve", "four-room", "there is no problem 'four-room': did you mean 'four-rooms'?"),
        bad("solve", "xyz", "there are stackelberg, four-rooms, .* FILE.py:FUNCTION"),
        bad("solve", "bimatrix", "--solver", "pbrl-belman", "did you mean 'pbrl-bellman'?"),
        bad("solve", "name a PROBLEM"),
        bad("solve", "bimatrix", "--startz", "3", "No such option: --startz"),
        bad("solve", "bimatrix", "--starts", "0", "--starts.*(0 is not in the range|found '0')"),
        bad("solve", "bimatrix", "--steps", "0", "--steps.*(range|greater than or equal to 1)"),
        bad("solve", "bimatrix", "--steps", "many", "--steps.*'many'"),
        bad("solve", "bimatrix", "--learning-rate", "0", "--learning-rate is 0.0; give a positive"),
        bad("solve", "bimatrix", "--anneal", "0.5", "--anneal.*(range|greater than or equal to 1)"),
        bad("solve", "bimatrix", "--anneal", "2", "--tau", "0", "--anneal: tau is 0"),
        bad("solve", "bimatrix", "--polish", "--tau", "0", "--polish: tau is 0"),
        bad("solve", "bimatrix", "--polish", "--solver", "independent", "take another solver"),
        bad("solve", "bimatrix", "--solver", "panda", "--tau", "0", "the solver panda: tau is 0"),
        bad("solve", "bimatrix", "--penalty-weight", "-1", "--penalty-weight is -1.0"),
        bad("solve", "--beta", "2", "bimatrix", "--beta does not apply .* belongs to four-rooms"),
        bad("solve", "four-rooms", "--problem-seed", "1", "belongs to stackelberg, random-reward"),
        bad("solve", "bimatrix", "--leader", "[[1,2],[3]]", r"the rows have \[2, 1\] entries"),
        bad("solve", "bimatrix", "--leader", '[[1,"a"]]', "the entry 'a' is not a number"),
        bad("solve", "bimatrix", "--leader", "1 2", "is no matrix: write rows in brackets"),
        bad("solve", "bimatrix", "--leader", "[[1]]", "give leader and follower"),
        bad("solve", "bimatrix", "--leader", "[[1]]", "--follower", "[[1,2]]", r"\(1, 1, 1\)"),
        bad("solve", "bimatrix", "--tau", "-1", "tau is -1.0; it must be"),
        bad("solve", "four-rooms", "--tau", "-1", "tau is -1.0; it must be"),
        bad("solve", "discrete-toy", "--discount", "1.5", r"discount is 1.5; it must lie in \[0"),
        bad("solve", "four-rooms", "--discount", "1.5", r"discount is 1.5; it must lie in \[0"),
        bad("solve", "bimatrix", "--tau", "0", "--solver", "pbrl-bellman", "tau is 0; .* NikaidoI"),
        bad("solve", "bimatrix", "--tau", "0", "--solver", "implicit", "tau is 0, where the best"),
        bad("solve", "bimatrix", "--solver", "implicit", "--penalty-final", "9", "has no penalty"),
        bad("solve", "reward-design", "--avoid", "a,b", "is no list of states"),
        bad("solve", "preferences", "--rewards", "2,x", "is no list of numbers"),
        bad("solve", "preferences", "--rewards", "2", "give two or more finite numbers"),
        bad("solve", "reward-design", "--env", "Nope-v0", "Nope"),
        bad("solve", "--resume", "/dev/null", "is not a folder"),
        bad("solve", "--resume", ".", "holds no run"),
        bad("solve", "bimatrix", "--resume", ".", "takes everything from .*: leave out PROBLEM[.]"),
        bad("solve", "bimatrix", "--out", "/dev/null/x", "is not a folder"),
        bad("report", "nowhere", "nowhere does not exist"),
        bad("compare", "bimatrix", "--solvers", "pbrl,newton", "there is no solver 'newton'"),
        bad("solve", "bimatrix", "--solver", "own.py:mine", "such methods belong to bilevax bench"),
        bad("compare", "bimatrix", "--solvers", "amd", "--penalty-weight", 3, "has no penalty"),
        bad("compare", "bimatrix", "--solvers", "own.py:mine", "or give it to bilevax bench --met"),
        bad("solve", "nowhere.py:make", "nowhere.py does not exist"),
        bad("solve", "bilevax.py", "write FILE.py:FUNCTION"),
        bad("nothing", "No such command"),
    ],
)
@pytest.mark.slow
def test_bad_input_is_one_line_and_exit_code_2(cli, arguments, message):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("bilevax: error: ") and err.count("\n") == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    "options, named",
    [
        (["--steps", "5000", "--solver", "implicit"], "--solver and --steps."),
        (["--seed", "3", "--problem-seed", "0"], "--seed and --problem-seed."),
        (["--polish", "--gap-tol", "0.1", "--out", "x"], "--polish and --gap-tol and --out."),
    ],
)
def test_resume_refuses_what_the_folder_has_settled(cli, options, named):
    code, _, err = cli("solve", "--resume", ".", *options)
    assert code == 2 and err.endswith(f"from the folder: leave out {named}\n")
    code, _, err = cli("solve", "--resume", ".", "--json", "--quiet", "--workers", 1)
    assert code == 2 and "holds no run" in err


@pytest.mark.parametrize(
    "function, message",
    [
        ("absent", r"has no function 'absent' \(it has \['lower', 'upper', 'make',"),
        ("no_start", r"without a start: return \(problem, x0\)"),
        ("not_a_problem", "returned a int, which has no upper and no lower and no project"),
        ("needs", "needs size; give defaults"),
        ("raises", "own.py:25: ZeroDivisionError: division by zero"),
        ("vector", "upper returns .*it must return one real number"),
        ("faulty", "own.py:32: AttributeError: .*no_such_thing"),
    ],
)
def test_a_fault_in_a_users_file_is_one_line_that_says_where(cli, own, function, message):
    code, _, err = cli("solve", f"{own}:{function}", "--quiet", "--out", own.parent / "out")
    assert code == 2 and err.count("\n") == 1
    assert re.search(message, err), err
    assert not (own.parent / "out").exists()


def test_options_reach_the_arguments_of_a_users_function(cli, tmp_path, monkeypatch):
    path = tmp_path / "own.py"
    path.write_text(OWN + "\ndef sized(tau=0.5, seed=0):\n    return 1 / (tau - seed)\n")
    code, _, err = cli("solve", f"{path}:sized", "--tau", 3, "--problem-seed", 3)
    assert code == 2 and "division by zero" in err
    code, _, err = cli("solve", f"{path}:sized", "--budget", 3)
    assert code == 2 and "--budget does not apply to" in err
    assert "give the function an argument budget, or leave the option out." in err
    monkeypatch.setenv("COLUMNS", "100")
    for command in ("solve", "compare"):
        words = " ".join(re.sub(r"[^\w.:,;'() -]", " ", cli(command, "--help")[1]).split())
        assert "reach the function's own arguments of these names" in words


def test_a_small_x_of_a_users_own_is_told_entry_by_entry(own):
    show = build(f"{own}:make", {}).measures
    zero, successful = jnp.zeros(()), bx.RESULTS.successful
    at = lambda x: bx.Solution(x, zero, zero, zero, zero, zero, zero, successful, {}, ())
    found = lambda x: {name: value for name, (value, _) in show(at(x)).items()}
    assert found({"toll": np.array([[1.0, 2.0]]), "tax": np.array(3.0)}) == {
        "x['tax']": 3.0,
        "x['toll'][0, 0]": 1.0,
        "x['toll'][0, 1]": 2.0,
    }
    assert found(np.zeros(100)) == {}


def test_a_users_file_with_wrong_syntax_is_named_with_its_line(cli, tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ndef make(:\n")
    code, _, err = cli("solve", f"{tmp_path}/broken.py:make")
    assert code == 2 and "broken.py:2: SyntaxError" in err


def test_a_run_interrupted_by_ctrl_c_is_resumed_to_the_same_numbers(cli, tmp_path, monkeypatch):
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    long = (*GAME, "--steps", 60_000, "--workers", 1, "--gap-tol", 10)
    pressed = threading.Event()

    def press_ctrl_c(line):
        # At the first line of history: however fast the machine, the run is not over by then.
        if not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
        return history_line(line)

    monkeypatch.setattr("bilevax._session.history_line", press_ctrl_c)
    code, out, err = cli("solve", *long, "--out", folder)
    assert (code, out) == (130, "")
    assert f"continue with: bilevax solve --resume {folder}" in err
    assert (folder / "checkpoint").exists() and not (folder / "result.json").exists()
    code, _, _ = cli("report", folder)
    assert code == 0 and "The run is unfinished" in (folder / "report.html").read_text()

    resumed = cli("solve", "--resume", folder, "--json", "-q")
    uninterrupted = cli("solve", *long, "--out", whole, "--json")
    timeless = lambda out: {
        name: value
        for name, value in json.loads(out).items()
        if not name.endswith("seconds") and name != "out"
    }
    assert resumed[0] == 0 and timeless(resumed[1]) == timeless(uninterrupted[1])
    with np.load(folder / "solution.npz") as a, np.load(whole / "solution.npz") as b:
        assert all((a[name] == b[name]).all() for name in b.files)


@pytest.mark.slow
def test_compare_runs_all_solvers_from_the_same_starts(cli, tmp_path):
    options = ("--solvers", "independent,pbrl", "--out", tmp_path / "c", "--json")
    code, out, _ = cli("compare", *QUICK, *options)
    record = json.loads(out)
    assert code == 0
    assert [row["solver"] for row in record["solvers"]] == ["independent", "pbrl"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "comparison.json",
        "report.html",
    ]
    kept = json.loads((tmp_path / "c" / "comparison.json").read_text())["config"]
    assert [one["solver"] for one in kept["settings"]] == ["independent", "pbrl"]
    assert kept["command"][:3] == ["bilevax", "compare", "bimatrix"]


def test_compare_gives_the_penalty_weight_to_every_solver_that_has_one(cli, monkeypatch):
    given = {}

    def stopped(task, *_):
        given[task.settings.solver] = getattr(task.solver, "penalty_weight", None)
        raise ValueError("not run")

    monkeypatch.setattr("bilevax.cli.compare.run_task", stopped)
    solvers = "pbrl,panda,actor-critic,independent"
    cli("compare", "bimatrix", "--solvers", solvers, "--penalty-weight", 7, "--starts", 1)
    constant = bx.ConstantWeight(7.0)
    assert given == {"pbrl": constant, "panda": constant, "actor-critic": 7.0, "independent": None}


@pytest.mark.slow
def test_compare_says_why_a_solver_does_not_apply(cli):
    options = ("--solvers", "implicit,independent", "--tau", 0, "--steps", 2, "--starts", 1)
    code, out, _ = cli("compare", "bimatrix", "--quiet", *options)
    assert code == 0 and "implicit does not apply:" in out and "tau is 0" in out
    assert "independent" in out


def settings(**changes):
    fields: dict[str, Any] = dict(
        problem="discrete-toy",
        options={},
        solver="pbrl",
        penalty_weight=None,
        penalty_final=None,
        learning_rate=None,
        anneal=None,
        polish=False,
        steps=None,
        starts=None,
        seed=0,
        tol=0.0,
        gap_tol=1e-3,
    )
    return Settings(**(fields | changes))


def test_settings_are_read_back_with_an_infinite_tolerance(tmp_path):
    kept = settings(gap_tol=np.inf)
    write_json(tmp_path / "config.json", dict(settings=asdict(kept)))
    assert read_settings(tmp_path) == kept


def solver(**changes) -> Any:
    return prepare(settings(**changes)).solver


def penalty_weight(**changes):
    return solver(**changes).penalty_weight


def weights(**changes):
    weight = penalty_weight(**changes)
    values = weight.init(), weight.next(np.asarray(weight.init()), 10**9, np.asarray(0.0))
    return tuple(map(float, values))


def test_the_penalty_weight_is_constant_raised_or_the_problems_own():
    assert weights() == pytest.approx((1.0, 1e4))
    assert weights(penalty_weight=7.0) == (7.0, 7.0)
    assert weights(penalty_weight=2.0, penalty_final=50.0) == pytest.approx((2.0, 50.0))
    assert weights(penalty_final=50.0) == pytest.approx((1.0, 50.0))
    # The Bellman penalty is smaller by 1/(1-discount) = 100 here.
    assert weights(solver="pbrl-bellman") == pytest.approx((1e2, 1e6))


def test_panda_takes_the_weight_and_the_learning_solvers_their_rates():
    panda = solver(solver="panda", penalty_weight=7.0)
    assert isinstance(panda, bx.PANDA) and panda.penalty_weight == bx.ConstantWeight(7.0)
    assert weights(solver="panda") == pytest.approx((1.0, 1e4))
    assert isinstance(solver(solver="meta-gradient", learning_rate=0.2), bx.MetaGradient)
    with pytest.raises(ValueError, match=r"meta-gradient has no penalty: .* panda"):
        solver(solver="meta-gradient", penalty_weight=1.0)


def test_a_schedule_keeps_its_share_of_the_steps():
    assert penalty_weight(steps=200).steps == penalty_weight().steps // 10
    game = build("stackelberg", {})
    assert solver(**HOT, steps=300).solver.update is game.update(300)
    assert solver(**HOT, learning_rate=0.1).solver.update is not game.update(1000)


HOT = dict(problem="stackelberg", options={"tau": 0.01})


def test_annealing_is_the_problems_own_for_pbrl_and_on_request_for_the_others():
    own = solver(**HOT, steps=100)
    assert isinstance(own, bx.Annealed)
    assert (own.initial, own.steps) == (pytest.approx(10), 80)
    assert solver(**HOT, anneal=7.0).initial == 7
    for cold in (dict(anneal=1.0), dict(solver="implicit"), dict(solver="independent")):
        assert not isinstance(solver(**HOT, **cold), bx.Annealed)
    for name, kind in (("implicit", bx.ImplicitGradient), ("independent", bx.IndependentGradient)):
        hot = solver(**HOT, solver=name, anneal=3.0)
        assert hot.initial == 3 and isinstance(hot.solver, kind)


def test_without_temperature_the_policy_moves_by_its_logits():
    assert isinstance(solver().update, bx.Alternating)
    assert isinstance(solver(options={"tau": 0.0}).update, bx.SoftmaxLogits)


@pytest.mark.slow
def test_tau_0_and_the_learning_rate_are_taken(cli):
    code, out, _ = cli(
        "solve", *QUICK, "--tau", 0, "--learning-rate", 0.5, "--gap-tol", 10, "--json"
    )
    assert code == 0 and np.isfinite(json.loads(out)["upper_value"])


@pytest.mark.slow
def test_polishing_ends_at_an_optimum_and_is_honoured_by_resume(cli, tmp_path, monkeypatch):
    own, folder = [*QUICK, "--gap-tol", 10, "--json"], tmp_path / "run"
    rough = json.loads(cli("solve", *own)[1])
    with monkeypatch.context() as patch:

        def press_ctrl_c(*arguments, **options):
            raise KeyboardInterrupt

        patch.setattr("bilevax.cli.running.polished", press_ctrl_c)
        assert cli("solve", *own, "--polish", "--out", folder)[0] == 130
    code, out, _ = cli("solve", "--resume", folder, "--json", "-q")
    line = json.loads(out)
    assert code == 0 and line["polished"] and not rough["polished"]
    value = line["upper_value_at_best_response"]  # larger is better
    assert value >= rough["upper_value_at_best_response"]
    assert line["upper_value"] == pytest.approx(value, abs=1e-9) and line["gap"] < 1e-9
    assert line["steps"] > rough["steps"]
    assert json.loads((folder / "config.json").read_text())["settings"]["polish"] is True
    assert "Polished" in (folder / "report.html").read_text()
    with np.load(folder / "solution.npz") as arrays:
        assert np.max(-arrays["best_response_values"]) == value
        leader, follower = arrays["leader_policy"][0], arrays["policy"][0]
        assert leader @ [[1, 3], [0, 2]] @ follower == pytest.approx(line["upper_value"])


def test_underscores_and_hyphens_name_the_same_problem():
    assert build("discrete_toy", {}).name == build("discrete-toy", {}).name


PYTHON = [sys.executable, "-c"]


def python(code, **environment):
    return subprocess.run(
        [*PYTHON, code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, extra", [("typer", "cli"), ("rich", "cli")])
def test_a_missing_extra_is_named_in_one_sentence(name, extra):
    done = python(
        f"import sys; sys.modules[{name!r}] = None\n"
        "from bilevax.cli import main; sys.argv = ['bilevax', 'list']; sys.exit(main())",
        XDG_CACHE_HOME="/dev/null/unwritable",
    )
    assert done.returncode == 2
    assert (
        done.stderr == f'bilevax: error: {name} is not installed: pip install "bilevax[{extra}]"\n'
    )


def test_the_library_does_not_switch_on_float64():
    done = python("import bilevax, jax; print(jax.config.jax_enable_x64)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own_has_exit_code_130(tmp_path):
    command = [sys.executable, "-m", "bilevax", "solve", "discrete-toy", "--steps", "1000000"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "o"], stderr=subprocess.PIPE, text=True, env=environment
    )
    while not (tmp_path / "o" / "history.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in err
    assert (tmp_path / "o" / "checkpoint").exists()
    assert list((tmp_path / "cache" / "bilevax").rglob("jit_advance*")), (
        "compiled programs are kept"
    )


def test_a_path_that_cannot_be_written_is_named_with_what_to_do(cli, monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", "/gone/x")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    code, _, err = cli("solve", "bimatrix", "--starts", 1, "--steps", 2, "--out", "new", "-q")
    assert code == 2
    assert err == (
        "bilevax: error: /gone/x: no such file or directory; check it, or name another path.\n"
    )


def test_a_program_whose_writing_was_cut_short_is_forgotten(tmp_path):
    for name in ("whole-cache", "whole-atime", "half-cache"):
        (tmp_path / name).write_bytes(b"0")
    _forget_halves(tmp_path)
    assert {path.name for path in tmp_path.glob("*-*")} == {"whole-cache", "whole-atime"}
