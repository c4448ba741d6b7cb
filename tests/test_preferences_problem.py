"""Rewards learned from preferences: f by other means, and where alternation and PBRL stop."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import bilevax as bx
from bilevax.problems import Preferences, preferences

S, A, D = 3, 2, 2
DISCOUNT, RIDGE = 0.8, 0.01
rng = np.random.default_rng(0)
KERNEL = rng.dirichlet(np.ones(S), (S, A))
KERNEL[0, 0] = [0, 0.4, 0.6]  # a transition that does not happen
REWARD = 2 * rng.normal(size=(S, A))
FEATURES = rng.normal(size=(S, A, D))
START = np.array([0.7, 0.3, 0])
POLICY = rng.dirichlet(np.ones(A), S)
X = np.array([0.8, -1.1])


def world(transition: Any = KERNEL):
    return bx.MDP(REWARD, transition, discount=DISCOUNT, initial=START, tau=0.5)


def small(features=FEATURES, segment_length=2, mdp=None):
    mdp = world() if mdp is None else mdp
    return Preferences(mdp, features, segment_length=segment_length, ridge=RIDGE)


@eqx.filter_jit
def f(problem, x, policy):
    return problem.upper(x, policy, bx.evaluate(problem.lower(x), policy))


@eqx.filter_jit
def answer(problem, x):
    """(pi*_x, F(x))."""
    policy = bx.best_responses(problem.lower(x)).policy
    return policy, f(problem, x, policy)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def visits(policy):
    chain = np.einsum("sa,sat->st", policy, KERNEL)
    return (1 - DISCOUNT) * np.linalg.solve(np.eye(S) - DISCOUNT * chain.T, START)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2])
def test_f_is_the_sum_over_all_pairs_of_paths(length):
    paths = []  # (probability, fitted sum, true sum)
    for steps in itertools.product(range(S), range(A), repeat=length):
        states, actions = steps[::2], steps[1::2]
        probability = visits(POLICY)[states[0]]
        for t in range(length):
            probability *= POLICY[states[t], actions[t]]
        for t in range(length - 1):
            probability *= KERNEL[states[t], actions[t], states[t + 1]]
        fitted = sum(FEATURES[s, a] @ X for s, a in zip(states, actions, strict=True))
        paths.append((probability, fitted, REWARD[states, actions].sum()))
    assert sum(path[0] for path in paths) == pytest.approx(1, abs=1e-12)
    total = 0.5 * RIDGE * X @ X
    for (p, fitted, true), (q, other_fitted, other_true) in itertools.product(paths, paths):
        label = sigmoid(true - other_true)
        model = sigmoid(fitted - other_fitted)
        total -= p * q * (label * np.log(model) + (1 - label) * np.log(1 - model))
    np.testing.assert_allclose(f(small(segment_length=length), X, POLICY), total, rtol=1e-12)


def test_f_is_the_mean_loss_of_simulated_labels():
    draw, n, length = np.random.default_rng(1), 40_000, 2
    chain = np.einsum("sa,sat->st", POLICY, KERNEL)

    def pick(probabilities):
        return np.sum(draw.random((n, 1)) > np.cumsum(probabilities, 1)[:, :-1], axis=1)

    def segments():
        # A geometric number of steps after rho: a visit counted by the discount.
        state, left = pick(np.tile(START, (n, 1))), draw.geometric(1 - DISCOUNT, n) - 1
        for t in range(left.max()):
            state = np.where(left > t, pick(chain[state]), state)
        fitted, true = np.zeros(n), np.zeros(n)
        for _ in range(length):
            action = pick(POLICY[state])
            fitted += FEATURES[state, action] @ X
            true += REWARD[state, action]
            state = pick(KERNEL[state, action])
        return fitted, true

    (fitted, true), (other_fitted, other_true) = segments(), segments()
    first_wins = draw.random(n) < sigmoid(true - other_true)
    difference = np.where(first_wins, fitted - other_fitted, other_fitted - fitted)
    losses = np.log1p(np.exp(-difference)) + 0.5 * RIDGE * X @ X
    error = losses.std() / np.sqrt(n)
    assert error < 0.01
    assert abs(losses.mean() - f(small(segment_length=length), X, POLICY)) < 3 * error


@pytest.mark.slow
def test_gradients_agree_with_central_differences():
    problem = small()
    in_x, in_policy = jax.jit(jax.grad(lambda x, pi: f(problem, x, pi), (0, 1)))(X, POLICY)
    directions = [(np.eye(D)[i], np.zeros((S, A))) for i in range(D)]
    for s in range(S):  # the policy moves within its simplex
        toward = np.zeros((S, A))
        toward[s] = [1, -1]
        directions.append((np.zeros(D), toward))
    h = 1e-5
    for dx, dpi in directions:
        slope = f(problem, X + h * dx, POLICY + h * dpi) - f(problem, X - h * dx, POLICY - h * dpi)
        expected = jnp.sum(in_x * dx) + jnp.sum(in_policy * dpi)
        np.testing.assert_allclose(slope / (2 * h), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_the_fit_is_the_minimum_at_a_fixed_policy():
    problem = small()
    found = minimize(lambda x: float(f(problem, x, POLICY)), np.zeros(D), method="BFGS")
    np.testing.assert_allclose(problem.fit(jnp.asarray(POLICY)), found.x, atol=1e-4)


@pytest.mark.slow
def test_a_model_that_holds_the_true_reward_loses_the_entropy_of_the_labels_whatever_the_policy():
    problem = small(np.eye(S * A).reshape(S, A, S * A))
    x = jnp.asarray(REWARD.reshape(-1))
    slope = jax.jit(jax.grad(lambda x, policy: f(problem, x, policy)))
    for policy in (POLICY, np.full((S, A), 0.5)):
        policy = jnp.asarray(policy)
        ridge = 0.5 * RIDGE * jnp.sum(x**2)
        entropy = problem.label_entropy(policy)
        np.testing.assert_allclose(f(problem, x, policy) - ridge, entropy, rtol=1e-10)
        np.testing.assert_allclose(slope(x, policy), RIDGE * x, atol=1e-10)


def test_queries_are_the_same_for_both_ways_to_store_a_kernel():
    successors = np.broadcast_to(np.arange(S), (S, A, S))
    stored = bx.SuccessorList(successors, KERNEL)
    one, other = small(), small(mdp=world(stored))
    policy = jnp.asarray(POLICY)
    np.testing.assert_allclose(one.queries(policy), other.queries(policy), atol=1e-14)
    assert float(one.queries(policy).sum()) == pytest.approx(1, abs=1e-12)


def test_segments_that_no_label_can_tell_apart_are_one_kind():
    problem = preferences().problem
    assert problem.states.shape == (4 * 3**3, 3)
    # Only the cells matter in the corridor, and of them the mean position and the reward.
    cells = np.asarray(problem.states)
    reward = np.asarray(problem.mdp.reward)[:, 0]
    kinds = {(int(c.sum()), float(reward[c].sum())) for c in cells}
    assert problem.true_sums.size == len(kinds)


# The evidence that the policy dependence matters (see docs/preferences.md).


@pytest.fixture(scope="module")
def corridor():
    """The zoo's problem, 20 starts, and where alternation stops from each of them."""
    zoo = preferences()
    starts = zoo.starts(jax.random.key(0), 20)
    stops = []
    for x in starts:
        for _ in range(60):
            policy, value = answer(zoo.problem, x)
            x = zoo.problem.fit(policy)
        stops.append((x, policy, value))
    return zoo, starts, stops


@pytest.mark.slow
def test_alternation_stops_at_one_point_where_the_hypergradient_is_not_zero(corridor):
    zoo, _, stops = corridor
    problem, (x, policy, value) = zoo.problem, stops[0]
    assert max(float(jnp.abs(other - x)[0]) for other, _, _ in stops) < 1e-6
    # Stable: the policy answers x to rounding, and x answers the policy.
    assert bx.duality_gap(problem.lower(x), policy).absolute < 1e-6
    h = 1e-4

    def slope(F):
        return float(F(x + h) - F(x - h)) / (2 * h)

    assert abs(slope(lambda x: f(problem, x, policy))) < 1e-6
    assert slope(lambda x: answer(problem, x)[1]) < -0.15
    assert zoo.known["where alternation stops"] == pytest.approx(float(value), abs=1e-4)


@pytest.mark.slow
def test_pbrl_explains_the_labels_better_than_alternation_from_every_start(corridor):
    zoo, starts, stops = corridor
    solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 240), update=zoo.update(300))
    solutions = [bx.solve(zoo.problem, solver, x, max_steps=300) for x in starts]
    values = np.array([s.best_response_value for s in solutions])
    assert max(float(s.gap) for s in solutions) < 1e-6
    assert values.max() < min(float(value) for _, _, value in stops) - 0.2
    grid = [float(answer(zoo.problem, jnp.array([x]))[1]) for x in np.linspace(-6, 6, 121)]
    np.testing.assert_allclose(values, min(grid), atol=1e-3)
    assert zoo.known["smallest F, on a grid of x"] == pytest.approx(min(grid), abs=1e-4)
    # f asks for no return, true or other; the best is 2 + .9 * 3 + .9^3 * 4 / .1 = 33.86.
    returns = [zoo.problem.true_return(pi) for pi in (stops[0][1], solutions[0].policy)]
    np.testing.assert_allclose(returns, [23.25, 31.97], atol=0.03)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=FEATURES[:2]), "features has shape (2, 2, 2); with this MDP it is (3, 2)"),
        (dict(segment_length=0), "segment_length is 0; give a whole number of 1 or more"),
        (dict(segment_length=9), "more than 100000 segments of 9 steps"),
        (dict(ridge=0.0), "ridge is 0.0; give a positive number"),
        (dict(mdp=world(0.9 * KERNEL)), "terminates with probability 0.1, which would cut"),
    ],
)
def test_problems_that_make_no_sense_are_refused(change, message):
    arguments = dict(mdp=world(), features=FEATURES, segment_length=2) | change
    with pytest.raises(ValueError) as raised:
        Preferences(arguments.pop("mdp"), arguments.pop("features"), **arguments)
    assert message in str(raised.value)


@pytest.mark.slow
def test_more_kinds_of_segments_than_pairs_can_be_made_of_are_refused():
    many = np.random.default_rng(2)
    mdp = bx.MDP(many.random((8, 4)), many.dirichlet(np.ones(8), (8, 4)), discount=0.9)
    with pytest.raises(ValueError, match="segments of 3 steps come in 5984 different pairs"):
        Preferences(mdp, many.random((8, 4, 2)), segment_length=3)


def test_a_corridor_needs_two_cells_and_a_temperature():
    with pytest.raises(ValueError, match="two or more finite numbers"):
        preferences(rewards=[1.0])
    with pytest.raises(ValueError, match="tau is 0"):
        preferences(tau=0.0)
