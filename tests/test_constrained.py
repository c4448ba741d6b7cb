"""The Lagrangian of a constrained MDP, against a convex program and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import pytest
from scipy.optimize import minimize
from scipy.special import expit

import bilevax as bx

S, A = 3, 2
RNG = np.random.default_rng(5)
KERNEL = RNG.dirichlet(np.ones(S), (S, A))
REWARD = RNG.normal(size=(S, A))
COSTS = RNG.uniform(size=(2, S, A))


def model(reward=REWARD):
    return bx.MDP(jnp.asarray(reward), KERNEL, discount=0.8, tau=0.3)


@jax.jit
def priced(reward, costs, limits):
    return bx.lagrangian(model_of(reward), costs, limits)


def model_of(reward):
    return bx.MDP(reward, KERNEL, discount=0.8, tau=0.3)


def spent(policy):
    evaluation = bx.evaluate(model(), policy)
    return np.array([float(evaluation.expected_return(jnp.asarray(c))) for c in COSTS])


FREE = bx.best_responses(model()).policy
TIGHT = spent(FREE) * np.array([0.9, 1.5])  # the first limit binds, the second does not


def by_convex_program(limits):
    """The best policy within the limits, by SLSQP over logits with NumPy's own values."""
    table = reference.tables(model())[0]

    def policy(z):
        odds = expit(z)
        return np.stack([odds, 1 - odds], axis=-1)

    def slack(z):
        costs = [table.initial @ reference.values(table, policy(z), c) for c in COSTS]
        return limits - np.array(costs)

    answer = minimize(
        lambda z: -table.initial @ reference.values(table, policy(z)),
        np.zeros(S),
        method="SLSQP",
        constraints={"type": "ineq", "fun": slack},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return -answer.fun, policy(answer.x)


@pytest.mark.parametrize("share", [(0.9, 1.5), (0.97, 0.97), (1.2, 0.97)])
def test_its_best_response_is_the_constrained_optimum(share):
    limits = spent(FREE) * np.array(share)
    value, policy = by_convex_program(limits)
    found = priced(REWARD, COSTS, limits)
    ours = bx.best_responses(found.mdp).policy
    assert found.converged
    np.testing.assert_allclose(ours, policy, atol=1e-5)
    assert abs(bx.expected_return(model(), ours) - value) < 1e-7
    slack = limits - spent(ours)
    assert (slack > -1e-7).all() and (found.multipliers >= 0).all()
    np.testing.assert_allclose(found.multipliers * slack, 0, atol=1e-7)


def test_limits_that_do_not_bind_change_nothing():
    found = priced(REWARD, COSTS, spent(FREE) * 1.1)
    np.testing.assert_array_equal(found.multipliers, 0)
    np.testing.assert_array_equal(found.mdp.reward, REWARD)


def test_a_multiplier_is_what_one_more_unit_of_its_limit_is_worth():
    def value(limits):
        policy = bx.best_responses(priced(REWARD, COSTS, limits).mdp).policy
        return bx.expected_return(model(), policy)

    step = np.array([1e-4, 0])
    slope = (value(TIGHT + step) - value(TIGHT - step)) / 2e-4
    assert abs(slope - priced(REWARD, COSTS, TIGHT).multipliers[0]) < 1e-5


def test_derivatives_in_rewards_costs_and_limits_match_differences():
    weight = np.random.default_rng(1).normal(size=(S, A))

    def number(point):
        return jnp.sum(weight * priced(*point).mdp.reward)

    point = (jnp.asarray(REWARD), jnp.asarray(COSTS), jnp.asarray(TIGHT))
    gradient = jax.grad(number)(point)
    draw = np.random.default_rng(2)
    for _ in range(3):
        way = jax.tree.map(lambda z: jnp.asarray(draw.normal(size=z.shape)), point)
        ahead, behind = (
            number(jax.tree.map(lambda z, d, s=sign: z + s * 1e-5 * d, point, way))
            for sign in (1, -1)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, way)))
        assert abs(slope - (ahead - behind) / 2e-5) < 1e-6 * max(1, abs(slope))


def test_weak_duality_bounds_the_loss_of_any_policy():
    found = priced(REWARD, COSTS, TIGHT)
    best = float(bx.expected_return(model(), bx.best_responses(found.mdp).policy))
    for seed in range(5):
        policy = jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(A), S))
        gap = float(bx.duality_gap(found.mdp, policy).absolute)
        bound = gap + float(found.multipliers @ (TIGHT - spent(policy)))
        assert best - float(bx.expected_return(model(), policy)) <= bound + 1e-9


@pytest.mark.slow
def test_pbrl_designs_rewards_for_an_agent_with_a_limit():
    limits = spent(FREE)[:1] * 0.9

    def lower(x):
        return bx.lagrangian(model_of(REWARD + 0.5 * jnp.tanh(x)), COSTS[:1], limits).mdp

    def upper(x, policy, evaluation):
        return evaluation.occupancy[0] + 0.05 * jnp.sum(x**2)

    problem = bx.BilevelProblem(upper, lower)
    ours = bx.solve(problem, bx.PBRL(), jnp.zeros((S, A)))
    exact = bx.solve(problem, bx.ImplicitGradient(), jnp.zeros((S, A)))
    assert ours.gap < 1e-5 and exact.best_response_value < upper(
        0, FREE, bx.evaluate(model(), FREE)
    )
    assert abs(ours.best_response_value - exact.best_response_value) < 1e-3
    assert spent(ours.policy)[0] <= limits[0] + 1e-4


@pytest.mark.parametrize("seed", [35, 44, 77])
def test_limits_that_some_policy_keeps_are_found_where_the_dual_is_all_but_flat(seed):
    draw = np.random.default_rng(seed)
    kernel, reward = draw.dirichlet(np.ones(4), (4, 3)), draw.normal(size=(4, 3))
    costs, keeps = draw.uniform(size=(3, 4, 3)), draw.dirichlet(np.ones(3), 4)
    limits = 1.001 * cost_of(bx.MDP(reward, kernel, discount=0.9, tau=0.02), costs, keeps)
    found, policy = priced_at(reward, kernel, costs, limits, 0.02)
    spare = limits - cost_of(found.mdp, costs, policy)
    assert found.converged and (spare > -1e-6).all() and (found.multipliers >= 0).all()
    np.testing.assert_allclose(np.minimum(found.multipliers, spare), 0, atol=1e-6)


@jax.jit
def priced_at(reward, kernel, costs, limits, tau):
    found = bx.lagrangian(bx.MDP(reward, kernel, discount=0.9, tau=tau), costs, limits)
    return found, bx.best_responses(found.mdp).policy


@jax.jit
def cost_of(mdp, costs, policy):
    evaluation = bx.evaluate(mdp, policy)
    return jnp.stack([evaluation.expected_return(cost) for cost in costs])


@pytest.mark.slow
def test_float32_meets_a_limit_to_its_own_rounding():
    single = [jnp.asarray(z, jnp.float32) for z in (REWARD, KERNEL, COSTS[:1])]
    mdp = bx.MDP(single[0], single[1], discount=jnp.float32(0.8), tau=jnp.float32(0.3))
    limits = 0.9 * cost_of(mdp, single[2], bx.best_responses(mdp).policy)
    found = bx.lagrangian(mdp, single[2], limits)
    assert found.multipliers.dtype == jnp.float32
    exact = priced(REWARD, COSTS, np.array([0.9, 9.0]) * spent(FREE)).multipliers[0]
    assert abs(found.multipliers[0] - exact) < 1e-3


@pytest.mark.slow
def test_followers_share_the_limit():
    reward = jnp.stack([jnp.asarray(REWARD), -jnp.asarray(REWARD)])
    both = bx.MDP(reward, KERNEL, discount=0.8, tau=0.3, initial=np.full((2, S), 1 / 6))
    costs = jnp.stack([jnp.asarray(COSTS[0])] * 2)[None]
    limit = 0.9 * cost_of(both, costs, bx.best_responses(both).policy)
    found = bx.lagrangian(both, costs, limit)
    spent_by_both = cost_of(both, costs, bx.best_responses(found.mdp).policy)
    np.testing.assert_allclose(spent_by_both, limit, rtol=1e-7)
    # One price for both: what each is charged for an action is the same.
    charged = reward - found.mdp.reward
    np.testing.assert_allclose(charged[0], charged[1], atol=1e-12)
    assert found.multipliers[0] > 0


def test_limits_that_no_policy_keeps_are_refused_or_nan():
    with pytest.raises(ValueError, match=r"no multipliers were found for limits \[0.0, 0.0\]"):
        bx.lagrangian(model(), COSTS, np.zeros(2))
    assert np.isnan(priced(REWARD, COSTS, np.zeros(2)).multipliers).all()


@pytest.mark.parametrize(
    "mdp, costs, limits, message",
    [
        (model(), COSTS[0], np.ones(1), r"costs has shape \(3, 2\) and limits \(1,\)"),
        (bx.MDP(REWARD, KERNEL, discount=0.8), COSTS, np.ones(2), "tau is 0"),
    ],
)
def test_wrong_arguments_are_named(mdp, costs, limits, message):
    with pytest.raises(ValueError, match=message):
        bx.lagrangian(mdp, costs, limits)
