"""Bilevel problems and Stackelberg games, against loops over states and both players' actions."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevax as bx
from bilevax._problem import AbstractParameterization

S, L, A = 3, 2, 2


def random_game(seed, *, sees_action=False, tau=0.2, simplex=False):
    draw = np.random.default_rng(seed)
    kernel = draw.dirichlet(np.ones(S), size=(S, L, A)) * draw.choice([1.0, 0.7], size=(S, L, A, 1))
    make = bx.StackelbergGame.sequential if sees_action else bx.StackelbergGame.simultaneous
    leader_reward, follower_reward = draw.normal(size=(2, S, L, A))
    return make(
        leader_reward,
        follower_reward,
        kernel,
        discount=0.8,
        initial=draw.exponential(size=S),
        tau=tau,
        parameterization=bx.Simplex() if simplex else bx.Softmax(),
    )


def joint_return(game, leader, follower, reward):
    """rho . V of a reward [S, L, A] when both play; ``follower`` is [S, L, A]."""
    own, chain = np.zeros(S), np.zeros((S, S))
    for s, lead, a in np.ndindex(S, L, A):
        chance = leader[s, lead] * follower[s, lead, a]
        own[s] += chance * reward[s, lead, a]
        chain[s] += chance * np.asarray(game.kernel[s, lead, a])
    return np.asarray(game.initial) @ np.linalg.solve(np.eye(S) - 0.8 * chain, own)


def spread(game, policy):
    """The follower's policy as [S, L, A], whether or not it sees the leader's action."""
    policy = np.asarray(game.follower_policy(policy))
    return policy if game.sees_action else np.repeat(policy[:, None], L, axis=1)


@pytest.mark.parametrize("sees_action", [False, True])
def test_both_players_earn_what_a_loop_over_the_joint_game_says(sees_action):
    game = random_game(0, sees_action=sees_action)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(S, L)))
    mdp = game.lower(x)
    weights = np.random.default_rng(2).exponential(size=mdp.reward.shape)
    policy = jnp.asarray(weights / weights.sum(-1, keepdims=True))
    leader, follower = np.asarray(game.leader_policy(x)), spread(game, policy)
    value = -game.upper(x, policy, bx.evaluate(mdp, policy))
    expected = joint_return(game, leader, follower, np.asarray(game.leader_reward))
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    # The follower's own: entropy costs tau sum pi log pi in each state (and leader's action) met.
    entropy = np.sum(follower * np.log(follower), -1, keepdims=True)
    expected = joint_return(game, leader, follower, game.follower_reward - 0.2 * entropy)
    np.testing.assert_allclose(bx.expected_return(mdp, policy), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("sees_action", [False, True])
def test_the_best_response_beats_every_deterministic_follower(sees_action):
    game = random_game(3, sees_action=sees_action, tau=0.0)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(S, L)))
    response = bx.best_responses(game.lower(x))
    leader = np.asarray(game.leader_policy(x))
    returns = [
        joint_return(
            game,
            leader,
            spread(game, jnp.eye(A)[jnp.asarray(choice)]),
            np.asarray(game.follower_reward),
        )
        for choice in itertools.product(range(A), repeat=len(response.policy))
    ]
    best = jnp.sum(game.lower(x).initial * response.values)
    np.testing.assert_allclose(best, max(returns), rtol=1e-10)


def test_seeing_the_leaders_action_never_hurts_the_follower():
    blind, seeing = (random_game(5, sees_action=sees, tau=0.0) for sees in (False, True))
    for seed in range(5):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=(S, L)))
        values = [
            float(jnp.sum(game.lower(x).initial * bx.best_responses(game.lower(x)).values))
            for game in (blind, seeing)
        ]
        assert values[1] >= values[0] - 1e-12


@pytest.mark.slow
def test_a_leader_of_one_action_changes_nothing():
    draw = np.random.default_rng(6)
    kernel = draw.dirichlet(np.ones(S), size=(S, 1, A))
    rewards = draw.normal(size=(2, S, 1, A))
    games = [
        make(rewards[0], rewards[1], kernel, discount=0.9, tau=0.1)
        for make in (bx.StackelbergGame.simultaneous, bx.StackelbergGame.sequential)
    ]
    alone = bx.MDP(rewards[1, :, 0], kernel[:, 0], discount=0.9, tau=0.1)
    expected = bx.best_responses(alone).policy
    for game in games:
        policy = bx.best_responses(game.lower(jnp.zeros((S, 1)))).policy
        np.testing.assert_allclose(policy, expected, atol=1e-12)


def test_the_simplex_takes_the_policy_itself_and_projects_onto_it():
    logits = jnp.asarray(np.random.default_rng(7).normal(size=(S, L)))
    soft, plain = random_game(8), random_game(8, simplex=True)
    policy = soft.leader_policy(logits)
    for a, b in zip(
        jax.tree.leaves(soft.lower(logits)), jax.tree.leaves(plain.lower(policy)), strict=True
    ):
        np.testing.assert_allclose(a, b)
    projected = plain.project(logits)
    for row, point in zip(projected, logits, strict=True):
        np.testing.assert_allclose(row, optax.projections.projection_simplex(point), atol=1e-12)
    np.testing.assert_allclose(soft.project(logits), logits)


def test_a_game_may_be_undiscounted_where_the_follower_terminates():
    # The leader would like to stay for ever; it is the follower's value that has to be finite.
    leader_reward, follower_reward = np.ones((1, 1, 2)), np.asarray([[[-1.0, 0.0]]])
    kernel = np.asarray([[[[1.0], [0.0]]]])
    options: dict[str, Any] = dict(discount=1.0, tau=0.5)
    game = bx.StackelbergGame.simultaneous(leader_reward, follower_reward, kernel, **options)
    value = bx.best_responses(game.lower(jnp.zeros((1, 1)))).values
    np.testing.assert_allclose(value, 0.5 * np.log(1 / (1 - np.exp(-2.0))), rtol=1e-10)
    with pytest.raises(ValueError, match="discount is 1, but the value is infinite"):
        bx.StackelbergGame.simultaneous(leader_reward, -follower_reward, kernel, **options)


def test_a_game_can_be_made_inside_a_compiled_function():
    game = random_game(9)

    @jax.jit
    def value(tau):
        own = bx.StackelbergGame.simultaneous(
            game.leader_reward, game.follower_reward, game.kernel, discount=0.8, tau=tau
        )
        return jnp.sum(bx.best_responses(own.lower(jnp.zeros((S, L)))).values)

    direct = bx.StackelbergGame.simultaneous(
        game.leader_reward, game.follower_reward, game.kernel, discount=0.8, tau=0.4
    )
    expected = jnp.sum(bx.best_responses(direct.lower(jnp.zeros((S, L)))).values)
    np.testing.assert_allclose(value(0.4), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(follower_reward=np.zeros((S, L))), r"leader_reward has shape \(3, 2, 2\) and"),
        (dict(kernel=np.zeros((S, L, A))), r"kernel has shape \(3, 2, 2\); .* \(3, 2, 2, 3\)"),
        (dict(kernel=np.ones((S, L, A, S))), "sum to 3.0"),
        (dict(discount=1.5), "discount is 1.5"),
        (dict(tau=-1.0), "tau is -1.0"),
        (dict(leader_reward=np.full((S, L, A), np.inf)), "is inf; give finite rewards"),
    ],
)
def test_a_wrong_game_says_what_is_wrong(change, message):
    arguments: dict[str, Any] = dict(
        leader_reward=np.zeros((S, L, A)),
        follower_reward=np.zeros((S, L, A)),
        kernel=np.full((S, L, A, S), 1 / S),
        discount=0.9,
    )
    with pytest.raises(ValueError, match=message):
        bx.StackelbergGame.simultaneous(**arguments | change)


class PaidBandit(eqx.Module):
    """An agent's two actions, the second paid x; the designer wants it taken at little cost."""

    kernel: jax.Array

    def __call__(self, x):
        return bx.MDP(jnp.stack([jnp.zeros(1), x], -1), self.kernel, discount=0.0, tau=1.0)


def test_two_functions_make_a_problem_whose_optimum_is_known():
    # f = -pi(2) + x pi(2) with pi(2) = sigmoid(x): stationary where (1 - x)(1 - pi) = 1.
    def upper(x, policy, evaluation):
        return -policy[0, 1] + x[0] * policy[0, 1]

    problem = bx.BilevelProblem(
        upper,
        PaidBandit(jnp.zeros((1, 2, 1))),
        project=lambda x: optax.projections.projection_box(x, -2.0, 1.0),
    )
    solver = bx.ImplicitGradient(optax.sgd(0.5))
    solution = bx.solve(problem, solver, jnp.asarray([5.0]), max_steps=300, tol=1e-12)
    x = float(solution.x[0])
    pi = 1 / (1 + np.exp(-x))
    assert (1 - x) * (1 - pi) == pytest.approx(1, abs=1e-10)
    assert -2 < x < 1


def test_a_parameterization_needs_both_functions():
    class Half(AbstractParameterization):
        def policy(self, x):
            return x

    with pytest.raises(TypeError, match=r"abstract.*project"):
        Half()  # pyright: ignore[reportAbstractUsage]


def test_functions_in_the_wrong_order_are_refused():
    upper: Any = lambda x, policy, evaluation: x
    lower: Any = PaidBandit(jnp.ones((1, 2, 1)))
    with pytest.raises(ValueError, match=r"upper cannot be called with \(x, policy, evaluation\)"):
        bx.BilevelProblem(lower, upper)
    with pytest.raises(ValueError, match=r"project cannot be called with \(x\); .*upper comes"):
        bx.BilevelProblem(upper, lower, upper)
    any_number: Any = lambda *everything: 0.0
    assert bx.BilevelProblem(any_number, lower, jnp.exp).lower is lower


def test_a_problem_hands_its_arrays_over_as_leaves():
    problem = bx.BilevelProblem(lambda x, policy, evaluation: x, PaidBandit(jnp.ones((1, 2, 1))))
    arrays = [leaf for leaf in jax.tree.leaves(problem) if eqx.is_array(leaf)]
    assert [array.shape for array in arrays] == [(1, 2, 1)]
    assert problem.project(3.0) == 3.0
