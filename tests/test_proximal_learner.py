"""Fits by proximal gradient: against the conditions of an optimum, and against SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from touching import touching

from bilevax.deep.buffer import PreferenceBuffer
from bilevax.deep.pattern_reward import PatternReward
from bilevax.deep.proximal_learner import ProximalRewardLearner
from bilevax.deep.reward_model import RewardModel
from bilevax.deep.reward_scale import correlation
from bilevax.deep.rlhf.pbrl import positive_part
from bilevax.deep.teacher import ScriptedTeacher

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SHAPE, ACTIONS, LENGTH, PAIRS = (3, 2, 2), 2, 4, 150
RIDGE, LASSO, WIDTH = 0.003, 0.8, 0.05
LEARNER = ProximalRewardLearner()


class Penalty(eqx.Module):
    """``weight`` times the smoothed positive part of the member's mean reward on some steps."""

    weight: jax.Array
    observation: jax.Array
    action: jax.Array

    def __call__(self, member):
        mean = jnp.mean(member(self.observation, self.action))
        return self.weight * positive_part(mean, jnp.asarray(WIDTH))


def bits(seed, count=PAIRS):
    return touching(seed, count, SHAPE, LENGTH)


def labelled(share=0.0):
    first, second = bits(0), bits(1)
    answers = ScriptedTeacher.oracle()(KEY, first.reward, second.reward)
    return PreferenceBuffer.empty(PAIRS, first, share=share).add(KEY, first, second, answers)


def first_state(members=1, lasso=LASSO):
    make = lambda key: PatternReward.create(key, SHAPE, ACTIONS, ridge=RIDGE, lasso=lasso)
    return LEARNER.init(RewardModel.create(KEY, make, members=members))


def penalty(weight):
    steps = bits(3, 20)
    return Penalty(jnp.asarray(weight, float), steps.observation, steps.action)


fit = jax.jit(
    lambda state, buffer, penalty: LEARNER.fit(
        state, buffer, KEY, steps=800, batch=1, penalty=penalty
    )
)


def problem(buffer):
    """Differences of the training pairs' counts in units of their root mean square, and answers."""
    member = PatternReward.create(KEY, SHAPE, ACTIONS)
    total = lambda part: np.asarray(member.summary(part.observation, part.action))
    difference = (total(buffer.pairs.second) - total(buffer.pairs.first)).reshape(PAIRS, -1)
    difference = difference[~np.asarray(buffer.held_out)]
    unit = np.sqrt(np.mean(difference**2, axis=0))
    unit = np.where(unit > 0, unit, 1)
    answer = np.asarray(buffer.pairs.answers.second)[~np.asarray(buffer.held_out)]
    return difference / unit, answer, unit


def threshold_of(lasso, answer):
    """That of a first fit: a reward of 0 gives every pair a probability of 1/2."""
    return lasso * np.sqrt(np.mean((answer - 0.5) ** 2)) / np.sqrt(len(answer))


def weights(state):
    return np.asarray(state.model.members.weight[0]).reshape(-1)


@pytest.mark.parametrize("lasso", [LASSO, 0.0])
def test_a_fit_meets_the_conditions_of_an_elastic_net_on_the_training_pairs(lasso):
    buffer = labelled(share=0.2)
    state, metrics = fit(first_state(lasso=lasso), buffer, penalty(0.0))
    rows, answer, _ = problem(buffer)
    assert len(rows) == 0.8 * PAIRS
    found, threshold = weights(state), threshold_of(lasso, answer)
    residual = 1 / (1 + np.exp(-rows @ found)) - answer
    slope = rows.T @ residual / len(rows) + RIDGE * found
    moving = found != 0
    np.testing.assert_allclose(slope[moving], -threshold * np.sign(found[moving]), atol=1e-8)
    assert np.all(np.abs(slope[~moving]) <= threshold + 1e-8)
    if lasso:
        assert 1 <= np.sum(moving) < 0.5 * found.size
    loss = np.mean(np.logaddexp(0, rows @ found) - answer * (rows @ found))
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-9)


def test_a_fit_with_a_penalty_is_the_optimum_that_scipy_finds():
    buffer, cost = labelled(), penalty(0.5)
    state, metrics = fit(first_state(), buffer, cost)
    rows, answer, unit = problem(buffer)
    member = PatternReward.create(KEY, SHAPE, ACTIONS)
    one = lambda z: eqx.tree_at(lambda m: m.weight, member, jnp.asarray(z.reshape(-1, ACTIONS + 1)))
    reward = lambda z: float(jnp.mean(one(z / unit)(cost.observation, cost.action)))
    mean = np.array([reward(row) for row in np.eye(unit.size)])  # linear in the weights

    def objective(parts):
        """At positive parts of the weights and their negative parts, and its gradient."""
        weight = parts[: unit.size] - parts[unit.size :]
        margin, gain, threshold = rows @ weight, mean @ weight, threshold_of(LASSO, answer)
        value = np.mean(np.logaddexp(0, margin) - answer * margin) + RIDGE / 2 * weight @ weight
        value += threshold * np.sum(parts)
        value += 0.5 * (max(gain, 0) ** 2 / 2 / WIDTH if gain < WIDTH else gain - WIDTH / 2)
        slope = rows.T @ (1 / (1 + np.exp(-margin)) - answer) / PAIRS + RIDGE * weight
        slope += 0.5 * np.clip(gain / WIDTH, 0, 1) * mean
        return value, np.concatenate([slope, -slope]) + threshold

    zero = np.zeros(2 * unit.size)
    options = dict(maxiter=5000, maxfun=10**6, ftol=1e-15, gtol=1e-10)
    bounds = [(0, None)] * zero.size
    best = minimize(objective, zero, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    split = lambda weight: np.concatenate([np.maximum(weight, 0), np.maximum(-weight, 0)])
    free = weights(fit(first_state(), buffer, penalty(0.0))[0])
    np.testing.assert_allclose(objective(split(weights(state)))[0], best.fun, rtol=1e-8)
    assert objective(split(free))[0] > best.fun + 1e-3
    paid = 0.5 * float(positive_part(jnp.asarray(mean @ weights(state)), jnp.asarray(WIDTH)))
    np.testing.assert_allclose(metrics.penalty, paid, atol=1e-9)


def test_the_positive_part_joins_a_square_to_a_line():
    part = lambda value, width=2.0: float(positive_part(jnp.asarray(value), jnp.asarray(width)))
    assert [part(v) for v in (-1.0, 0.0, 1.0, 2.0, 5.0)] == [0, 0, 0.25, 1, 4]
    assert [part(v, 0.0) for v in (-1.0, 3.0)] == [0, 3]
    slope = jax.grad(lambda v: positive_part(v, jnp.asarray(2.0)))
    np.testing.assert_allclose([slope(v) for v in (-1.0, 1.0, 3.0)], [0, 0.5, 1])


def test_it_learns_in_single_precision_from_an_ensemble_and_never_from_held_out_pairs():
    single = lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf
    state, buffer = jax.tree.map(single, (first_state(members=3), labelled(share=0.2)))
    train = jax.jit(lambda buffer: LEARNER.fit(state, buffer, KEY, steps=200, batch=1))
    after, right = train(buffer)
    new = jax.tree.map(single, bits(2))
    assert correlation(after.model(new.observation, new.action).ravel(), new.reward.ravel()) > 0.9
    kinds = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert kinds(after) == kinds(state) and right.finite
    assert np.ptp(np.asarray(after.model.members.weight), axis=0).max() > 0.01

    answer = buffer.pairs.answers.second
    turned = jnp.where(buffer.held_out, 1 - answer, answer)
    again, wrong = train(eqx.tree_at(lambda b: b.pairs.answers.second, buffer, turned))
    equal = lambda a, b: bool(jnp.array_equal(a, b))
    assert all(map(equal, *map(jax.tree.leaves, (again, after))))
    np.testing.assert_allclose(wrong.held_out_accuracy, 1 - right.held_out_accuracy, rtol=1e-6)


def test_a_second_fit_goes_on_from_the_first():
    buffer = labelled()
    short = jax.jit(lambda state: LEARNER.fit(state, buffer, KEY, steps=30, batch=1)[0])
    once = short(first_state(lasso=0.0))
    target = weights(fit(first_state(lasso=0.0), buffer, penalty(0.0))[0])
    far = lambda state: np.linalg.norm(weights(state) - target)
    assert far(short(once)) < far(once) < far(first_state(lasso=0.0))
    assert once.memory > 1


def test_a_steep_penalty_does_not_stop_the_next_fit():
    buffer = labelled()
    train = jax.jit(
        lambda state, weight: LEARNER.fit(
            state, buffer, KEY, steps=100, batch=1, penalty=penalty(weight)
        )[0]
    )
    steep = train(first_state(lasso=0.0), 1e5)
    assert steep.memory > 1000
    target = weights(fit(first_state(lasso=0.0), buffer, penalty(0.0))[0])
    far = lambda state: np.linalg.norm(weights(state) - target)
    assert far(train(steep, 0.0)) < 0.5 * far(steep)


def test_the_lasso_is_measured_in_the_noise_that_the_last_fit_left_to_each_member():
    buffer = labelled(share=0.2)
    rows, answer, _ = problem(buffer)
    once = fit(first_state(members=3), buffer, penalty(0.0))[0]
    twice = fit(once, buffer, penalty(0.0))[0]
    found = np.asarray(once.model.members.weight).reshape(3, -1)
    residual = 1 / (1 + np.exp(-found @ rows.T)) - answer
    threshold = LASSO * np.sqrt(np.mean(residual**2, axis=1) / len(rows))
    np.testing.assert_allclose(twice.model.members.threshold.value, threshold, rtol=1e-9)
    assert np.ptp(threshold) > 0  # the bootstrap makes them differ
    assert np.all(threshold < 0.9 * threshold_of(LASSO, answer))  # the fit explains some of it


def test_a_buffer_without_answers_teaches_nothing():
    empty = PreferenceBuffer.empty(PAIRS, bits(0), share=0.0)
    state, metrics = fit(first_state(), empty, penalty(0.0))
    assert metrics.finite and not np.any(weights(state))


def test_strengths_below_zero_are_refused():
    for options in (dict(ridge=-1.0), dict(lasso=-1.0)):
        with pytest.raises(ValueError, match=r"PatternReward: \w+ is -1.0; give at least 0."):
            PatternReward.create(KEY, SHAPE, ACTIONS, **options)


def test_a_penalty_that_is_not_finite_is_named_and_leaves_the_weights_as_they_were():
    state = fit(first_state(), labelled(), penalty(0.0))[0]
    kept, metrics = fit(state, labelled(), penalty(jnp.nan))
    assert metrics.preference_finite and not metrics.penalty_finite and not metrics.finite
    assert metrics.fault() == "the penalty term became NaN or infinite"
    np.testing.assert_array_equal(weights(kept), weights(state))


def test_no_step_is_refused():
    with pytest.raises(ValueError, match=r"ProximalRewardLearner: steps is 0; give at least 1\."):
        LEARNER.fit(first_state(), labelled(), KEY, steps=0, batch=1)
