import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import adam

import bilevax as bx
from bilevax.io import checkpoint
from bilevax.io.files import replacing, to_json
from bilevax.io.run_folder import held


def game(seed=0):
    draw = np.random.default_rng(seed)
    kernel = draw.uniform(size=(3, 2, 2, 3))
    kernel /= kernel.sum(-1, keepdims=True)
    leader, follower = draw.uniform(size=(2, 3, 2, 2))
    return bx.StackelbergGame.simultaneous(leader, follower, kernel, discount=0.8, tau=0.1)


SOLVER = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 100.0, 30))
STARTS = jax.random.normal(jax.random.key(1), (3, 3, 2))
SHORT: dict[str, Any] = dict(max_steps=40, chunk=7, gap_tol=1.0, workers=2)


LONG: dict[str, Any] = dict(max_steps=8000, gap_tol=1.0)


def interrupt_when_under_way(progress):
    if progress.phase != "compiling" and progress.steps:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    seen = []
    options: Any = dict(directory=folder, on_progress=seen.append, config={"a": 1})
    return bx.run(game(), SOLVER, STARTS, **options, **SHORT), folder, seen


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    # One worker, so that some starts have not begun while another is under way.
    options: Any = dict(directory=folder, workers=1, chunk=400)
    options["on_progress"] = interrupt_when_under_way
    with pytest.raises(KeyboardInterrupt):
        bx.run(game(), SOLVER, STARTS, **options, **LONG)
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def without_time(history):
    keys = ("start", "step", "upper_value", "penalty", "penalty_weight", "gradient_norm")
    ordered = sorted(history, key=lambda line: (line["start"], line["step"]))
    return [tuple(line[key] for key in keys) for line in ordered]


@pytest.mark.slow
def test_every_start_ends_where_solve_ends(whole):
    run, _, _ = whole
    for x0, solution in zip(STARTS, run.solutions, strict=True):
        alone = bx.solve(game(), SOLVER, x0, max_steps=40, gap_tol=1.0)
        np.testing.assert_allclose(solution.x, alone.x, rtol=1e-10)
        np.testing.assert_allclose(solution.policy, alone.policy, rtol=1e-9)
        assert bool(solution.result == alone.result)


def test_the_best_start_has_the_lowest_value_at_the_best_response(whole):
    run, _, _ = whole
    assert run.best_start == np.argmin(run.best_response_values)
    assert run.best is run.solutions[run.best_start]


def test_history_has_one_line_per_chunk_and_start(whole):
    run, folder, _ = whole
    expected = [(i, k) for i in range(3) for k in (7, 14, 21, 28, 35, 40)]
    assert [(line["start"], line["step"]) for line in run.history] == expected
    assert without_time(lines(folder)) == without_time(run.history)


def test_a_finished_run_leaves_its_arrays_and_no_checkpoint(whole):
    run, folder, _ = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "history.jsonl",
        "solution.npz",
    ]
    with np.load(folder / "solution.npz") as arrays:
        np.testing.assert_array_equal(arrays["x"], run.best.x)
        np.testing.assert_array_equal(arrays["policy"], run.best.policy)
        np.testing.assert_array_equal(arrays["best_response_values"], run.best_response_values)


def test_progress_counts_steps_and_separates_compilation(whole):
    run, _, seen = whole
    assert seen[0].phase == "compiling" and seen[0].max_steps == 3 * 40
    assert seen[-1].steps == seen[-1].max_steps == 3 * 40
    assert 0 < run.compile_seconds < run.wall_seconds
    assert seen[-1].best["upper_value"] == min(line["upper_value"] for line in seen[-1].latest)


def test_an_interrupted_and_resumed_run_equals_one_that_was_not(stopped, tmp_path):
    assert 0 < len(lines(stopped)) < 60
    assert checkpoint.load_header(stopped / "checkpoint")["bilevax"] == bx.__version__
    folder = shutil.copytree(stopped, tmp_path / "resumed")
    with open(folder / "history.jsonl", "ab") as file:  # written after the checkpoint, by a crash
        file.write(b'{"start": 0, "st')
    resumed = bx.run(game(), SOLVER, STARTS, directory=folder, resume=True, **LONG)
    whole = bx.run(game(), SOLVER, STARTS, directory=tmp_path / "w", chunk=400, **LONG)
    for a, b in zip(resumed.solutions, whole.solutions, strict=True):
        for one, other in zip(jax.tree.leaves(a.x), jax.tree.leaves(b.x), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(a.policy, b.policy)
        assert float(a.gap) == float(b.gap)
    assert without_time(resumed.history) == without_time(whole.history)
    assert len(whole.history) == 60
    assert without_time(lines(folder)) == without_time(whole.history)
    assert not (folder / "checkpoint").exists()
    with pytest.raises(ValueError, match="is finished: there is nothing to resume"):
        bx.run(game(), SOLVER, STARTS, directory=folder, resume=True)


@pytest.fixture
def unfinished(tmp_path):
    """A folder with a checkpoint of this test's own, cheap to make."""
    folder = tmp_path / "unfinished"
    folder.mkdir()
    header = dict(fingerprint="", bilevax="0", jax="0", chunk=7, history_bytes=0)
    checkpoint.save(folder / "checkpoint", header, [jnp.arange(1000.0)])
    return folder


def test_ctrl_c_while_starts_are_being_submitted_is_saved_too(tmp_path, monkeypatch):
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *arguments):
            if self._work_queue.qsize() or self._threads:
                raise KeyboardInterrupt
            return super().submit(*arguments)

    monkeypatch.setattr("bilevax._threads.ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bx.run(game(), SOLVER, STARTS, directory=tmp_path / "run", chunk=400, **LONG)
    assert (tmp_path / "run" / "checkpoint").exists()


def test_a_truncated_checkpoint_is_one_clear_error(unfinished):
    path = unfinished / "checkpoint"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"checkpoint is damaged: it should hold 8128 bytes .* 802"
    ):
        bx.run(game(), SOLVER, STARTS, directory=unfinished, resume=True)


def test_a_checkpoint_with_changed_bytes_is_noticed(unfinished):
    path = unfinished / "checkpoint"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(path, [jnp.zeros(1000)])


def test_another_file_is_not_taken_for_a_checkpoint(unfinished):
    (unfinished / "checkpoint").write_text("[1, 2]\nsomething else")
    with pytest.raises(ValueError, match="is not a checkpoint of bilevax"):
        bx.run(game(), SOLVER, STARTS, directory=unfinished, resume=True)


@pytest.mark.parametrize(
    "other",
    [
        dict(starts=STARTS.at[2, 1, 0].add(1e-9)),
        dict(problem=game(seed=1)),
        dict(solver=bx.PBRL(SOLVER.penalty, SOLVER.penalty_weight, bx.SoftmaxLogits(adam(0.04)))),
    ],
    ids=["starts", "rewards", "learning rate"],
)
def test_the_checkpoint_of_another_run_is_refused(stopped, other):
    run: Any = dict(problem=game(), solver=SOLVER, starts=STARTS) | other
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(ValueError, match="belongs to another problem, solver, set of starts"):
        bx.run(**run, directory=stopped, resume=True, **LONG)
    assert before == {path.name: path.read_bytes() for path in stopped.iterdir()}


def test_a_run_that_is_still_at_work_is_not_resumed_beside_it(stopped):
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    with held(stopped), pytest.raises(ValueError, match="another process is at work on the run"):
        bx.run(game(), SOLVER, STARTS, directory=stopped, resume=True, **LONG)
    assert before == {path.name: path.read_bytes() for path in stopped.iterdir()}


def test_a_checkpoint_gives_back_the_same_bits(tmp_path):
    tree: Any = dict(
        a=jnp.asarray([0.1, jnp.nan]), key=jax.random.key(3), n=jnp.asarray(2), none=None
    )
    checkpoint.save(tmp_path / "c", dict(more=1), tree)
    assert checkpoint.load_header(tmp_path / "c")["more"] == 1
    again = checkpoint.load(tmp_path / "c", tree)
    assert again["key"].dtype == tree["key"].dtype
    data = lambda t: [np.asarray(z).tobytes() for z in (t["a"], jax.random.key_data(t["key"]))]
    assert data(again) == data(tree)
    with pytest.raises(ValueError, match="holds the state of another run"):
        checkpoint.load(tmp_path / "c", dict(a=jnp.zeros(3), key=tree["key"], n=tree["n"]))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_json_has_no_numbers_that_json_lacks():
    assert (
        to_json({"a": [float("nan"), np.float64("inf"), np.int64(2)]}) == '{"a": [null, null, 2]}'
    )


def mdp(x, **options):
    return bx.MDP(x[:, None] * jnp.ones((2, 2)), jnp.full((2, 2, 2), 0.5), tau=0.1, **options)


def problem(upper):
    return bx.BilevelProblem(upper, lambda x: mdp(x, discount=0.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    "upper, message",
    [
        (lambda x, policy, evaluation: x, "upper returns .*it must return one real number"),
        (
            lambda x, policy, evaluation: jnp.argmax(x),
            "upper returns .*it must return one real number",
        ),
        (lambda x, policy, evaluation: None, "upper returns .*it must return one real number"),
        (lambda x, policy, evaluation: jnp.sum(jnp.log(x)), "upper.* is nan at x0"),
    ],
)
def test_an_upper_objective_that_is_no_finite_number_is_refused(upper, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        bx.run(problem(upper), SOLVER, -jnp.ones((2, 2)), directory=tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing may be written before the checks"


@pytest.mark.parametrize(
    "starts, options, message",
    [
        ([], {}, "starts is empty"),
        (jnp.zeros((0, 2)), {}, "starts is empty"),
        ((jnp.zeros((2, 2)), jnp.zeros((3, 2))), {}, "give every array one leading axis"),
        (
            [jnp.zeros(2), jnp.zeros(2), jnp.zeros(3)],
            {},
            r"starts\[2\] is float64\[3\], and .*\[2\];",
        ),
        (
            [jnp.zeros(2), jnp.zeros(2, "float32")],
            {},
            r"starts\[1\] is float32\[2\], and starts\[0\]",
        ),
        ([jnp.zeros(2), {"x": jnp.zeros(2)}], {}, r"starts\[1\] is \{'x': 'float64\[2\]'\}, and"),
        (jnp.zeros(2), {}, r"starts is one x0, float64\[2\], without a leading axis of starts"),
        (jnp.zeros((1, 2)), dict(max_steps=0), "max_steps is 0"),
        (jnp.zeros((1, 2)), dict(workers=0), "workers is 0"),
        (jnp.zeros((1, 2)), dict(resume=True), "resume needs the directory"),
    ],
)
def test_arguments_that_make_no_sense_are_named(starts, options, message):
    upper = lambda x, policy, evaluation: jnp.sum(x**2)
    with pytest.raises(ValueError, match=message):
        bx.run(problem(upper), SOLVER, starts, **options)


def test_a_folder_that_cannot_be_used_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    upper = lambda x, policy, evaluation: 1 / 0
    for folder, message in (
        (tmp_path, "is not empty"),
        (tmp_path / "file" / "sub", "not a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            bx.run(problem(upper), SOLVER, jnp.zeros((1, 2)), directory=folder)
    with pytest.raises(ValueError, match="holds no run"):
        bx.run(problem(upper), SOLVER, jnp.zeros((1, 2)), directory=tmp_path, resume=True)


@pytest.mark.slow
def test_where_no_start_is_feasible_the_result_says_so():
    solver = bx.IndependentGradient()
    run = bx.run(game(), solver, list(STARTS), max_steps=2, gap_tol=1e-9)
    assert bool(run.best.result == bx.RESULTS.infeasible)
    assert run.best_start == np.argmin(run.best_response_values)
