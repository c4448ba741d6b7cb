"""PANDA: where its inner steps lead, and that it looks at no best response."""

import jax.numpy as jnp
import numpy as np
import numpy_mdp
import optax
import pytest
from games import random_game
from incentive import ACTIONS, STATES, incentive

import bilevax as bx

WEIGHT, LAST = 5.0, 80
# x rests until the last step, which then goes down the whole gradient.
RESTING = optax.sgd(lambda step: jnp.where(jnp.less(step, LAST - 1), 0.0, 1.0))
SOLVER = bx.PANDA(penalty_weight=WEIGHT, optimizer=RESTING, inner_steps=5, policy_step=0.2)
X = jnp.asarray(np.random.default_rng(5).normal(size=(STATES, *ACTIONS)))


def solve(problem, steps, solver: bx.PANDA | bx.PBRL = SOLVER, x0=X):
    return bx.solve(problem, solver, x0, max_steps=steps)


@pytest.mark.slow
def test_with_many_inner_steps_the_gradient_in_x_is_that_of_pbrl():
    pbrl = bx.PBRL(penalty_weight=WEIGHT, update=bx.Alternating(RESTING))
    for seed in (0, 1):
        game = incentive(seed)
        moved = X - solve(game, LAST).x
        expected = X - solve(game, LAST, pbrl).x
        assert np.linalg.norm(expected) > 0.05
        np.testing.assert_allclose(moved, expected, atol=1e-7)


@pytest.mark.slow
def test_the_penalty_seen_is_a_lower_bound_of_the_certified_gap():
    for steps in (1, 2, 4, 8):
        solution = solve(incentive(0), steps)
        assert solution.stats["penalty"] < solution.gap
        assert solution.stats["gradient_norm"] > 0


@pytest.mark.slow
def test_the_equilibria_of_matrix_games_are_reached():
    game = incentive(3, discount=0.0, scale=0.0, tau=0.5)
    solution = solve(game, LAST - 1)
    p, q = map(np.asarray, solution.policy)
    payoffs = np.asarray(game.reward + X)
    for scores, policy in (
        (np.einsum("sij,sj->si", payoffs, q), p),
        (-np.einsum("sij,si->sj", payoffs, p), q),
    ):
        answer = np.exp(scores / 0.5)
        np.testing.assert_allclose(policy, answer / answer.sum(-1, keepdims=True), atol=1e-7)
    assert solution.gap < 1e-10


@pytest.mark.slow
def test_with_one_follower_the_policy_serves_both_returns():
    # f + weight p is minus the regularised return of the reward below, up to what x alone decides.
    game = random_game(0)
    x = jnp.zeros((3, 2))
    solver = bx.PANDA(penalty_weight=WEIGHT, optimizer=RESTING, policy_step=0.5)
    solution = solve(game, LAST - 1, solver, x)
    (table,) = numpy_mdp.tables(game.lower(x))
    leader = np.asarray(game.leader_reward).mean(1)
    table.reward = table.reward + leader / WEIGHT
    np.testing.assert_allclose(solution.policy, numpy_mdp.optimum(table)[1], atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bx.PANDA(inner_steps=0), "PANDA: inner_steps is 0"),
        (lambda: bx.PANDA(policy_step=1.5), r"PANDA: policy_step is 1\.5"),
        (lambda: bx.PANDA(penalty_weight=-1.0), "ConstantWeight: value is -1"),
        (
            lambda: solve(random_game(0, tau=0.0), 1, bx.PANDA(), jnp.zeros((3, 2))),
            "PANDA: the policies' step has no curvature .* tau is 0",
        ),
    ],
)
def test_what_panda_cannot_work_with_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
