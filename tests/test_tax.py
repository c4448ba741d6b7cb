"""Tax design against its definition in NumPy, one action per bundle, and on finer grids."""

import itertools
import json
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import t as student
from scipy.stats import truncnorm

import bilevax as bx
from bilevax import problems
from bilevax.cli.entry import execute
from bilevax.deep import sampled as sm
from bilevax.methods import Rollouts, hpgd
from bilevax.problems import _tax

X = jnp.asarray([0.4, 0.7, 0.2, 1.1])
TAU = 0.3
HOURS = [0, 2.67, 5.34, 8.01]
BUNDLES = list(itertools.product((0, 5.0), repeat=3))
PREFERENCES = [(0.6, 0.3, 0.1), (0.1, 0.7, 0.2)]


@pytest.fixture(scope="module")
def small():
    """Four hours of work and two values of spending: 16 actions for 32."""
    return problems.tax(assets=11, levels=2, tau=TAU)


@eqx.filter_jit
def value_at_best_response(problem, x):
    """(F(x), pi*_x, V*), F as a return."""
    mdp = problem.lower(x)
    policy = bx.best_responses(mdp).policy
    evaluation = bx.evaluate(mdp, policy)
    return -problem.upper(x, policy, evaluation), policy, evaluation.values()


def wealth(m):
    return math.log(m / 20 + 1) if m > 0 else m


def utility(c, alpha):
    return math.prod(s**a * (1 + x) ** -a for s, a, x in zip(c, alpha, X[1:], strict=True))


def welfare(hours, c):
    bought = np.asarray(c) / (1 + X[1:])
    return 15 * bought.mean() / 5 + 5 * math.log(1 + X[1:] @ bought + X[0] * hours)


def on_grid(mean, scale, grid):
    """The chances of each grid point, by quadrature of its hat function."""
    law: Any = truncnorm((-100 - mean) / scale, (100 - mean) / scale, loc=mean, scale=scale)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    left, right = grid[:-1, None], grid[1:, None]
    at = (left + right + (right - left) * nodes) / 2
    mass = law.pdf(at) * weights * (right - left) / 2
    to_right = (mass * (at - left) / (right - left)).sum(-1)
    return np.append(mass.sum(-1) - to_right, 0) + np.insert(to_right, 0, 0)


def after(m, hours, c, grid):
    return on_grid(np.clip(m + (1 - X[0]) * hours - sum(c), -100, 100), 5, grid)


@pytest.mark.slow
def test_pairs_of_hours_and_total_spending_are_the_game_of_whole_bundles(small):
    grid = np.asarray(small.problem.assets)
    value, _, values = value_at_best_response(small.problem, X)
    actions = list(itertools.product(HOURS, BUNDLES))
    kernel = np.array([[after(m, h, c, grid) for h, c in actions] for m in grid])
    total = 0.0
    for kind, alpha in enumerate(PREFERENCES):
        acts = np.array([utility(c, alpha) - h**2 / 10 for h, c in actions])
        reward = np.array([[wealth(m)] for m in grid]) + acts
        v = np.zeros(len(grid))
        for _ in range(400):
            q = reward + 0.9 * kernel @ v
            largest = q.max(-1)
            v = largest + TAU * np.log(np.exp((q - largest[:, None]) / TAU).sum(-1))
        np.testing.assert_allclose(values[kind], v, rtol=1e-8)
        policy = np.exp((q - v[:, None]) / TAU)
        gain = policy @ [welfare(h, c) for h, c in actions]
        chain = np.einsum("sa,sat->st", policy, kernel)
        total += np.linalg.solve(np.eye(len(grid)) - 0.9 * chain, gain) / 2
    np.testing.assert_allclose(value, on_grid(0.0, 2**0.5, grid) @ total, rtol=1e-8)


def test_rewards_are_the_formulas_where_a_total_has_one_split(small):
    # Of totals 0 and 15 there is one bundle each: nothing, and 5 of everything.
    problem = small.problem
    reward, upper = eqx.filter_jit(lambda p, x: (p.lower(x).reward, p.upper_reward(x)))(problem, X)
    state, m = 8, float(problem.assets[8])
    for hour, (total, c) in itertools.product(range(4), ((0, BUNDLES[0]), (3, BUNDLES[-1]))):
        for kind, alpha in enumerate(PREFERENCES):
            here = kind, state, 4 * hour + total
            own = wealth(m) - HOURS[hour] ** 2 / 10 + utility(c, alpha)
            np.testing.assert_allclose(reward[here], own, rtol=1e-12)
            np.testing.assert_allclose(upper[here], welfare(HOURS[hour], c), rtol=1e-12)


def test_the_published_actions_are_all_there():
    problem = _tax._tax_design(5, 5, TAU)
    np.testing.assert_allclose(problem.hours, 0.89 * np.arange(10))
    np.testing.assert_allclose(problem.totals, 1.25 * np.arange(13))
    assert sorted(map(tuple, problem.bundles.tolist())) == sorted(
        itertools.product((0, 1.25, 2.5, 3.75, 5.0), repeat=3)
    )
    np.testing.assert_allclose(problem.bundles.sum(-1), problem.totals[problem.member.argmax(0)])


def test_chances_sum_to_one_and_keep_the_mean_of_what_is_saved():
    problem = _tax._tax_design(61, 2, TAU)
    kernel = eqx.filter_jit(lambda problem, x: problem.kernel(x))(problem, X)
    np.testing.assert_allclose(kernel.sum(-1), 1, rtol=1e-12)
    assert jnp.all(kernel >= 0)
    saved = ((1 - X[0]) * problem.hours[:, None] - problem.totals).reshape(-1)
    target = problem.assets[:, None] + saved
    middle = jnp.abs(target) < 60  # eight standard deviations from where the law is cut off
    np.testing.assert_allclose((kernel @ problem.assets)[middle], target[middle], atol=1e-9)
    variance = (kernel @ problem.assets**2)[middle] - target[middle] ** 2
    # Hat functions add no more than a quarter of the largest squared spacing.
    spacing = jnp.max(jnp.diff(problem.assets))
    assert jnp.all(variance > 25 - 1e-6) and jnp.all(variance < 25 + spacing**2 / 4)


def test_a_law_on_a_grid_is_its_expectation_of_hat_functions():
    grid = _tax.asset_grid(15)
    for mean, scale in ((0.0, 5.0), (3.3, 5.0), (97.0, 5.0), (-100.0, 5.0), (1.0, 2.0)):
        got = _tax.on_grid(jnp.asarray(mean), scale, jnp.asarray(grid))
        np.testing.assert_allclose(got, on_grid(mean, scale, grid), atol=1e-9)


@pytest.mark.slow
def test_finer_grids_have_nearly_the_same_value():
    value = lambda points: float(value_at_best_response(_tax._tax_design(points, 2, TAU), X)[0])
    assert value(41) == pytest.approx(value(61), rel=0.01)


def test_the_gradient_of_f_is_that_of_central_differences(small):
    estimator = bx.Exact(small.problem)
    gradient = hypergradient(estimator, X)
    value = lambda x: -float(value_at_best_response(small.problem, x)[0])
    for i, step in enumerate(1e-5 * jnp.eye(4)):
        slope = (value(X + step) - value(X - step)) / 2e-5
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-6)


@eqx.filter_jit
def hypergradient(estimator, x):
    oracle, key = bx.PolicyIteration(), jax.random.key(0)
    return estimator.hypergradient(oracle, x, estimator.init(oracle, x, key)[1], key)[1]


@eqx.filter_jit
def followers_gradients(simulator, x, policy, keys):
    """Per key: the gradient in x of the consumers' return, from rewards and chances drawn."""

    def one(key):
        dynamics = simulator.at(x)
        table = jnp.zeros((22, 16))  # no control variate: nothing but samples
        played = sm.rollout(dynamics, policy[None], key, streams=32, episodes=8, max_steps=200)
        return sm.gradient_in_x(simulator, x, sm.returns(dynamics, played, sm.FOLLOWER, table))

    return jax.lax.map(one, keys)


@eqx.filter_jit
def hpgd_gradients(problem, x, keys):
    """Per key: the gradient along which HPGD moves, by episodes of 100 steps."""
    # With returns in place of a critic the noise is eight times as large.
    estimator, rollouts, rate = bx.Exact(problem), Rollouts(128, 100, critic=True), 1e-6
    solver = hpgd(optax.sgd(rate), rollouts=rollouts, adjoint=rollouts)

    def one(key):
        return (x - solver.step(estimator, solver.init(estimator, x, None, key)).x) / rate

    return jax.lax.map(one, keys)


def inside_99_per_cent(samples, exact):
    """Whether the exact value lies in the joint 99 per cent intervals of the samples' mean."""
    count, size = samples.shape
    error = samples.std(0, ddof=1) / count**0.5
    return np.all(np.abs(samples.mean(0) - exact) < student.isf(0.005 / size, count - 1) * error)


@pytest.mark.slow
def test_sampled_gradients_agree_with_the_exact_ones(small):
    keys = jax.random.split(jax.random.key(0), 200)
    _, policy, _ = value_at_best_response(small.problem, X)
    exact = jax.grad(lambda x: bx.expected_return(small.problem.lower(x), policy))(X)
    simulator = sm.as_simulator(small.problem)
    samples = np.asarray(followers_gradients(simulator, X, policy.reshape(22, 16), keys))
    assert inside_99_per_cent(samples, exact)
    assert not inside_99_per_cent(
        samples, exact + jnp.eye(4)[0] * 6 * samples[:, 0].std() / 200**0.5
    )
    upper = np.asarray(hpgd_gradients(small.problem, X, keys))
    exact = hypergradient(bx.Exact(small.problem), X)
    assert inside_99_per_cent(upper, exact)
    # Narrow enough to say something: the noise of the mean is a small part of the gradient.
    assert np.linalg.norm(upper.std(0)) / len(keys) ** 0.5 < 0.2 * np.linalg.norm(exact)


def test_rates_start_and_stay_in_the_box(small):
    starts = small.starts(jax.random.key(1), 8)
    np.testing.assert_allclose(starts[0], 0.3)
    assert jnp.all((starts >= 0) & (starts <= 2)) and jnp.max(starts) > 1
    np.testing.assert_allclose(
        small.problem.project(jnp.asarray([-1.0, 0.5, 2.0, 3.0])), [0.0, 0.5, 2.0, 2.0]
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(assets=10), "tax: assets is 10; give an odd number"),
        (dict(assets=1), "tax: assets is 1; give an odd number"),
        (dict(levels=1), "tax: levels is 1; give at least 2"),
        (dict(tau=0.0), r"tax: tau is 0\.0; give a positive tau"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        problems.tax(**wrong)


@pytest.mark.slow
def test_the_picture_and_the_measures_tell_rates_hours_and_spending(small):
    policy, zero = jnp.full((2, 11, 16), 1 / 16), jnp.zeros(())
    successful = bx.RESULTS.successful
    solution = bx.Solution(X, policy, zero, zero, zero, zero, zero, successful, {}, ())
    measures = {name: value for name, (value, _) in small.measures(solution).items()}
    rates = [measures[f"tax_{name}"] for name in ("income", "good_1", "good_2", "good_3")]
    np.testing.assert_allclose(rates, X)
    np.testing.assert_allclose(measures["hours"], np.mean(HOURS))
    arrays = small.arrays(solution)
    np.testing.assert_allclose(arrays["hours"], np.mean(HOURS))
    np.testing.assert_allclose(arrays["spending"].sum(-1), 7.5)  # of totals 0, 5, 10 and 15
    # Good 1 matters most to kind 1, good 2 to kind 2.
    assert np.all(arrays["spending"][..., 0].argmax(0) == 0)
    figure = small.figure(solution)
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 4 and titles[1].startswith("where consumers are")


@pytest.mark.slow
def test_the_command_line_writes_rates_and_a_picture(tmp_path, capsys):
    out = tmp_path / "run"
    sizes = ["--assets", "11", "--levels", "2", "--steps", "5", "--starts", "1"]
    how = ["--learning-rate", "0.9", "--gap-tol", "100", "--json", "--quiet", "--out", str(out)]
    code = execute(["solve", "tax", *sizes, *how])
    line = json.loads(capsys.readouterr().out)
    assert code == 0
    for name in ("income", "good_1", "good_2", "good_3"):
        assert 0 <= line[f"tax_{name}"] <= 2  # Adam's steps are of .9 here
    assert 0 < line["hours"] < 8.01
    assert "where consumers are" in (out / "picture.svg").read_text()
    with np.load(out / "solution.npz") as kept:
        assert kept["spending"].shape == (2, 11, 3) and kept["hours"].shape == (2, 11)
