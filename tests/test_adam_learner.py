"""Fits of a reward model by Adam: they must learn, stop early, and name what is not finite."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from touching import touching

from bilevax.deep.adam_learner import AdamRewardLearner
from bilevax.deep.buffer import PreferenceBuffer
from bilevax.deep.pattern_reward import PatternReward
from bilevax.deep.preference_loss import accuracy, bradley_terry_loss
from bilevax.deep.reward_model import RewardModel
from bilevax.deep.reward_network import MLPReward
from bilevax.deep.reward_scale import correlation
from bilevax.deep.segments import Segments
from bilevax.deep.teacher import Answers, ScriptedTeacher

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
FEATURES, ACTIONS, LENGTH, MEMBERS = 3, 2, 4, 2
LEARNER = AdamRewardLearner(learning_rate=1e-2)


class Penalty(eqx.Module):
    """``weight`` times the member's mean reward on some steps."""

    weight: jax.Array
    observation: jax.Array
    action: jax.Array

    def __call__(self, member):
        return self.weight * jnp.mean(member(self.observation, self.action))


fit = jax.jit(
    lambda state, buffer, key, penalty: LEARNER.fit(
        state, buffer, key, steps=80, batch=16, penalty=penalty
    )
)


def linear_segments(seed, count):
    """Segments of random features, rewarded by a fixed linear function and one of the actions."""
    chance = np.random.default_rng(seed)
    observation = chance.normal(size=(count, LENGTH, FEATURES))
    action = chance.integers(ACTIONS, size=(count, LENGTH))
    reward = observation @ np.array([1.0, -2.0, 0.0]) + 1.5 * action
    zeros = np.zeros((count, LENGTH))
    return Segments(*(jnp.asarray(leaf) for leaf in (observation, action, zeros, reward)))


@functools.cache
def linear_buffer(share=0.2):
    first, second = linear_segments(0, 160), linear_segments(1, 160)
    answers = ScriptedTeacher.oracle()(KEY, first.reward, second.reward)
    return PreferenceBuffer.empty(200, first, share=share).add(KEY, first, second, answers)


@jax.jit
def state_from(key=KEY):
    make = lambda key: MLPReward.create(key, (FEATURES,), ACTIONS, width=8)
    return LEARNER.init(RewardModel.create(key, make, members=MEMBERS))


def no_penalty():
    return Penalty(jnp.zeros(()), jnp.ones((5, FEATURES)), jnp.zeros(5, int))


@pytest.fixture(scope="module")
def fitted():
    return fit(state_from(), linear_buffer(), KEY, no_penalty())


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_a_linear_reward_is_recovered_from_preferences(fitted):
    state, metrics = fitted
    new = linear_segments(7, 300)
    learned = state.model(new.observation, new.action)
    assert correlation(learned.ravel(), new.reward.ravel()) > 0.95
    assert metrics.held_out_accuracy > 0.85 and metrics.accuracy > 0.9
    assert metrics.finite and metrics.fault() == ""


def test_the_model_is_the_mean_of_its_members(fitted):
    model = fitted[0].model
    new = linear_segments(7, 5)
    single = lambda index: jax.tree.map(lambda leaf: leaf[index], model.members)
    by_hand = [single(member)(new.observation, new.action) for member in range(MEMBERS)]
    together, sums = jax.jit(
        lambda: (model.predict(new.observation, new.action), model.sums(new))
    )()
    np.testing.assert_allclose(together, by_hand, rtol=1e-9)
    np.testing.assert_allclose(sums, np.sum(by_hand, -1), rtol=1e-9)
    assert not np.allclose(*by_hand)


def test_the_metrics_are_those_of_the_model_given_back_and_better_than_the_start(fitted):
    buffer = linear_buffer()
    row, weight = buffer.held_out_rows()
    pairs = buffer.pairs.take(row)
    answers = Answers(pairs.answers.second, weight)

    @jax.jit
    def judge(model):
        first, second = model.sums(pairs.first), model.sums(pairs.second)
        losses = [bradley_terry_loss(*sums, answers) for sums in zip(first, second, strict=True)]
        return sum(losses) / len(losses), accuracy(first.mean(0), second.mean(0), answers)

    (loss, right), (before, _) = judge(fitted[0].model), judge(state_from().model)
    np.testing.assert_allclose(fitted[1].held_out_loss, loss, rtol=1e-9)
    np.testing.assert_allclose(fitted[1].held_out_accuracy, right, rtol=1e-9)
    assert loss < before


def test_early_stopping_ends_at_the_first_check_where_training_only_spoils(fitted):
    state, _ = fitted
    buffer = linear_buffer()
    second = buffer.pairs.answers.second
    wrong = jnp.where(buffer.held_out, second, 1 - second)
    spoiled = eqx.tree_at(lambda b: b.pairs.answers.second, buffer, wrong)
    _, metrics = fit(state, spoiled, KEY, no_penalty())
    assert metrics.kept_step == 80 / LEARNER.checks


def test_the_pattern_reward_learns_what_touches_in_single_precision_and_never_from_held_out():
    single = lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf
    first, second = touching(0, 400), touching(1, 400)
    answers = ScriptedTeacher.oracle()(KEY, first.reward, second.reward)
    buffer = PreferenceBuffer.empty(400, first, share=0.2).add(KEY, first, second, answers)
    learner = AdamRewardLearner(learning_rate=1e-2, checks=0)
    make = lambda key: PatternReward.create(key, (4, 3, 2), ACTIONS)
    state = learner.init(RewardModel.create(KEY, make, members=MEMBERS))
    state, buffer = jax.tree.map(single, (state, buffer))
    train = jax.jit(lambda buffer: learner.fit(state, buffer, KEY, steps=100, batch=32))

    (after, right) = train(buffer)
    new = jax.tree.map(single, touching(2, 100))
    learned = after.model(new.observation, new.action)
    assert correlation(learned.ravel(), new.reward.ravel()) > 0.85
    kinds = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert kinds(after) == kinds(state) and right.held_out_loss.dtype == jnp.float32
    assert right.held_out_accuracy > 0.8 and right.kept_step == 100

    answer = buffer.pairs.answers.second
    turned = jnp.where(buffer.held_out, 1 - answer, answer)
    again, wrong = train(eqx.tree_at(lambda b: b.pairs.answers.second, buffer, turned))
    assert same(again, after)
    np.testing.assert_allclose(wrong.held_out_accuracy, 1 - right.held_out_accuracy, rtol=1e-6)


def test_a_penalty_moves_the_reward_down_where_it_weighs(fitted):
    at = jnp.ones((5, FEATURES)), jnp.zeros(5, int)
    state, metrics = fit(state_from(), linear_buffer(), KEY, Penalty(jnp.asarray(0.3, float), *at))
    assert np.mean(state.model(*at)) < np.mean(fitted[0].model(*at)) - 0.5
    expected = 0.3 * np.mean(state.model(*at))
    np.testing.assert_allclose(metrics.penalty, expected, rtol=1e-9)


def test_a_penalty_that_is_not_finite_is_named_and_leaves_the_model_as_it_was():
    at = jnp.ones((5, FEATURES)), jnp.zeros(5, int)
    state = state_from()
    kept, metrics = fit(state, linear_buffer(), KEY, Penalty(jnp.asarray(jnp.nan, float), *at))
    assert metrics.preference_finite and not metrics.penalty_finite and not metrics.finite
    assert metrics.fault() == "the penalty term became NaN or infinite"
    assert same(kept.model, state.model) and same(kept.memory, state.memory)


def test_seeds_side_by_side_are_the_seeds_one_by_one(fitted):
    one = lambda key: fit(state_from(), linear_buffer(), key, no_penalty())[1].held_out_loss
    together = jax.jit(jax.vmap(one))(jnp.stack([KEY, jax.random.key(1)]))
    np.testing.assert_allclose(together[0], fitted[1].held_out_loss, rtol=1e-9)
    assert together[0] != together[1]
