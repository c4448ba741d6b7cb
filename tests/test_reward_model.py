"""Reward models: the loss against its definition and differences, and fits that must learn."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bilevax.deep.adam_learner import AdamRewardLearner
from bilevax.deep.buffer import PreferenceBuffer
from bilevax.deep.networks import im2col
from bilevax.deep.pattern_reward import PatternReward, patterns
from bilevax.deep.preference_loss import accuracy, bradley_terry_loss
from bilevax.deep.reward_model import RewardModel, evaluate
from bilevax.deep.reward_network import ConvReward, MLPReward, StridedReward
from bilevax.deep.reward_scale import RewardNormalizer, correlation
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


# The loss


def example(seed=0):
    chance = np.random.default_rng(seed)
    first, second = chance.normal(size=(2, 6)) * 3
    return first, second, np.array([0, 1, 0.5, 1, 0.2, 0]), np.array([1, 1, 1, 0, 2, 1.0])


def test_the_loss_is_the_weighted_cross_entropy_of_its_definition():
    first, second, answer, weight = example()
    odds = 1 / (1 + np.exp(first - second))
    each = -answer * np.log(odds) - (1 - answer) * np.log(1 - odds)
    answers = Answers(jnp.asarray(answer), jnp.asarray(weight))
    loss = bradley_terry_loss(jnp.asarray(first), jnp.asarray(second), answers)
    np.testing.assert_allclose(loss, np.sum(weight * each) / np.sum(weight), rtol=1e-12)


def test_the_gradient_of_the_loss_matches_differences_and_skipped_pairs_have_none():
    first, second, answer, weight = map(jnp.asarray, example())
    loss = lambda first: bradley_terry_loss(first, second, Answers(answer, weight))
    slope = jax.grad(loss)(first)
    step = 1e-5 * jnp.eye(6)
    differences = [(loss(first + row) - loss(first - row)) / 2e-5 for row in step]
    np.testing.assert_allclose(slope, differences, atol=1e-9)
    assert slope[3] == 0


def test_certain_and_wrong_is_a_finite_loss_and_nothing_to_learn_from_is_zero():
    sums = jnp.asarray([1e4]), jnp.asarray([0.0])
    assert bradley_terry_loss(*sums, Answers(jnp.ones(1), jnp.ones(1))) == 1e4
    assert bradley_terry_loss(*sums, Answers(jnp.ones(1), jnp.zeros(1))) == 0


def test_accuracy_counts_decided_pairs_only():
    first, second = jnp.zeros(5), jnp.asarray([1.0, -1.0, 5.0, 5.0, 0.0])
    answers = Answers(jnp.asarray([1, 1, 0.5, 0, 1.0]), jnp.asarray([1, 1, 1, 0, 2.0]))
    # Right; wrong; equal and skipped do not count; undecided counts half, and double.
    assert accuracy(first, second, answers) == (1 + 0 + 2 * 0.5) / 4
    nothing = Answers(jnp.full(5, 0.5), jnp.ones(5))
    assert jnp.isnan(accuracy(first, second, nothing))


# Networks


def test_patches_times_weights_are_a_convolution():
    chance = np.random.default_rng(0)
    image, weight = (jnp.asarray(chance.normal(size=s)) for s in ((2, 5, 4, 3), (27, 6)))
    kernel, axes = weight.reshape(3, 3, 3, 6), ("NHWC", "HWIO", "NHWC")
    convolved = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=axes)
    np.testing.assert_allclose(im2col(image) @ weight, convolved, atol=1e-12)


@functools.cache
def network(name):
    """A small one of each, for images [4, 3, 2]; the pattern's weights start at 0 and are drawn."""
    if name == "pattern":
        member = PatternReward.create(KEY, (4, 3, 2), ACTIONS)
        weight = np.random.default_rng(0).normal(size=member.weight.shape)
        return eqx.tree_at(lambda m: m.weight, member, jnp.asarray(weight))
    create = {"mlp": MLPReward, "conv": ConvReward, "strided": StridedReward}[name].create
    return jax.jit(lambda key: create(key, (4, 3, 2), ACTIONS, width=5))(KEY)


call = jax.jit(lambda member, observation, action: member(observation, action))


@pytest.mark.parametrize("name", ["mlp", "conv", "strided", "pattern"])
def test_a_network_takes_any_leading_axes_and_bits_bytes_or_numbers_alike(name):
    member, segments = network(name), touching(3, 5)
    bits, action = segments.observation, segments.action
    reward = call(member, bits, action)
    assert reward.shape == (5, LENGTH)
    np.testing.assert_array_equal(call(member, bits.astype(jnp.uint8), action), reward)
    np.testing.assert_allclose(call(member, 1.0 * bits, action), reward, rtol=1e-12)
    np.testing.assert_allclose(call(member, bits[1, 2], action[1, 2]), reward[1, 2], rtol=1e-12)
    assert not np.any(call(member, bits, 1 - action) == reward)
    total = jax.jit(lambda member: member.total(member.summary(bits, action)))(member)
    np.testing.assert_allclose(total, reward.sum(1), rtol=1e-9)


def test_the_convolutional_network_sees_patterns_anywhere_until_it_learns_positions():
    member = network("conv")
    corner = jnp.zeros((2, 4, 3, 2)).at[0, 1, 1, 0].set(1).at[1, 2, 1, 0].set(1)
    here, there = call(member, corner, jnp.zeros(2, int))
    np.testing.assert_allclose(here, there, rtol=1e-12)
    moved = eqx.tree_at(lambda m: m.position, member, jnp.ones_like(member.position))
    here, there = call(moved, corner, jnp.zeros(2, int))
    assert abs(here - there) > 1e-6


def test_images_are_asked_for_by_name():
    with pytest.raises(ValueError, match=r"shape \(3,\).*Use MLPReward"):
        ConvReward.create(KEY, (3,), ACTIONS)
    with pytest.raises(ValueError, match=r"shape \(2, 40, 1\).*width <= 31.*Use MLPReward"):
        PatternReward.create(KEY, (2, 40, 1), ACTIONS)


def test_patterns_are_counted_as_cell_by_cell():
    image = np.random.default_rng(0).random((2, 4, 3, 2)) < 0.5
    found = np.asarray(patterns(jnp.asarray(image)))
    expected = []
    for one in image:
        pairs = [
            sum(
                one[row, column, c] and one[row + down, column + right, d]
                for row in range(4 - down)
                for column in range(3)
                if 0 <= column + right < 3
            )
            for down, right in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1))
            for c in range(2)
            for d in range(2)
        ]
        expected.append([*pairs, *one.any(1).ravel(), *one.any(0).ravel(), 1])
    np.testing.assert_array_equal(found, expected)
    scaled = jnp.asarray(image * 3.0)
    np.testing.assert_array_equal(patterns(scaled[0]), found[0])


def test_other_units_leave_the_reward_as_it_is():
    member, first, second = network("pattern"), touching(4, 5), touching(5, 5)

    @jax.jit
    def change(member):
        summary = lambda part: member.summary(part.observation, part.action)
        return member.in_units_of(summary(second) - summary(first), jnp.zeros(5), jnp.ones(5))

    other = change(member)
    assert not np.allclose(other.weight, member.weight)
    one, two = (call(m, first.observation, first.action) for m in (member, other))
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_a_pair_that_alone_shows_a_pattern_is_the_most_novel():
    member, first = network("pattern"), touching(4, 50)
    blank = jnp.zeros_like(first.observation).at[..., 0, 0, 0].set(True)
    shown = blank.at[7, 2, 3, 2, 1].set(True)
    summary = lambda image: member.summary(image, first.action)
    common = shown.at[::2, :, 0, 1, 0].set(True)  # in half of them, and more of it
    assert jnp.argmax(member.novelty(summary(blank), summary(common))) == 7
    # A count's part is its squared difference over the mean of it: the mean over pairs is 1.
    one, two = summary(first.observation), summary(touching(5, 50).observation)
    varied = jnp.sum(jnp.any(one != two, axis=0))
    np.testing.assert_allclose(jnp.mean(member.novelty(one, two)), varied, rtol=1e-9)


def test_the_threshold_weighs_what_each_answer_adds_to_the_noise_of_a_slope():
    member, first, second = network("pattern"), touching(4, 5), touching(5, 5)
    residual = jnp.asarray([0.5, -0.2, 0.1, 0.0, -0.4])
    weight = jnp.asarray([1.0, 0.0, 0.3, 2.0, 1.5])
    summary = lambda part: member.summary(part.observation, part.action)
    changed = member.in_units_of(summary(second) - summary(first), residual, weight)
    # The weighted mean of independent slopes, each of standard deviation |residual|.
    expected = member.lasso * np.sqrt(0.5**2 + (0.3 * 0.1) ** 2 + (1.5 * 0.4) ** 2) / 4.8
    np.testing.assert_allclose(changed.threshold.value, expected, rtol=1e-6)


# The fit


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
    by_hand = [call(single(member), new.observation, new.action) for member in range(MEMBERS)]
    together, sums = jax.jit(
        lambda: (model.predict(new.observation, new.action), model.sums(new))
    )()
    np.testing.assert_allclose(together, by_hand, rtol=1e-9)
    np.testing.assert_allclose(sums, np.sum(by_hand, -1), rtol=1e-9)
    assert not np.allclose(*by_hand)


def test_the_metrics_are_those_of_the_model_given_back_and_better_than_the_start(fitted):
    judge = jax.jit(lambda model: evaluate(model, linear_buffer().held_out_pairs()))
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


def touching(seed, count):
    """Segments of random bits, rewarded where channel 0 is set to the left of channel 1.

    Under action 1 the reward counts double.
    """
    chance = np.random.default_rng(seed)
    image = chance.random((count, LENGTH, 4, 3, 2)) < 0.3
    action = chance.integers(ACTIONS, size=(count, LENGTH))
    reward = np.sum(image[..., :-1, 0] & image[..., 1:, 1], axis=(-2, -1)) * (1.0 + action)
    leaves = (image, action, np.zeros(action.shape), reward)
    return Segments(*(jnp.asarray(leaf) for leaf in leaves))


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


# The scale


def test_the_normaliser_standardises_all_it_has_seen():
    chance = np.random.default_rng(0)
    batches = chance.normal(2, 3, size=(3, 4, 5))
    normaliser = RewardNormalizer.create(decay=1.0)
    np.testing.assert_array_equal(normaliser.apply(jnp.asarray(batches)), batches)
    for batch in batches:
        normaliser = normaliser.update(jnp.asarray(batch))
    standard = (batches - batches.mean()) / batches.std()
    np.testing.assert_allclose(normaliser.apply(jnp.asarray(batches)), standard, rtol=1e-12)


def test_the_normaliser_forgets_and_can_put_the_usual_step_at_zero():
    rare = jnp.asarray([0.4] * 9 + [1.4])
    normaliser = RewardNormalizer.create(decay=0.0, quantile=0.5)
    normaliser = normaliser.update(100 * rare).update(rare)
    # Nine of ten steps are 0; the variance is 0.1 * 0.9.
    np.testing.assert_allclose(normaliser.apply(rare), [0] * 9 + [1 / 0.3], atol=1e-12)
    # Where rare steps cost, what is done as a whole does not: the mean is 0.
    costly = normaliser.update(-rare).apply(-rare)
    np.testing.assert_allclose(jnp.mean(costly), 0, atol=1e-12)
    assert costly[0] > 0 > costly[-1]


def test_constant_predictions_become_zero_not_infinite():
    normaliser = RewardNormalizer.create().update(jnp.full(4, 7.0))
    np.testing.assert_array_equal(normaliser.apply(jnp.full(4, 7.0)), 0)


@pytest.mark.parametrize(("name", "value"), [("decay", 1.5), ("quantile", -0.1)])
def test_a_normaliser_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        RewardNormalizer.create(**{name: value})


def test_correlation_is_pearsons_and_zero_where_one_side_is_constant():
    a, b = np.random.default_rng(0).normal(size=(2, 20))
    np.testing.assert_allclose(
        correlation(jnp.asarray(a), jnp.asarray(b)), np.corrcoef(a, b)[0, 1], rtol=1e-12
    )
    assert correlation(jnp.asarray(a), jnp.full(20, 3.0)) == 0
