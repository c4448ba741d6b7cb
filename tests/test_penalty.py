"""Penalties as the sums of regrets that they are, and their arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bilevax as bx

STATES, ACTIONS = 4, 3
MU = np.array([0.1, 0.4, 2.0, 0.3])


@jax.jit
def penalties(mdp, policy):
    """[value penalty, half spread, Bellman penalty, Bellman penalty under MU], and responses."""
    evaluation, response = bx.evaluate(mdp, policy), bx.best_responses(mdp)
    kinds = (
        bx.NikaidoIsoda(),
        bx.NikaidoIsoda(uniform_weight=0.5),
        bx.BellmanPenalty(),
        bx.BellmanPenalty(jnp.asarray(MU)),
    )
    return jnp.stack([p(mdp, evaluation, response)[0] for p in kinds]), response.policy


def random_mdp(seed, tau, regularizer):
    rng = np.random.default_rng(seed)
    available = rng.random((STATES, ACTIONS)) < 0.7
    available[:, 0] = True
    mdp = bx.MDP(
        jnp.asarray(rng.normal(size=(STATES, ACTIONS))),
        0.95 * rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)),
        discount=0.9,
        tau=tau,
        regularizer=regularizer,
        initial=rng.dirichlet(np.ones(STATES)),
        available=available,
    )
    odds = np.where(available, np.exp(2 * rng.normal(size=available.shape)), 0)
    return mdp, odds / odds.sum(-1, keepdims=True)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0]))
def test_with_entropy_every_penalty_is_a_weighted_kullback_leibler_divergence(seed, tau):
    # regret_s under the optimal action values is tau KL(y_s || pi*_s); the value penalty weighs it
    # by how often y visits s (performance difference), the Bellman penalty by mu.
    mdp, policy = random_mdp(seed, tau, bx.NegativeEntropy())
    found, _ = penalties(mdp, jnp.asarray(policy))
    [table] = reference.tables(mdp)
    _, best = reference.optimum(table)
    ratio = np.where(policy > 0, policy, 1) / np.where(best > 0, best, 1)
    regret = tau * np.sum(policy * np.log(ratio), axis=-1)
    visits = reference.occupancy(table, policy)
    table.initial = np.full(STATES, 1 / STATES)
    half = (visits + reference.occupancy(table, policy)) / 2
    expected = [visits @ regret, half @ regret, regret.mean(), MU @ regret]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0]))
def test_the_value_penalty_is_also_what_the_optimum_gains_on_the_policys_own_values(seed, tau):
    # The same difference told from the other side: the optimum's visits, the policy's Q.
    mdp, policy = random_mdp(seed, tau, bx.SquaredNorm())
    found, _ = penalties(mdp, jnp.asarray(policy))
    [table] = reference.tables(mdp)
    _, best = reference.optimum(table)
    own = reference.values(table, policy)
    gain = np.sum(best * reference.backup(table, own), axis=-1)
    gain = gain - table.tau * reference.regularizer(table, best) - own
    np.testing.assert_allclose(found[0], reference.occupancy(table, best) @ gain, rtol=1e-8)


@pytest.mark.parametrize("regularizer", [bx.NegativeEntropy(), bx.SquaredNorm()])
def test_penalties_are_positive_and_vanish_at_the_best_response(regularizer):
    for seed in range(5):
        mdp, policy = random_mdp(seed, 0.3, regularizer)
        found, best = penalties(mdp, jnp.asarray(policy))
        assert jnp.all(found > 1e-4)
        np.testing.assert_allclose(penalties(mdp, best)[0], 0, atol=1e-10)


def test_arguments_out_of_range_are_named():
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"uniform_weight is {share}"):
            bx.NikaidoIsoda(uniform_weight=share)
    with pytest.raises(ValueError, match=r"state_weights has the entry 0\.0"):
        bx.BellmanPenalty(jnp.array([1.0, 0.0]))
    mdp, _ = random_mdp(0, 0.3, bx.SquaredNorm())
    policy = mdp.uniform_policy()
    evaluation, response = jax.eval_shape(
        lambda: (bx.evaluate(mdp, policy), bx.best_responses(mdp))
    )
    with pytest.raises(ValueError, match=r"state_weights has shape \(2,\), but the MDP has 4"):
        jax.eval_shape(bx.BellmanPenalty(jnp.ones(2)), mdp, evaluation, response)
