"""When discount 1 is legal, against recursive logit models whose values can be written down."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import bilevax as bx

ENTROPY = bx.NegativeEntropy()


def network(theta, links=2, cost=1.0):
    """Two nodes with parallel links each way, and one link to the destination, all of one cost."""
    next_state = np.zeros((2, links + 1, 1), int)
    next_state[0], next_state[1] = 1, 0
    probability = np.ones((2, links + 1, 1))
    probability[:, links] = 0
    return bx.MDP(
        np.full((2, links + 1), -cost),
        bx.SuccessorList(next_state, probability),
        discount=1.0,
        tau=theta,
    )


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.1, 1.0, 1.4, 1.43])
def test_a_cycle_of_links_has_the_value_of_recursive_logit_where_it_is_finite(theta):
    # z = e^(V/theta) solves z = 2 e^(-1/theta) z + e^(-1/theta): finite for theta < 1 / log 2.
    link = np.exp(-1 / theta)
    values = bx.best_responses(network(theta)).values
    np.testing.assert_allclose(values, theta * np.log(link / (1 - 2 * link)), rtol=1e-9)


@pytest.mark.parametrize("theta", [1.4428, 2.0, 1e3])
def test_a_cycle_of_links_is_refused_where_wandering_pays_more_than_it_costs(theta):
    with pytest.raises(ValueError, match="discount is 1, but the value is infinite"):
        network(theta)


def wanderer(tau, stay, leave, regularizer: Any = ENTROPY):
    """Two states: "stay" leads to either with probability 1/2, the last action ends the episode."""
    kernel = np.zeros((2, 2, 2))
    kernel[:, 0] = 0.5
    reward = np.stack([np.asarray(stay, float), np.full(2, leave)], axis=-1)
    return bx.MDP(reward, kernel, discount=1.0, tau=tau, regularizer=regularizer)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_with_random_moves_it_is_the_mean_reward_of_staying_that_counts(tau):
    mdp = wanderer(tau, [2.0, -2.2], 0.0)
    stay = np.asarray(mdp.reward[:, 0])
    v = np.zeros(2)
    for _ in range(5000):
        q = np.stack([stay + v.mean(), np.zeros(2)], axis=-1)
        largest = q.max(-1)
        if tau:
            v = largest + tau * np.log(np.exp((q - largest[:, None]) / tau).sum(-1))
        else:
            v = largest
    np.testing.assert_allclose(bx.best_responses(mdp).values, v, rtol=1e-6)
    for reward in (2.0, 3.0):
        with pytest.raises(ValueError, match="infinite or not determined"):
            wanderer(tau, [reward, -2.0], 0.0)


@pytest.mark.slow
def test_the_squared_norm_charges_half_of_tau_for_certainty():
    # A pure policy pays tau/2 per step, so staying for ever loses while its reward is below that.
    tau, reward = 2.0, 0.9

    def minus_value(p):  # V = p (r + V) - tau/2 (p^2 + (1-p)^2), stationary
        return -(p * reward - tau / 2 * (p**2 + (1 - p) ** 2)) / (1 - p)

    best: Any = minimize_scalar(minus_value, bounds=(0, 0.999), options=dict(xatol=1e-10))
    mdp = wanderer(tau, [reward, reward], 0.0, bx.SquaredNorm())
    np.testing.assert_allclose(bx.best_responses(mdp).values, -best.fun, rtol=1e-8)
    with pytest.raises(ValueError, match="infinite or not determined"):
        wanderer(tau, [1.1, 1.1], 0.0, bx.SquaredNorm())


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", [bx.NegativeEntropy(), bx.SquaredNorm()])
@pytest.mark.parametrize("tau", [0.0, 1e-3])
def test_an_exit_that_costs_more_than_a_round_is_still_found(tau, regularizer):
    # Greedy with respect to V = 0 goes round for ever, which has no value at discount 1.
    mdp = wanderer(tau, [-1.0, -1.0], -10.0, regularizer)
    np.testing.assert_allclose(bx.best_responses(mdp).values, -10, atol=2e-3)


def test_zero_reward_for_ever_is_refused_without_regulariser():
    with pytest.raises(ValueError, match="go round for ever at no loss"):
        wanderer(0.0, [0.0, 0.0], -5.0)


def test_a_state_without_a_way_out_is_named():
    kernel = np.zeros((3, 1, 3))
    kernel[0, 0, 0], kernel[1, 0, 2], kernel[2, 0, 1] = 0.5, 1.0, 1.0
    with pytest.raises(ValueError, match="no policy terminates from state 1"):
        bx.MDP(-np.ones((3, 1)), kernel, discount=1.0)


def test_the_loss_of_a_rounding_error_is_no_exit():
    kernel = np.full((3, 1, 3), 1 / 3) * (1 - 1e-15)
    with pytest.raises(ValueError, match="no policy terminates from state 0"):
        bx.MDP(-np.ones((3, 1)), kernel, discount=1.0)


@pytest.mark.slow
def test_masks_and_contexts_are_heeded():
    free = network(1.0)
    reward = jnp.stack([free.reward, free.reward.at[1, 0].set(5.0)])
    options: dict[str, Any] = dict(discount=1.0, tau=1.0)
    with pytest.raises(ValueError, match="discount is 1 in context 1, but the value is infinite"):
        bx.MDP(reward, free.transition, **options)
    closed = np.ones((2, 3), bool)
    closed[1, 0] = False
    values = bx.best_responses(bx.MDP(reward, free.transition, available=closed, **options)).values
    np.testing.assert_allclose(values[0], values[1])
    # A context with a discount below 1 may go round for ever.
    bx.MDP(reward, free.transition, discount=jnp.asarray([1.0, 0.99]), tau=1.0)


@pytest.mark.slow
def test_termination_makes_any_reward_legal():
    kernel = np.full((3, 2, 3), 0.99 / 3)
    mdp = bx.MDP(np.full((3, 2), 7.0), kernel, discount=1.0, tau=0.0)
    np.testing.assert_allclose(bx.best_responses(mdp).values, 700, rtol=1e-10)
    horizon = bx.MDP.finite_horizon(np.full((3, 2), 7.0), kernel / 0.99, 250)
    np.testing.assert_allclose(jnp.sum(horizon.initial), 1)


def test_dense_kernels_and_lists_are_judged_alike():
    draw = np.random.default_rng(0)
    for mean in (-1.6, -1.5, -1.4, -1.3, -1.2):
        kernel = draw.dirichlet(np.ones(4), size=(4, 3))
        kernel[:, 2] *= 0.7
        reward = draw.normal(size=(4, 3)) * 0.1 + mean
        lists = bx.SuccessorList(np.broadcast_to(np.arange(4), kernel.shape), kernel)
        verdicts = []
        for transition in (kernel, lists):
            try:
                bx.MDP(reward, transition, discount=1.0, tau=2.0)
                verdicts.append(True)
            except ValueError:
                verdicts.append(False)
        # Two actions stay for ever: their soft optimal gain is the root of a bracketed equation.
        assert verdicts == [soft_gain(reward[:, :2], kernel[:, :2], 2.0) < 0] * 2


def soft_gain(reward, kernel, tau):
    """The largest mean of r - tau h over policies of an ergodic kernel, by relative iteration."""
    h = np.zeros(len(reward))
    gain = 0.0
    for _ in range(2000):
        backup = tau * np.log(np.exp((reward + kernel @ h) / tau).sum(-1))
        gain = backup[0] - h[0]
        h = backup - backup[0]
    return gain


def test_what_is_only_known_to_the_compiler_is_not_checked():
    kernel = np.full((2, 1, 2), 0.5)
    bare = jax.jit(lambda r: bx.MDP(r, kernel, discount=1.0, tau=0.0).reward)
    np.testing.assert_array_equal(bare(jnp.ones((2, 1))), 1)


def test_a_check_of_constants_inside_a_compiled_function_works():
    kernel, reward = jnp.full((2, 1, 2), 0.25), jnp.ones((2, 1))
    transition, two = bx.DenseTransition(kernel), jnp.stack([reward, reward])

    @jax.jit
    def scaled(y):
        mdp = bx.MDP(two, transition, discount=1.0, tau=1.0, available=reward > 0)
        return y * jnp.sum(mdp.reward)

    assert float(scaled(2.0)) == 8
