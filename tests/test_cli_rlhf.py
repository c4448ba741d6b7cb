import importlib.util
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from bilevax.cli import rlhf as commands
from bilevax.cli.entry import execute
from bilevax.cli.rlhf_settings import ALGORITHMS as WORDS
from bilevax.cli.rlhf_settings import RLHFSettings, prepare_rlhf, settings_with_paths
from bilevax.deep.dataset import load_dataset, save_dataset
from bilevax.deep.presets import ALGORITHMS, PRESETS, preset

pytestmark = pytest.mark.slow

OWN = """
from small_rlhf import PRESET

def dot():
    return PRESET

def number():
    return 3

def broken():
    return 1 / 0
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return str(path)


@pytest.fixture(scope="module")
def folder(own, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "dot"
    pairs = out.parent / "pairs"
    options = ["--quiet", "--tensorboard", "--dataset", str(pairs)]
    assert execute(["rlhf", f"{own}:dot", "--seeds", "2", "--out", str(out), *options]) == 0
    return out


def usual(own: dict[str, Any]) -> dict[str, Any]:
    """Settings of the command line, by their defaults but for these."""
    settings: dict[str, Any] = dict.fromkeys(RLHFSettings.__annotations__)
    settings |= dict(algorithm="pbrl", teacher="oracle", seeds=1, seed=0)
    return settings | dict(reuse=False, tensorboard=False) | own


def says(capsys, *arguments):
    """What is said on stderr about bad input."""
    assert execute(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


def test_a_run_leaves_all_that_its_folder_promises(folder):
    names = {path.name for path in folder.iterdir()}
    networks = {f"{kind}-seed{i}.safetensors" for kind in ("policy", "reward") for i in (0, 1)}
    others = {"config.json", "history.jsonl", "result.json", "segments.npz", "report.html"}
    assert networks | others | {"tensorboard"} <= names
    assert not [name for name in names if "checkpoint" in name]
    page = (folder / "report.html").read_text()
    assert page.count("data:image/webp") == 2 and page.count("<svg") >= 5
    assert "lowest to highest seed: " in page and "95% interval" not in page


def test_json_says_how_the_run_went_and_known_pairs_count(own, folder, capsys):
    # The pairs that the other run left, 6 of each seed, are known from the start: 6 more come.
    pairs = ["--dataset", str(folder.parent / "pairs")]
    assert execute(["rlhf", f"{own}:dot", "--json", "--quiet", *pairs]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["env"].endswith("own.py:dot") and line["algorithm"] == "pbrl"
    assert (line["labels"], line["steps"], line["seeds"]) == (18, 128, 1)
    assert 0 <= line["true_return"] <= 6 and line["interval"] == [None, None]
    assert {"reward_accuracy", "wall_seconds", "scored"} <= set(line)
    assert 0 <= line["held_out"] == line["each_seed"][0]["held_out"] <= 18 * 0.15
    assert [one["seed"] for one in line["each_seed"]] == [0]
    assert jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def test_the_buffer_has_room_for_all_pairs_of_a_data_set(own, folder, tmp_path):
    pairs, _ = load_dataset(folder.parent / "pairs")
    counts = {6: 12, 12: 12 + 6, 24: 24 + 6}  # the preset's capacity is 12, and its labels 6
    for count, capacity in counts.items():
        more = pairs.take(jnp.arange(count) % 12)
        path = tmp_path / str(count)
        save_dataset(path, more, environment="moving-dot", num_actions=5, teacher="oracle")
        given = usual(dict(env=f"{own}:dot", dataset=path))
        task = prepare_rlhf(settings_with_paths(given))
        assert task.algorithm.setup.capacity == capacity
        assert task.known is not None and task.known.answers.second.size == count


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_watch_writes_a_clip_of_as_many_frames_as_asked(folder, capsys, format):
    assert execute(["watch", str(folder), "--seed", "1", "--steps", "5", "--format", format]) == 0
    with Image.open(capsys.readouterr().out.strip()) as clip:
        assert clip.format == format.upper()
        # Two frames that are alike may be stored as one that is shown for longer.
        assert 1 < clip.n_frames <= 5  # pyright: ignore
        assert min(clip.size) >= 160


def test_watch_names_the_seeds_that_are_there(folder, capsys):
    assert "policy-seed0.safetensors, policy-seed1.safetensors" in says(
        capsys, "watch", str(folder), "--seed", "7"
    )


def test_the_report_says_how_often_policies_started_again(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    lines = [json.loads(line) for line in (copy / "history.jsonl").read_text().splitlines()]
    marked = "".join(json.dumps(line | dict(started_again=True)) + "\n" for line in lines)
    (copy / "history.jsonl").write_text(marked)
    assert execute(["report", str(copy)]) == 0
    again = "started again from random networks"
    assert f"{again}, {len(lines)} times in all" in (copy / "report.html").read_text()
    assert again not in (folder / "report.html").read_text()


def test_report_is_written_again_and_names_a_damaged_file(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "report.html").unlink()
    assert execute(["report", str(copy)]) == 0
    assert (copy / "report.html").exists()
    capsys.readouterr()
    (copy / "segments.npz").write_bytes(b"nothing")
    assert "segments.npz is damaged" in says(capsys, "report", str(copy))
    (copy / "history.jsonl").write_text("{}\n")
    assert "not the history of a run" in says(capsys, "report", str(copy))


def test_resuming_needs_an_unfinished_run(folder, tmp_path, capsys):
    assert "is finished" in says(capsys, "rlhf", "--resume", str(folder))
    assert "holds no run" in says(capsys, "rlhf", "--resume", str(tmp_path))
    resume = ["--resume", str(folder)]
    assert "leave out ENV." in says(capsys, "rlhf", "catcher", *resume)
    more = ["--labels", "5", "--algorithm", "drlhf", "--penalty-weight", "1", "--quiet"]
    unused = "leave out --algorithm and --labels and --penalty-weight."
    assert unused in says(capsys, "rlhf", *more, *resume)
    assert "not empty" in says(capsys, "rlhf", "catcher", "--out", str(folder))


def test_a_run_made_from_python_is_told_from_no_run(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "config.json").unlink()
    for command in ("report", "watch"):
        assert "was made from Python" in says(capsys, command, str(copy))


def test_a_damaged_or_foreign_data_set_is_refused(own, folder, tmp_path, capsys):
    pairs = tmp_path / "pairs"
    shutil.copytree(folder.parent / "pairs", pairs)
    command = ["rlhf", f"{own}:dot", "--dataset", str(pairs)]
    assert "observation_shape" in says(capsys, "rlhf", "moving-dot", *command[2:])
    assert "steps" in says(capsys, *command, "--segment", "4", "--labels", "2")
    (pairs / "pairs.npz").write_bytes(b"nothing")
    assert "is damaged or of another data set" in says(capsys, *command)


def test_a_data_set_is_never_written_over_what_is_no_data_set(own, folder, tmp_path, capsys):
    pairs = tmp_path / "pairs"
    shutil.copytree(folder.parent / "pairs", pairs)
    (pairs / "manifest.json").unlink()
    before = (pairs / "pairs.npz").read_bytes()
    out = tmp_path / "run"
    command = ["rlhf", f"{own}:dot", "--out", str(out), "--dataset"]
    assert "neither empty nor a data set" in says(capsys, *command, str(pairs))
    assert (pairs / "pairs.npz").read_bytes() == before
    assert "is not a folder" in says(capsys, *command, str(pairs / "pairs.npz"))
    assert not out.exists()


def test_ctrl_c_after_the_run_keeps_its_pairs_and_names_the_report(
    own, tmp_path, capsys, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    out, pairs = tmp_path / "run", tmp_path / "pairs"
    with monkeypatch.context() as patch:
        patch.setattr(commands, "write_clips", interrupted)
        options = ["--quiet", "--out", str(out), "--dataset", str(pairs)]
        assert execute(["rlhf", f"{own}:dot", *options]) == 130
    assert f"bilevax report {out}" in capsys.readouterr().err
    assert load_dataset(pairs)[1].pairs == 6
    assert execute(["report", str(out)]) == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "name an ENV"),
        (["moving-dott"], "did you mean 'moving-dot'?"),
        (["moving-dot", "--algorithm", "ppo"], "there is no algorithm 'ppo'"),
        (["moving-dot", "--labels", "100000"], "ask for fewer labels"),
        # A segment is 10 steps, and a rollout 8 steps in 16 environments.
        (["moving-dot", "--steps", "10"], "in 16 environments; give at least 256 steps."),
        (["moving-dot", "--steps", "128"], "shorten the segment, or give at least 256 steps."),
        (
            ["moving-dot", "--segment", "100"],
            "of 100 steps; ask for fewer labels, shorten the",
        ),
        (["moving-dot", "--steps", "3000"], "shorten the segment, or give more steps."),
        (["moving-dot", "--envs", "2"], "the tracker has 1 of 2 environments; give at least 3"),
        (["moving-dot", "--teacher", "oracl"], "did you mean 'oracle'?"),
        (["moving-dot", "--teacher", "skip"], "needs --skip"),
        (["moving-dot", "--beta", "1"], "--beta belongs to --teacher noisy"),
        (["moving-dot", "--teacher", "noisy", "--beta", "-1"], "beta is -1"),
        (["moving-dot", "--algorithm", "drlhf", "--penalty-weight", "1"], "belongs to pbrl"),
        (["moving-dot", "--penalty-weight", "-1"], "--penalty-weight is -1"),
        (["moving-dot", "--tensorboard"], "give --out DIR"),
        (["gym:NoSuchThing-v0"], "give an ID that gymnasium.pprint_registry() lists"),
        (["gym:"], "write gym:ID, as gym:Taxi-v4"),
        (["gym:Pendulum-v1"], "finitely many actions"),
        (["gym:Pendulum-v1", "--steps", "2000"], "finitely many actions"),
        (["own.py"], "'own.py' names no function: write FILE.py:FUNCTION."),
        (["atari-no-such-game"], "game is 'no-such-game'"),
        (["OWN:number"], "returned a int; return an environment"),
        (["OWN:broken"], "ZeroDivisionError"),
        (["OWN:nothing"], "has no function 'nothing'"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(arguments, words, own, capsys):
    arguments = [argument.replace("OWN", own) for argument in arguments]
    assert words in says(capsys, "rlhf", *arguments)


@pytest.mark.parametrize(
    "module, arguments, extra",
    [
        ("safetensors", ["moving-dot", "--out", "DIR"], "deep"),
        ("PIL", ["moving-dot", "--out", "DIR"], "deep"),
        ("tensorboardX", ["moving-dot", "--tensorboard", "--out", "DIR"], "tensorboard"),
        ("gymnax", ["minatar-breakout"], "minatar"),
        ("ale_py", ["atari-pong"], "atari"),
        ("gymnasium", ["gym:CartPole-v1"], "gymnasium"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    module, arguments, extra, tmp_path, monkeypatch, capsys
):
    # ``None`` in sys.modules makes an import fail as if there were nothing to import.
    real = importlib.util.find_spec
    monkeypatch.setitem(__import__("sys").modules, module, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else real(name)
    )
    arguments = [argument.replace("DIR", str(tmp_path / "run")) for argument in arguments]
    assert f"bilevax[{extra}]" in says(capsys, "rlhf", *arguments)


def test_every_preset_makes_a_setup_that_asks_for_all_its_labels():
    for name in PRESETS:
        setup = preset(name).setup()
        assert sum(setup.asked) == setup.labels > 0
    # A rollout of catcher's 32 environments is 160 steps: 1,000 steps hold 6.
    short = preset("catcher").setup(steps=1000, labels=8)
    assert (short.rounds, short.iterations) == (6, 1)
    # A segment of moving-dot is 10 steps and a rollout 8: a round needs two of its 16 dots.
    dot = preset("moving-dot")
    assert dot.setup(steps=2000, labels=20).iterations == 2
    with pytest.raises(ValueError, match="segment is 10 steps, but a round's window holds 1"):
        dot.setup(steps=2000, labels=20, rounds=10)
    # Without a label too the window is as wide as a segment.
    assert dot.setup(steps=2000, labels=0, segment=100).window == 13


def test_a_run_on_true_reward_may_be_too_short_for_labels_it_never_asks_for():
    labels = lambda given: prepare_rlhf(RLHFSettings(**given)).algorithm.setup.labels
    given = usual(dict(env="moving-dot", algorithm="true-reward"))
    assert labels(given | dict(steps=3000)) == 0
    # Where they fit, the run is the same as ever.
    assert labels(given) == 100


def test_the_command_line_knows_every_algorithm_of_the_presets():
    assert list(WORDS) == list(ALGORITHMS)
    setup = preset("moving-dot").setup()
    algorithm: Any = preset("moving-dot").algorithm("pbrl", setup, penalty_weight=3.0)
    assert algorithm.penalty_weight.init() == 3
    with pytest.raises(ValueError, match="name is 'ppo'; give one of pbrl, drlhf"):
        preset("moving-dot").algorithm("ppo", setup)


def test_the_list_names_what_can_be_learned(capsys):
    assert execute(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*PRESETS, "atari-NAME", "drlhf", "true-reward"))
