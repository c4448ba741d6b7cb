import dataclasses
import json
import math
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from small_rlhf import ALGORITHM, SETUP

from bilevax.deep.buffer import Pairs
from bilevax.deep.environment import AbstractEnvironment, Spec, Step
from bilevax.deep.environments.catcher import Catcher
from bilevax.deep.environments.moving_dot import MovingDot
from bilevax.deep.labeller import AbstractLabeller, FolderLabeller
from bilevax.deep.pattern_reward import patterns
from bilevax.deep.policy import actor_critic
from bilevax.deep.presets import pattern_reward
from bilevax.deep.rlhf import DRLHF, PBRL, AbstractAlgorithm, Setup, TrueReward
from bilevax.deep.rlhf import session as session_module
from bilevax.deep.rlhf.base import agreement, cut, fitted, mean_reward
from bilevax.deep.rlhf.evaluation import evaluate
from bilevax.deep.rlhf.folder import load_network, read_rlhf_history
from bilevax.deep.rlhf.outcome import interval_or_range, labelled_pairs
from bilevax.deep.rlhf.queries import ask, choose
from bilevax.deep.rlhf.run import run_rlhf
from bilevax.deep.rollout import collect, start_actors
from bilevax.deep.sampler import CompiledSampler
from bilevax.deep.teacher import Answers

pytestmark = pytest.mark.slow


def bits(run, seed=0):
    """The state's arrays and the history of a seed, as bytes and numbers."""
    state = next(one.state for one in run.seeds if one.seed == seed)
    is_key = lambda z: jnp.issubdtype(z.dtype, jax.dtypes.prng_key)
    leaves = [jax.random.key_data(z) if is_key(z) else z for z in jax.tree.leaves(state)]
    lines = [dict(line, seconds=0) for line in run.history if line["seed"] == seed]
    return [np.asarray(z).tobytes() for z in leaves], json.dumps(lines)


@pytest.fixture(scope="module")
def whole():
    return run_rlhf(ALGORITHM, [0, 1], episodes=4)


def test_a_seed_gives_the_same_bits_whatever_runs_beside_it(whole):
    alone = run_rlhf(ALGORITHM, [1], episodes=4, workers=1)
    assert bits(alone, 1) == bits(whole, 1) != bits(whole, 0)
    np.testing.assert_array_equal(alone.seeds[0].returns, whole.seeds[1].returns)


def test_history_counts_steps_of_both_policies_and_all_labels(whole):
    lines = [line for line in whole.history if line["seed"] == 0]
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert [line["labels"] for line in lines] == np.cumsum(SETUP.asked).tolist()
    # The first window is walked before the first round: 2 rollouts of 4 steps, 4 environments.
    assert [line["steps"] for line in lines] == [32 + 32, 32 + 64, 32 + 96]
    assert all(0 <= line["equal_share"] <= 1 for line in lines)


def test_a_fit_is_that_of_the_labels_unless_they_find_the_tracker_ahead(whole):
    with jax.enable_x64(False):
        state = whole.seeds[0].state
        # All steps of both windows count, so that to swap the policies is to turn the sign.
        judge = lambda errors: dataclasses.replace(ALGORITHM, errors=errors, frames=10_000)
        swapped = eqx.tree_at(
            lambda s: (s.policy.window, s.tracker.window),
            state,
            (state.tracker.window, state.policy.window),
        )
        key = jax.random.key(5)
        plain, _ = fitted(SETUP, state, jax.random.split(key)[0], 3)
        change = lambda fit: max(
            float(jnp.max(jnp.abs(a - b)))
            for a, b in zip(
                *map(jax.tree.leaves, (fit[0].reward.model, plain.reward.model)), strict=True
            )
        )
        never = judge(1e6).fit(state, key, 3)
        assert change(never) < 1e-6 and never[1].penalty == 0
        both = [judge(0.0).fit(one, key, 3) for one in (state, swapped)]
        ahead = [change(fit) > 1e-6 for fit in both]
        assert sorted(ahead) == [False, True]
        assert both[ahead.index(False)][1].penalty == 0 <= both[ahead.index(True)][1].penalty
        # Where the tracker is ahead by the labels' reward, the other reward shortens its lead.
        one, (penalised, _) = (state, swapped)[ahead.index(True)], both[ahead.index(True)]
        windows = one.tracker.window, one.policy.window
        means = lambda fit: [mean_reward(fit.reward.model, window) for window in windows]
        lead = lambda fit: means(fit)[0] - means(fit)[1]
        assert lead(penalised) < lead(plain) and lead(plain) > 0
        # It was fitted from the same start: Adam has counted the steps of one fit.
        counts = lambda state: [
            z.item() for z in jax.tree.leaves(state.reward.memory) if z.dtype == jnp.int32
        ]
        assert counts(penalised) == counts(plain) != counts(state)


def test_before_any_answer_the_pairs_that_show_something_rare_are_asked_about():
    sampler = CompiledSampler(Catcher(), 16, 5)
    own = dict(sampler=sampler, reward_network=pattern_reward, window=4, candidates=3, steps=960)
    setup = dataclasses.replace(SETUP, **own)
    state, key = DRLHF(setup).init(jax.random.key(1)), jax.random.key(2)
    first, second = choose(setup, state, key)
    count = 3 * setup.most_asked
    segments, enough = cut(setup, state.policy.window, jax.random.split(key)[0], 2 * count)
    assert enough and first.count == second.count == setup.most_asked

    shown = np.asarray(patterns(segments.observation))
    under = np.eye(3)[np.asarray(segments.action)]
    under = np.concatenate([np.ones_like(under[..., :1]), under], axis=-1)
    counts = np.einsum("plk,pla->pka", shown, under)
    square = (counts[count:] - counts[:count]) ** 2
    mean = square.mean(0)
    novelty = np.sum(square / np.where(mean > 0, mean, 1), axis=(1, 2))
    assert len(np.unique(novelty.round(6))) == count  # no ties
    asked = np.argsort(-novelty)[: setup.most_asked]
    for found, rows in ((first, asked), (second, count + asked)):
        for a, b in zip(*map(jax.tree.leaves, (found, segments)), strict=True):
            np.testing.assert_array_equal(a, b[rows])


def test_nothing_of_a_run_is_in_double_precision(whole):
    wide = {jnp.dtype("float64"), jnp.dtype("int64")}
    assert jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    assert not {z.dtype for z in jax.tree.leaves(whole.seeds[0].state)} & wide


@pytest.mark.parametrize("env", [MovingDot(), Catcher()], ids=["dot", "catcher"])
def test_rollouts_are_in_single_precision_even_with_x64(env):
    def walk(key):
        network = actor_critic(key, env.spec, 8, 1)
        return collect(env, network, start_actors(env, key, 2), key, 3)

    shapes = eqx.filter_eval_shape(walk, jax.random.key(0))
    assert jnp.dtype("float64") not in {z.dtype for z in jax.tree.leaves(shapes)}


def test_a_run_with_a_wider_window_than_its_rounds_can_be_resumed(tmp_path, monkeypatch):
    def lost(algorithm, state, teacher, wait):
        if int(state.round) == 1:
            raise KeyboardInterrupt
        return one_round(algorithm, state, teacher, wait)

    one_round = session_module.one_round
    wide = dataclasses.replace(SETUP, window=3)  # its rounds have two rollouts
    algorithm: Any = TrueReward(wide)
    options: dict[str, Any] = dict(directory=tmp_path / "run", episodes=4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session_module, "one_round", lost)
        run_rlhf(algorithm, 1, checkpoint_every=0.0, **options)
    assert bits(run_rlhf(algorithm, 1, resume=True, **options)) == bits(
        run_rlhf(algorithm, 1, episodes=4)
    )


@pytest.mark.parametrize("crash", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(whole, tmp_path, monkeypatch, crash):
    folder = tmp_path / "run"

    def interrupted(progress):
        raise KeyboardInterrupt

    def lost(algorithm, state, teacher, wait):
        if int(state.round) == 2:
            raise KeyboardInterrupt
        return one_round(algorithm, state, teacher, wait)

    one_round = session_module.one_round
    options: dict[str, Any] = dict(directory=folder, episodes=4, checkpoint_every=0.0)
    with monkeypatch.context() as patch:
        if crash:
            patch.setattr(session_module, "one_round", lost)
        with pytest.raises(KeyboardInterrupt):
            watched = None if crash else interrupted
            run_rlhf(ALGORITHM, [0, 1], config={"note": (1,)}, on_progress=watched, **options)
    assert list(folder.glob("seed*.checkpoint"))
    before = (folder / "history.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"one of seeds \[0, 1\], and seeds is \[5\]"):
        run_rlhf(ALGORITHM, [5], resume=True, **options)
    with pytest.raises(ValueError, match=r"config is not what .*config\.json holds"):
        run_rlhf(ALGORITHM, [0, 1], resume=True, config={"note": 2}, **options)
    assert (folder / "history.jsonl").read_bytes() == before
    other: Any = PBRL(SETUP, penalty_weight=3.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="belongs to another algorithm"):
        run_rlhf(other, [0, 1], resume=True, **options)
    with open(folder / "history.jsonl", "ab") as file:
        file.write(b'{"seed": 0, "rou')  # a line cut short by a crash
    resumed = run_rlhf(ALGORITHM, [0, 1], resume=True, config={"note": [1]}, **options)
    assert [bits(resumed, seed) for seed in (0, 1)] == [bits(whole, seed) for seed in (0, 1)]
    kept = sorted(read_rlhf_history(folder), key=lambda line: (line["seed"], line["round"]))
    assert [(z["seed"], z["round"]) for z in kept] == [(s, r) for s in (0, 1) for r in range(3)]
    assert not list(folder.glob("*.checkpoint"))
    with pytest.raises(ValueError, match="finished"):
        run_rlhf(ALGORITHM, [0, 1], resume=True, **options)
    network = whole.seeds[1].state.policy.agent.network
    saved = load_network(folder / "policy-seed1.safetensors", network)
    assert eqx.tree_equal(saved, network)
    with pytest.raises(ValueError, match="another environment or of other layers"):
        load_network(folder / "reward-seed1.safetensors", network)


class Breaking(AbstractAlgorithm):
    """As PBRL, but for one seed the preference loss is not finite in round 1."""

    setup: Setup
    bad_key: Any
    asks = True  # pyright: ignore
    samplers = ALGORITHM.samplers

    def init(self, key):
        state = ALGORITHM.init(key)
        weight = jnp.where(jnp.all(key == self.bad_key), 9.0, state.weight)
        return eqx.tree_at(lambda s: s.weight, state, weight.astype(jnp.float32))

    def fit(self, state, key, steps):
        fine = not (int(state.round) == 1 and float(state.weight) == 9)
        state, metrics = ALGORITHM.fit(state, key, steps)
        return state, eqx.tree_at(lambda m: m.preference_finite, metrics, jnp.asarray(fine))

    def improve(self, state, key):
        return ALGORITHM.improve(state, key)


def test_a_reward_model_that_is_not_finite_stops_its_seed_alone(tmp_path):
    broken: Any = Breaking(SETUP, jax.random.key(1))  # pyright: ignore[reportCallIssue]
    run = run_rlhf(broken, [0, 1], directory=tmp_path / "run", episodes=4)
    assert len(run.faults) == 1
    assert "seed 1 stopped in round 1: the preference loss became NaN" in run.faults[0]
    assert math.isnan(run.seeds[1].true_return)
    assert int(run.seeds[1].state.round) == 1
    assert run.true_return == run.seeds[0].true_return
    assert [p.name for p in (tmp_path / "run").glob("*.checkpoint")] == ["seed1.checkpoint"]


def test_a_segment_longer_than_every_episode_stops_the_run_before_anyone_is_asked():
    sampler = CompiledSampler(Catcher(), 8, 5)
    longer = dataclasses.replace(SETUP, sampler=sampler, segment=6, window=4, steps=480)
    run = run_rlhf(DRLHF(longer), 1, episodes=4)
    assert "no episode is as long as a segment, 6 steps; give a shorter one" in run.faults[0]
    assert run.seeds[0].labels == 0


class Late(AbstractLabeller):
    """Prefers the first of every pair, one round late."""

    def __init__(self):
        self.waiting, self.ready = [], []

    def submit(self, first, second):
        count = first.count
        self.waiting.append((first, second, Answers(jnp.zeros(count), jnp.ones(count))))

    def collect(self):
        ready, self.ready, self.waiting = self.ready, self.waiting, []
        return ready


class Silent(Late):
    """Never answers."""

    def collect(self):
        return []


def test_a_run_without_any_answer_says_so(tmp_path):
    run = run_rlhf(ALGORITHM, 1, labeller=Silent(), episodes=4, directory=tmp_path / "run")
    assert run.faults == ("seed 0 learned from nothing: to 6 questions no answer came",)
    assert run.seeds[0].returns.size == 4 and not list((tmp_path / "run").glob("*.checkpoint"))
    unasked: Any = PBRL(dataclasses.replace(SETUP, labels=0), tracker_share=0.5)  # pyright: ignore
    assert not run_rlhf(unasked, 1, episodes=4).faults


def test_where_all_true_returns_are_the_same_the_correlation_is_unknown(whole):
    state = whole.seeds[0].state
    rewards = lambda reward: eqx.tree_at(lambda s: s.policy.window.reward, state, reward)
    reward, key = state.policy.window.reward, jax.random.key(0)
    assert jnp.isnan(agreement(SETUP, rewards(jnp.ones_like(reward)), key))
    varied = jax.random.uniform(key, reward.shape)
    assert jnp.isfinite(agreement(SETUP, rewards(varied), key))


def test_answers_may_come_a_round_late():
    run = run_rlhf(ALGORITHM, 1, labeller=Late(), episodes=4)
    first, second, _ = SETUP.asked
    assert [line["labels"] for line in run.history] == [0, first, first + second]
    # No answer, no share of equal ones: not even that of answers from before.
    assert [math.isnan(line["equal_share"]) for line in run.history] == [True, False, False]
    late = Late()
    setup, state = SETUP, ALGORITHM.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    never = lambda labeller: None
    state = ask(setup, ask(setup, state, late, keys, first, never), late, keys, 0, never)
    assert jnp.sum(state.fresh.answers.weight) == first
    assert jnp.sum(ask(setup, state, late, keys, 0, never).fresh.answers.weight) == 0
    with pytest.raises(ValueError, match="one labeller cannot answer 2 seeds"):
        run_rlhf(ALGORITHM, 2, labeller=Late())


class Person(FolderLabeller):
    """Answers one question at every look, by what is seen, and no more than ``most``."""

    def __init__(self, directory, most=math.inf):
        super().__init__(directory, paint)
        self.answers, self.most = directory / "answers", most

    def unanswered(self):
        missing = [q for q in self.waiting if not (self.answers / f"{q}.json").exists()]
        if missing and self.most > 0:
            self.most -= 1
            seen = np.load(self.answers.parent / f"{missing[0]}.npz")
            first, second = (seen[f"{one}_observation"].mean() for one in ("first", "second"))
            text = json.dumps({"answer": "first" if first > second else "second"})
            (self.answers / f"{missing[0]}.json").write_text(text)
        return super().unanswered()


def paint(observation):
    return np.zeros((2, 2, 3), np.uint8)


def test_a_patient_run_learns_in_each_round_from_all_that_it_asks(tmp_path, monkeypatch):
    monkeypatch.setattr("bilevax.deep.rlhf.patience._LOOK", 0.001)
    person, seen = Person(tmp_path / "asked"), []
    run = run_rlhf(
        ALGORITHM,
        1,
        labeller=person,
        patience=math.inf,
        episodes=4,
        on_progress=lambda progress: seen.append(progress.waiting_for),
    )
    assert [line["labels"] for line in run.history] == np.cumsum(SETUP.asked).tolist()
    assert seen[-1] == 0 and person.waiting == []


def test_patience_ends(monkeypatch):
    class Nobody(Silent):
        def unanswered(self):
            return 3

    monkeypatch.setattr("bilevax.deep.rlhf.patience._LOOK", 0.001)
    run = run_rlhf(ALGORITHM, 1, labeller=Nobody(), patience=0.01, episodes=4)
    assert "no answer came" in run.faults[0] and len(run.history) == SETUP.rounds
    for patience in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"patience is -?(1.0|nan); give at least 0 seconds"):
            run_rlhf(ALGORITHM, 1, labeller=Nobody(), patience=patience)
    with pytest.raises(ValueError, match=r"Silent does not say .*; define its unanswered\(\)"):
        run_rlhf(ALGORITHM, 1, labeller=Silent(), patience=1.0)
    with pytest.raises(ValueError, match="there is no labeller to wait for"):
        run_rlhf(ALGORITHM, 1, patience=1.0)


def test_a_run_stopped_while_it_waits_asks_nothing_twice_and_equals_one_that_was_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("bilevax.deep.rlhf.patience._LOOK", 0.001)
    patient: dict[str, Any] = dict(patience=math.inf, episodes=4)
    unbroken = run_rlhf(ALGORITHM, 1, labeller=Person(tmp_path / "other"), **patient)

    def evening(progress):
        if progress.rounds == 1 and progress.waiting_for:
            assert (tmp_path / "run" / "seed0.checkpoint").exists()  # a killed run goes on too
            raise KeyboardInterrupt

    lines = lambda: len((tmp_path / "asked" / "queries.jsonl").read_text().splitlines())
    folder: dict[str, Any] = dict(directory=tmp_path / "run", **patient)
    person = Person(tmp_path / "asked", most=SETUP.asked[0])
    with pytest.raises(KeyboardInterrupt):
        run_rlhf(ALGORITHM, 1, labeller=person, on_progress=evening, **folder)
    assert lines() == sum(SETUP.asked[:2])
    resumed = run_rlhf(ALGORITHM, 1, labeller=Person(tmp_path / "asked"), resume=True, **folder)
    assert lines() == sum(SETUP.asked)
    assert bits(resumed) == bits(unbroken)


@pytest.mark.parametrize("saved", [False, True])
def test_answers_that_are_in_no_state_are_given_to_the_next_run(tmp_path, monkeypatch, saved):
    monkeypatch.setattr("bilevax.deep.rlhf.patience._LOOK", 0.001)
    one_round, person = session_module.one_round, Person(tmp_path / "asked")
    patient: dict[str, Any] = dict(labeller=person, patience=math.inf, episodes=4)

    def faulty(*arguments):
        one_round(*arguments)
        return arguments[1], {}, "broken"

    with monkeypatch.context() as patch:
        patch.setattr(session_module, "one_round", faulty)
        folder = tmp_path / "run" if saved else None
        assert "broken" in run_rlhf(ALGORITHM, 1, directory=folder, **patient).faults[0]
    run = run_rlhf(ALGORITHM, 1, **patient)
    questions = (tmp_path / "asked" / "queries.jsonl").read_text().splitlines()
    assert len(questions) == sum(SETUP.asked)
    assert [line["labels"] for line in run.history] == np.cumsum(SETUP.asked).tolist()


def test_a_malformed_answer_ends_a_run_that_resumes_once_it_is_corrected(tmp_path, monkeypatch):
    monkeypatch.setattr("bilevax.deep.rlhf.patience._LOOK", 0.001)
    options: dict[str, Any] = dict(directory=tmp_path / "run", patience=math.inf, episodes=4)
    first = SETUP.asked[0]
    person = Person(tmp_path / "asked", most=first)
    typed = tmp_path / "asked" / "answers" / f"{first:06d}.json"  # of round 1
    typed.parent.mkdir(parents=True, exist_ok=True)
    typed.write_text('{"answer": "frist"}')
    with pytest.raises(ValueError, match="holds no answer"):
        run_rlhf(ALGORITHM, 1, labeller=person, **options)
    typed.unlink()
    run = run_rlhf(ALGORITHM, 1, labeller=Person(tmp_path / "asked"), resume=True, **options)
    assert [line["labels"] for line in run.history] == np.cumsum(SETUP.asked).tolist()
    assert len(list(typed.parent.glob("*.json"))) == sum(SETUP.asked)


def test_known_pairs_count_as_labels_and_are_kept(whole, tmp_path, monkeypatch):
    pairs = labelled_pairs(whole)
    assert pairs.answers.second.shape == (12,)
    known = pairs.take(slice(0, 5))
    run = run_rlhf(ALGORITHM, 1, known=known, episodes=4)
    assert run.history[0]["labels"] == 5 + SETUP.asked[0]
    kept: Pairs = labelled_pairs(run).take(slice(0, 5))
    np.testing.assert_array_equal(kept.first.observation, known.first.observation)
    both = jax.tree.map(lambda z: jnp.concatenate([z, z]), pairs)
    with pytest.raises(ValueError, match="24 pairs and the buffer 12"):
        run_rlhf(ALGORITHM, 1, known=both, directory=tmp_path / "run")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="tensorboard"):
        run_rlhf(ALGORITHM, 1, directory=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


class Lengths(AbstractEnvironment):
    """Each step earns 1; an episode takes 1 step or 10, as its first observation says."""

    @property
    def spec(self):
        return Spec("lengths", (1,), jnp.float32, 2)

    def reset(self, key):
        length = jnp.where(jax.random.bernoulli(key), 10, 1)
        return (length, jnp.zeros((), int)), length[None].astype(jnp.float32)

    def step(self, key, state, action):
        length, time = state
        over = time + 1 >= length
        observation = length[None].astype(jnp.float32)
        return Step((length, time + 1), observation, jnp.float32(1), over, jnp.asarray(False))


def test_evaluation_counts_one_whole_episode_of_each_environment():
    sampler = CompiledSampler(Lengths(), 4, 4)
    network = actor_critic(jax.random.key(0), sampler.spec, 4, 1)
    returns = evaluate(sampler, network, jax.random.key(1), episodes=400)
    assert set(returns) == {1.0, 10.0}
    # Half of them are long; of episodes as they end, ten in eleven would be short.
    assert abs(np.mean(returns) - 5.5) < 4 * 4.5 / 400**0.5
    cut = evaluate(sampler, network, jax.random.key(1), episodes=400, max_steps=3)
    np.testing.assert_array_equal(cut, np.minimum(returns, 3))


def test_an_interval_or_range_holds_the_median_as_often_as_it_says():
    for n in range(6, 30):
        low, high = interval_or_range(np.arange(1, n + 1.0)[::-1])
        j = int(low)
        assert high == n + 1 - j
        cover = lambda j, n=n: 1 - 2 * scipy.stats.binom.cdf(j - 1, n, 0.5)
        assert cover(j) >= 0.95 > cover(j + 1)
    assert interval_or_range([3.0, math.nan, 1.0, 2.0]) == (1.0, 3.0)
    assert all(map(math.isnan, interval_or_range([1.0, math.nan])))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(seeds=0), "at least one"),
        (dict(seeds=[1, 1]), "each once"),
        (dict(seeds=1, workers=0), "workers is 0"),
        (dict(seeds=1, episodes=0), "episodes is 0"),
        (dict(seeds=1, resume=True), "need the directory"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        run_rlhf(ALGORITHM, **options)
