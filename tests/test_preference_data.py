"""The buffer, data sets on disk, labellers, selection of pairs and schedules."""

import functools
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bilevax.deep.buffer import Pairs, PreferenceBuffer
from bilevax.deep.dataset import load_dataset, save_dataset
from bilevax.deep.labeller import FolderLabeller, ScriptedLabeller
from bilevax.deep.schedule import Decreasing, Even
from bilevax.deep.segments import Segments
from bilevax.deep.selection import DisagreementPairs, EntropyPairs, UniformPairs
from bilevax.deep.teacher import Answers, ScriptedTeacher

KEY = jax.random.key(0)
LENGTH, SHAPE = 3, (2, 2, 1)
add = jax.jit(lambda buffer, key, pairs: buffer.add(key, pairs.first, pairs.second, pairs.answers))


def numbered(start, count, dtype=np.uint8):
    """Pairs that carry their number in every array; the second segment is the number plus 100."""
    number = np.arange(start, start + count)
    steps = np.broadcast_to(number[:, None], (count, LENGTH))
    image = np.broadcast_to(number[:, None, None, None, None] % 200, (count, LENGTH, *SHAPE))
    segments = lambda shift: Segments(
        jnp.asarray((image + shift).astype(dtype)),
        jnp.asarray(steps % 3),
        jnp.asarray(-1.0 * steps - shift),
        jnp.asarray(1.0 * steps + shift),
    )
    answers = Answers(jnp.asarray(number % 3 / 2), jnp.ones(count))
    return Pairs(segments(0), segments(50), answers)


def with_weight(pairs, weight):
    return eqx.tree_at(lambda p: p.answers.weight, pairs, jnp.asarray(weight, float))


def held(buffer):
    """The numbers of the pairs that a buffer holds, by row."""
    return np.asarray(buffer.pairs.first.reward[:, 0])[np.asarray(buffer.filled)]


# The buffer


@pytest.mark.slow
@given(counts=st.lists(st.sampled_from([1, 4]), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_a_buffer_holds_the_last_pairs_that_were_not_skipped(counts, seed):
    chance = np.random.default_rng(seed)
    buffer = PreferenceBuffer.empty(6, numbered(0, 1).first, share=0.25)
    expected, start = [], 0
    for count in counts:
        kept = chance.random(count) < 0.7
        buffer = add(buffer, KEY, with_weight(numbered(start, count), kept))
        expected += [start + i for i in range(count) if kept[i]]
        start += count
    assert int(buffer.size) == min(6, len(expected)) and int(buffer.added) == len(expected)
    assert sorted(held(buffer)) == expected[-6:]
    rows = np.asarray(buffer.filled)
    np.testing.assert_array_equal(buffer.pairs.second.reward[rows, 0], held(buffer) + 50)
    np.testing.assert_array_equal(buffer.pairs.answers.second[rows], held(buffer) % 3 / 2)
    assert buffer.pairs.first.observation.dtype == jnp.uint8


def filled(key=KEY):
    return add(PreferenceBuffer.empty(40, numbered(0, 1).first, share=0.25), key, numbered(0, 40))


@pytest.mark.slow
def test_the_held_out_share_is_exact_random_and_never_sampled():
    buffer = filled()
    assert int(buffer.held_out.sum()) == 10
    other = filled(key=jax.random.key(1))
    assert not np.array_equal(buffer.held_out, other.held_out)
    drawn = buffer.training_rows(KEY, (500,))
    np.testing.assert_array_equal(buffer.training_weight[drawn], 1)
    rows = set(np.flatnonzero(buffer.held_out))
    assert set(np.asarray(drawn)) == set(range(40)) - rows
    row, weight = map(np.asarray, buffer.held_out_rows())
    assert (weight > 0).sum() == 10
    assert set(row[weight > 0]) == rows


@pytest.mark.slow
def test_pairs_added_one_by_one_are_held_out_in_the_same_share():
    buffer = PreferenceBuffer.empty(40, numbered(0, 1).first, share=0.25)
    for start in range(20):
        buffer = add(buffer, jax.random.key(start), numbered(start, 1))
    assert int(buffer.held_out.sum()) == 5


@pytest.mark.slow
def test_an_empty_buffer_and_one_without_training_pairs_sample_weight_zero():
    empty = PreferenceBuffer.empty(5, numbered(0, 1).first, share=0.25)
    np.testing.assert_array_equal(empty.training_weight[empty.training_rows(KEY, (4,))], 0)
    np.testing.assert_array_equal(empty.held_out_rows()[1], 0)


def test_a_buffer_says_what_does_not_fit():
    like = numbered(0, 1).first
    with pytest.raises(ValueError, match="capacity is 0"):
        PreferenceBuffer.empty(0, like)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        PreferenceBuffer.empty(3, like, share=1.0)
    pairs = numbered(0, 4)
    with pytest.raises(ValueError, match="4 pairs at once do not fit a capacity of 3"):
        PreferenceBuffer.empty(3, like).add(KEY, pairs.first, pairs.second, pairs.answers)


# Data sets


def save(directory, pairs=None):
    return save_dataset(
        directory, pairs or numbered(0, 4), environment="dot", num_actions=3, teacher="oracle"
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_a_data_set_survives_a_round_trip_and_fills_a_buffer(tmp_path, dtype):
    pairs = numbered(0, 4, dtype)
    saved = save(tmp_path / "new" / "folder", pairs)
    loaded, manifest = load_dataset(tmp_path / "new" / "folder")
    assert manifest == saved and manifest.pairs == 4 and manifest.segment_length == LENGTH
    assert manifest.observation_shape == SHAPE and manifest.teacher == "oracle"
    assert jax.tree.structure(loaded) == jax.tree.structure(pairs)
    for new, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(pairs), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new, old)
    buffer = PreferenceBuffer.empty(9, loaded.first)
    assert int(buffer.add(KEY, loaded.first, loaded.second, loaded.answers).size) == 4


def test_every_damaged_byte_of_the_arrays_is_refused(tmp_path):
    save(tmp_path)
    path = tmp_path / "pairs.npz"
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"pairs\.npz is damaged or of another data set"):
            load_dataset(tmp_path)
    for content in (data[:-1], data + b"0", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_dataset(tmp_path)


def rewrite(directory, arrays=None, **manifest):
    """A data set with other arrays and a manifest that agrees with their bytes."""
    import hashlib

    path = directory / "pairs.npz"
    if arrays is not None:
        with np.load(path) as file:
            content = {name: file[name] for name in file.files} | arrays
        np.savez(path, **{name: array for name, array in content.items() if array is not None})
    about = json.loads((directory / "manifest.json").read_text())
    about |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | manifest
    (directory / "manifest.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("arrays", "manifest", "message"),
    [
        (None, dict(format="other"), r"manifest\.json is not the manifest of a data set"),
        (None, dict(version=2), r"manifest\.json has version 2 of the format"),
        (None, dict(pairs="4"), 'pairs is "4", which cannot be'),
        (None, dict(observation_shape=[2, -2, 1]), r"observation_shape is \[2, -2, 1\]"),
        (None, dict(pairs=5), r"first_observation is uint8\[4, 3, 2, 2, 1\]; .*\[5, 3, 2, 2, 1\]"),
        (None, dict(observation_dtype="bool"), "has dtype uint8, and the manifest says bool"),
        (None, dict(num_actions=2), r"first_action goes from 0 to 2, .* 2 actions"),
        (dict(second=None), {}, "second is missing"),
        (dict(second=np.array([0.0, 2.0, 1.0, 1.0])), {}, "an answer is no probability"),
        (dict(weight=np.array([0.0, np.nan, 1.0, 1.0])), {}, "no finite weight"),
        (dict(weight=np.array([None] * 4)), {}, "is no npz file of plain arrays"),
    ],
)
def test_a_foreign_data_set_is_refused_with_what_is_wrong(tmp_path, arrays, manifest, message):
    save(tmp_path)
    rewrite(tmp_path, arrays, **manifest)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json cannot be read: No such file"):
        load_dataset(tmp_path)
    save(tmp_path)
    (tmp_path / "pairs.npz").unlink()
    with pytest.raises(ValueError, match=r"pairs\.npz cannot be read: No such file"):
        load_dataset(tmp_path)


def test_a_data_set_of_another_environment_is_named(tmp_path):
    manifest = save(tmp_path)
    fits: dict[str, Any] = dict(environment="dot", num_actions=3, observation_shape=SHAPE)
    manifest.require(**fits)
    others: dict[str, Any] = dict(environment="pong", num_actions=4, observation_shape=(3, 3))
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"has {name} .*, and the environment"):
            manifest.require(**fits | {name: other})


# Labellers


def test_a_scripted_labeller_answers_at_once_and_once():
    labeller = ScriptedLabeller(ScriptedTeacher.oracle(), KEY)
    pairs = numbered(0, 4)
    labeller.submit(pairs.first, pairs.second)
    ((first, _, answers),) = labeller.collect()
    np.testing.assert_array_equal(first.reward, pairs.first.reward)
    np.testing.assert_array_equal(answers.second, 1)
    assert labeller.collect() == []


def gray(observation):
    return np.repeat(observation, 3, axis=-1)


def answer(directory, query, choice):
    (directory / "answers" / f"{query}.json").write_text(json.dumps({"answer": choice}))


def test_a_folder_of_clips_is_answered_later_in_any_order_and_survives_a_restart(tmp_path):
    labeller = FolderLabeller(tmp_path, gray, enlarge=4)
    pairs = numbered(0, 4)
    labeller.submit(pairs.first, pairs.second)
    lines = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["000000", "000001", "000002", "000003"]
    with Image.open(tmp_path / lines[2]["second"]) as clip:
        assert clip.size == (8, 8) and clip.convert("RGB").getpixel((0, 0)) == (52, 52, 52)
    assert labeller.collect() == []

    answer(tmp_path, "000002", "second")
    answer(tmp_path, "000000", "skip")
    ((first, second, answers),) = labeller.collect()
    np.testing.assert_array_equal(first.observation, pairs.first.observation[jnp.asarray([0, 2])])
    np.testing.assert_array_equal(second.log_prob, pairs.second.log_prob[jnp.asarray([0, 2])])
    np.testing.assert_array_equal(answers.second, [0.5, 1])
    np.testing.assert_array_equal(answers.weight, [0, 1])
    assert np.all(np.isnan(first.reward))
    assert labeller.collect() == [] and labeller.waiting == ["000001", "000003"]

    # A run that ends before it has saved them is given them again, one that acknowledged is not.
    ((_, _, same),) = FolderLabeller(tmp_path, gray).collect()
    np.testing.assert_array_equal(same.weight, answers.weight)
    labeller.acknowledge()
    again = FolderLabeller(tmp_path, gray)
    assert again.collect() == [] and again.waiting == ["000001", "000003"]
    more = numbered(7, 1)
    again.submit(more.first, more.second)
    answer(tmp_path, "000004", "equal")
    answer(tmp_path, "000003", "first")
    ((first, _, answers),) = again.collect()
    np.testing.assert_array_equal(first.observation[:, 0, 0, 0, 0], [3, 7])
    np.testing.assert_array_equal(answers.second, [0, 0.5])


def test_a_pair_that_waits_for_its_answer_is_not_asked_about_twice(tmp_path):
    ask = lambda pairs: FolderLabeller(tmp_path, gray).submit(pairs.first, pairs.second)
    asked = lambda: len((tmp_path / "queries.jsonl").read_text().splitlines())
    twins = jax.tree.map(lambda z: jnp.concatenate([z, z]), numbered(0, 2))
    ask(twins)  # the same pair twice in one round is two questions
    assert asked() == 4
    answer(tmp_path, "000001", "first")
    for _ in range(2):
        ask(twins)
        assert asked() == 4 and FolderLabeller(tmp_path, gray).unanswered() == 3
    ask(numbered(1, 2))  # one of them is new
    assert asked() == 5
    labeller = FolderLabeller(tmp_path, gray)
    labeller.collect()
    labeller.acknowledge()
    ask(twins)  # one of the four is answered and done with, and asked about anew
    assert asked() == 6 and FolderLabeller(tmp_path, gray).unanswered() == 5


@pytest.mark.parametrize("content", ["[]", '{"answer": "left"}', '{"answer": ["first"]}'])
def test_a_malformed_answer_is_named_and_loses_no_other(tmp_path, content):
    labeller = FolderLabeller(tmp_path, gray)
    pairs = numbered(0, 2)
    labeller.submit(pairs.first, pairs.second)
    answer(tmp_path, "000000", "first")
    (tmp_path / "answers" / "000001.json").write_text(content)
    with pytest.raises(ValueError, match=r"answers/000001\.json holds no answer"):
        labeller.collect()
    answer(tmp_path, "000001", "second")
    ((_, _, answers),) = labeller.collect()
    np.testing.assert_array_equal(answers.second, [0, 1])


@pytest.mark.parametrize("content", ["", '{"answer": "fir'])
def test_an_answer_that_is_not_written_out_yet_is_left_for_later(tmp_path, content):
    labeller = FolderLabeller(tmp_path, gray)
    pairs = numbered(0, 2)
    labeller.submit(pairs.first, pairs.second)
    (tmp_path / "answers" / "000000.json").write_text(content)
    assert labeller.collect() == []
    answer(tmp_path, "000001", "second")
    ((_, _, answers),) = labeller.collect()
    np.testing.assert_array_equal(answers.second, [1])
    answer(tmp_path, "000000", "first")
    ((_, _, answers),) = labeller.collect()
    np.testing.assert_array_equal(answers.second, [0])


# Selection of pairs


def test_disagreement_and_entropy_pick_the_pairs_that_their_definitions_rank_first():
    chance = np.random.default_rng(0)
    first, second = chance.normal(size=(2, 3, 12)) * 2
    odds = 1 / (1 + np.exp(first - second))
    mean = odds.mean(0)
    entropy = -mean * np.log(mean) - (1 - mean) * np.log(1 - mean)
    for selection, score in ((DisagreementPairs(), odds.var(0)), (EntropyPairs(), entropy)):
        chosen = selection(KEY, jnp.asarray(first), jnp.asarray(second), jnp.arange(12.0), 4)
        assert set(np.asarray(chosen).tolist()) == set(np.argsort(score)[-4:].tolist())


@pytest.mark.parametrize("selection", [UniformPairs(), DisagreementPairs(), EntropyPairs()])
def test_candidates_that_are_all_alike_are_drawn_uniformly_without_repeats(selection):
    zeros = jnp.zeros((1, 5))
    pick = functools.partial(selection, count=2)
    chosen = jax.jit(jax.vmap(lambda key: pick(key, zeros, zeros, zeros[0])))(
        jax.random.split(KEY, 2000)
    )
    assert np.all(chosen[:, 0] != chosen[:, 1])
    counts = np.bincount(np.asarray(chosen).ravel(), minlength=5)
    np.testing.assert_allclose(counts, 800, atol=5 * np.sqrt(2000 * 0.4 * 0.6))
    with pytest.raises(ValueError, match="6 pairs are asked of 5 candidates"):
        selection(KEY, zeros, zeros, zeros[0], 6)


@pytest.mark.parametrize("selection", [DisagreementPairs(), EntropyPairs()])
def test_where_the_sums_leave_a_tie_the_most_novel_candidates_are_asked_about(selection):
    sums, novelty = jnp.zeros((3, 5)), jnp.asarray([0.0, 2.0, 1.0, 3.0, 0.0])
    assert selection(KEY, sums, sums, novelty, 3).tolist() == [3, 1, 2]


def test_doubt_comes_before_novelty():
    sums, novelty = jnp.zeros((3, 5)), jnp.asarray([0.0, 2.0, 1.0, 3.0, 0.0])
    certain = sums.at[:, 3].set(50.0)
    assert EntropyPairs()(KEY, sums, certain, novelty, 4).tolist()[:2] == [1, 2]
    torn = sums.at[:, 0].set(jnp.asarray([1.0, 0.0, -1.0]))
    assert DisagreementPairs()(KEY, sums, torn, novelty, 2).tolist() == [0, 3]


def test_entropy_is_finite_where_the_ensemble_is_certain():
    sums = jnp.asarray([[0.0, 0.0, 0.0]]), jnp.asarray([[1e4, 0.0, -1e4]])
    assert EntropyPairs()(KEY, *sums, jnp.arange(3.0), 1).tolist() == [1]


# Schedules


@given(
    total=st.integers(0, 500),
    rounds=st.integers(1, 30),
    initial=st.floats(0, 1),
    half=st.floats(0.01, 10),
)
def test_a_schedule_asks_for_every_label_once(total, rounds, initial, half):
    for schedule in (Even(initial), Decreasing(initial, half)):
        labels = schedule(total, rounds)
        assert len(labels) == rounds and sum(labels) == total and min(labels) >= 0
        assert labels[0] >= np.floor(initial * total)


def test_schedules_follow_their_rates():
    assert Even()(12, 4) == (3, 3, 3, 3)
    assert Even(initial=0.5)(8, 4) == (5, 1, 1, 1)
    # half / (t + half) at t = 1/4 and 3/4 is 1/2 and 1/4 for half = 1/4.
    assert Decreasing(initial=0.0, half=0.25)(30, 2) == (20, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Even()(-1, 2), "-1 labels over 2 rounds"),
        (lambda: Even()(1, 0), "1 labels over 0 rounds"),
        (lambda: Even(initial=1.5)(1, 1), r"initial is 1\.5"),
        (lambda: Decreasing(half=0.0)(1, 1), r"half is 0\.0"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
