"""The range of the leader's return, against linear and convex programs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import pytest
from scipy.optimize import linprog, minimize

import bilevax as bx

STATES, ACTIONS, CONTEXTS = 3, 2, 2


def stacked(tau, regularizer=None):
    rng = np.random.default_rng(4)
    shape = (CONTEXTS, STATES, ACTIONS)
    options = {} if regularizer is None else {"tau": tau, "regularizer": regularizer}
    mdp = bx.MDP(
        jnp.asarray(rng.normal(size=shape)),
        bx.DenseTransition(rng.dirichlet(np.ones(STATES), shape)),
        discount=0.8,
        initial=np.array([[0.2, 0.3, 0.0], [0.1, 0.1, 0.3]]),
        **options,
    )
    return mdp, jnp.asarray(rng.normal(size=shape))


def linear_program(mdp, upper_reward, tolerance):
    """(least, largest) over occupancies d(n, s, a): balance, and the shared tolerance."""
    tables = reference.tables(mdp)
    size = STATES * ACTIONS
    balance, start = np.zeros((CONTEXTS * STATES, CONTEXTS * size)), []
    for n, table in enumerate(tables):
        leave = np.repeat(np.eye(STATES), ACTIONS, axis=1)
        arrive = table.discount * table.kernel.reshape(size, STATES).T
        balance[n * STATES :][:STATES, n * size :][:, :size] = leave - arrive
        start.append(table.initial)
    best = sum(table.initial @ reference.optimum(table)[0] for table in tables)
    own = np.ravel(mdp.reward)
    ends = []
    for sign in (1, -1):
        answer = linprog(
            sign * np.ravel(upper_reward),
            A_ub=-own[None],
            b_ub=[tolerance - best],
            A_eq=balance,
            b_eq=np.concatenate(start),
        )
        ends.append(sign * answer.fun)
    return ends


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.3, 100.0])
def test_without_regulariser_the_range_is_that_of_the_occupancy_program(tolerance):
    mdp, upper_reward = stacked(tau=0.0)
    found = bx.upper_value_range(mdp, upper_reward, tolerance=tolerance)
    least, largest = linear_program(mdp, upper_reward, tolerance)
    np.testing.assert_allclose([found.pessimistic, found.optimistic], [least, largest], atol=1e-8)


def convex_program(mdp, upper_reward, tolerance, sign):
    """The largest of sign * upper value over policies near the optimum, by SLSQP over logits."""
    tables = reference.tables(mdp)
    best = sum(table.initial @ reference.optimum(table)[0] for table in tables)
    rewards = reference.rows(upper_reward)

    def policies(z):
        odds = 1 / (1 + np.exp(-z.reshape(CONTEXTS, STATES)))
        return np.stack([odds, 1 - odds], axis=-1)

    def upper(z):
        pairs = zip(tables, policies(z), rewards, strict=True)
        return -sign * sum(t.initial @ reference.values(t, pi, r) for t, pi, r in pairs)

    def slack(z):
        pairs = zip(tables, policies(z), strict=True)
        return sum(t.initial @ reference.values(t, pi) for t, pi in pairs) - best + tolerance

    optimal = np.stack([reference.optimum(table)[1] for table in tables])
    start = np.log(optimal[..., 0] / optimal[..., 1]).ravel()
    constraint = {"type": "ineq", "fun": slack}
    answer = minimize(
        upper,
        start,
        method="SLSQP",
        constraints=constraint,
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert slack(answer.x) > -1e-9
    return -sign * answer.fun


@pytest.mark.parametrize("tolerance", [1e-3, 0.1])
def test_with_entropy_the_range_is_that_of_the_convex_program(tolerance):
    mdp, upper_reward = stacked(0.3, bx.NegativeEntropy())
    found = bx.upper_value_range(mdp, upper_reward, tolerance=tolerance)
    least = convex_program(mdp, upper_reward, tolerance, -1)
    largest = convex_program(mdp, upper_reward, tolerance, 1)
    # The program's point is feasible up to 1e-9, so it can exceed the true range by about 1e-6.
    assert found.pessimistic <= least + 1e-6
    assert found.optimistic >= largest - 1e-6
    np.testing.assert_allclose([found.pessimistic, found.optimistic], [least, largest], atol=1e-5)


def test_no_tolerance_leaves_the_one_best_response():
    mdp, upper_reward = stacked(0.3, bx.NegativeEntropy())
    found = bx.upper_value_range(mdp, upper_reward, tolerance=0.0)
    triples = zip(reference.tables(mdp), reference.rows(upper_reward), strict=True)
    value = sum(
        table.initial @ reference.values(table, reference.optimum(table)[1], reward)
        for table, reward in triples
    )
    assert found.pessimistic <= value <= found.optimistic
    np.testing.assert_allclose([found.pessimistic, found.optimistic], value, atol=3e-6)


@pytest.mark.slow
def test_ties_fall_against_the_leader_or_for_it():
    # Conitzer and Sandholm's game: at an even mixture of its rows the follower is indifferent.
    leader = jnp.array([[[1.0, 3.0], [0.0, 2.0]]])
    follower = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    game = bx.StackelbergGame.simultaneous(
        leader, follower, jnp.ones((1, 2, 2, 1)), discount=0.0, parameterization=bx.Simplex()
    )
    found = bx.leader_return_range(game, jnp.array([[0.5, 0.5]]), tolerance=0.0)
    np.testing.assert_allclose([found.pessimistic, found.optimistic], [0.5, 2.5], atol=1e-9)
    swayed = bx.leader_return_range(game, jnp.array([[0.51, 0.49]]), tolerance=0.0)
    np.testing.assert_allclose([swayed.pessimistic, swayed.optimistic], 0.51, atol=1e-9)
    # A follower who forgoes .02 may still choose the second column.
    near = bx.leader_return_range(game, jnp.array([[0.51, 0.49]]), tolerance=0.02)
    np.testing.assert_allclose(near.optimistic, 3 * 0.51 + 2 * 0.49, atol=1e-9)


@pytest.mark.slow
def test_followers_share_the_tolerance():
    mdp, upper_reward = stacked(tau=0.0)
    first, second = (
        jax.tree.map(lambda leaf, n=n: leaf[n] if leaf.ndim else leaf, mdp) for n in (0, 1)
    )
    together = bx.upper_value_range(
        (first, second), (upper_reward[0], upper_reward[1]), tolerance=0.3
    )
    stack = bx.upper_value_range(mdp, upper_reward, tolerance=0.3)
    np.testing.assert_allclose(together.optimistic, stack.optimistic, atol=1e-9)
    np.testing.assert_allclose(together.pessimistic, stack.pessimistic, atol=1e-9)


def test_wrong_arguments_are_named():
    mdp, upper_reward = stacked(tau=0.0)
    with pytest.raises(ValueError, match=r"tolerance is -0\.1"):
        bx.upper_value_range(mdp, upper_reward, tolerance=-0.1)
    with pytest.raises(ValueError, match=r"upper_reward has shape \(2, 3\)"):
        bx.upper_value_range(mdp, upper_reward[..., 0], tolerance=0.1)
    plain = bx.BilevelProblem(lambda x, policy, evaluation: x, lambda x: mdp)
    unchecked = inspect.unwrap(bx.leader_return_range)  # the suite would check types before
    with pytest.raises(ValueError, match=r"BilevelProblem has no upper_reward.*upper_value_range"):
        unchecked(plain, jnp.zeros(()), tolerance=0.1)
