"""The certificate: never below the true gap, and close above it where the response is good."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bilevax as bx

STATES, ACTIONS, CONTEXTS = 4, 3, 2
best_responses = jax.jit(lambda mdps: bx.best_responses(mdps))
duality_gap = jax.jit(lambda mdps, policy, response: bx.duality_gap(mdps, policy, response))
REGULARIZERS = {"entropy": bx.NegativeEntropy(), "norm": bx.SquaredNorm(), "none": None}


def random_mdp(seed, regularizer, dtype, tau=0.3, discount=0.9, scale=1.0, leak=0.0):
    rng = np.random.default_rng(seed)
    shape = (CONTEXTS, STATES, ACTIONS)
    kernel = (1 - leak) * rng.dirichlet(np.full(STATES, 0.3), shape)
    available = rng.random(shape) < 0.7
    available[..., 0] = True
    initial = rng.random(shape[:2]) * (rng.random(shape[:2]) < 0.7) + np.eye(*shape[:2])
    options = {} if regularizer is None else {"tau": tau, "regularizer": regularizer}
    return bx.MDP(
        jnp.asarray(scale * rng.normal(size=shape), dtype),
        # A kernel in float32 may sum to more than one by rounding.
        bx.DenseTransition(jnp.asarray(kernel, dtype)),
        discount=jnp.asarray(discount, dtype),
        initial=jnp.asarray(initial, dtype),
        available=available,
        **options,
    )


def random_policy(seed, mdp, sharpness):
    noise = np.random.default_rng(seed).normal(size=mdp.reward.shape)
    odds = np.where(mdp.available, np.exp(sharpness * noise), 0)
    return jnp.asarray(odds / odds.sum(-1, keepdims=True), mdp.reward.dtype)


def true_gap(mdp, policy):
    """(absolute gap, largest loss, sum of rho |V*|), in long double."""
    total, largest, scale = np.longdouble(0), np.longdouble(0), np.longdouble(0)
    for table, own in zip(reference.tables(mdp), reference.rows(policy), strict=True):
        own = own.astype(np.longdouble)
        best = reference.precise_values(table)
        loss = best - reference.precise_values(table, own / own.sum(-1, keepdims=True))
        total += table.initial @ loss
        scale += table.initial @ np.abs(best)
        largest = max(largest, *loss[table.initial > 0])
    return total, largest, scale


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("entropy", np.float64),
        *(
            pytest.param(name, dtype, marks=pytest.mark.slow)
            for name, dtype in (
                ("entropy", np.float32),
                ("norm", np.float64),
                ("norm", np.float32),
                ("none", np.float64),
            )
        ),
    ],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    tau=st.sampled_from([1e-2, 0.3, 10.0]),
    discount=st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    sharpness=st.sampled_from([0.0, 1.0, 4.0]),
    error=st.sampled_from([0.0, 0.0, 1e-3, 1.0]),
)
def test_the_bound_is_above_the_true_gap_and_tight_for_a_good_response(
    name, dtype, seed, tau, discount, scale, sharpness, error
):
    leak = 0.1 if discount == 1 else 0.0
    mdp = random_mdp(seed, REGULARIZERS[name], dtype, tau, discount, scale, leak)
    policy = random_policy(seed + 1, mdp, sharpness)
    response = best_responses(mdp)
    noise = np.random.default_rng(seed + 2).normal(size=response.values.shape)
    off = response.values + jnp.asarray(error * scale * noise, dtype)
    gap = jax.device_get(duality_gap(mdp, policy, eqx.tree_at(lambda r: r.values, response, off)))
    absolute, largest, size = true_gap(mdp, policy)
    assert gap.absolute >= absolute
    assert gap.largest >= largest
    if error == 0:
        time = 10 if discount == 1 else 1 / (1 - discount)
        mass = np.sum(np.asarray(mdp.initial))
        # Rounding, and the residual that ``best_responses`` leaves.
        slack = (200 * np.finfo(dtype).eps + 4e-12) * time * (size + mass * (tau + scale))
        assert gap.absolute <= absolute + slack
        np.testing.assert_allclose(gap.relative, gap.absolute / size, rtol=1e-3, atol=1e-6)


@jax.jit  # where no check looks at values, so that a value may be infinite
def chain(stay_reward):
    """One state: stay for a reward, or leave for good and lose 1."""
    reward = jnp.stack([stay_reward, -jnp.ones_like(stay_reward)])[None]
    return bx.MDP(reward, np.array([[[1.0], [0.0]]]), discount=1.0)


def leaving(mdp, values):
    """The response that leaves at once, whatever that is worth."""
    response = jax.eval_shape(bx.best_responses, mdp)
    response = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), response)
    fields = (jnp.array(values), jnp.array([[0.0, 1.0]]))
    return eqx.tree_at(lambda r: (r.values, r.policy), response, fields)


@pytest.mark.slow
def test_at_discount_1_staying_for_nothing_is_not_overlooked():
    # U = -1 satisfies T U <= U, yet staying earns 0: only a strict inequality bounds it.
    mdp = chain(jnp.array(0.0))
    gap = duality_gap(mdp, jnp.array([[0.0, 1.0]]), leaving(mdp, [-1.0]))
    assert gap.absolute >= 1


def test_at_discount_1_a_loop_that_costs_is_no_alternative():
    mdp = chain(jnp.array(-0.1))
    gap = duality_gap(mdp, jnp.array([[0.0, 1.0]]), leaving(mdp, [-1.0]))
    assert 0 <= gap.absolute < 1e-13


def test_at_discount_1_a_policy_that_never_ends_has_an_infinite_gap():
    mdp = chain(jnp.array(-0.1))
    gap = duality_gap(mdp, jnp.array([[1.0, 0.0]]), leaving(mdp, [-1.0]))
    assert gap.absolute == jnp.inf
    assert gap.relative == jnp.inf


def test_a_response_of_another_mdp_is_seen_through():
    mdp, other = (random_mdp(s, bx.NegativeEntropy(), np.float64) for s in (0, 1))
    policy = best_responses(mdp).policy
    assert duality_gap(mdp, policy, best_responses(mdp)).absolute < 1e-10
    gap = duality_gap(mdp, policy, best_responses(other))
    assert 1 < gap.absolute < jnp.inf


def test_a_flattering_response_cannot_hide_a_loss():
    # The values of the policy itself, offered as the best response's, claim a gap of zero.
    mdp = random_mdp(0, bx.NegativeEntropy(), np.float64)
    policy = random_policy(1, mdp, 3.0)
    values = jax.jit(bx.state_values)(mdp, policy)
    flattering = eqx.tree_at(lambda r: r.values, best_responses(mdp), values)
    assert duality_gap(mdp, policy, flattering).absolute >= float(true_gap(mdp, policy)[0]) > 1


@pytest.mark.parametrize("fault", ["unavailable", "too much", "negative"])
def test_what_is_no_policy_has_an_infinite_gap(fault):
    mdp = random_mdp(0, bx.NegativeEntropy(), np.float64)
    policy = np.array(best_responses(mdp).policy)
    n, s, a = np.argwhere(~np.asarray(mdp.available))[0]
    if fault == "unavailable":
        policy[n, s] = np.eye(ACTIONS)[a]
    elif fault == "too much":
        policy[n, s] *= 1.01
    else:
        policy[n, s, 0], policy[n, s, a] = 1 + 1e-6, -1e-6
    assert duality_gap(mdp, jnp.asarray(policy), best_responses(mdp)).absolute == jnp.inf


@pytest.mark.slow
def test_the_gap_sums_over_players_with_kernels_of_either_kind():
    dense, other = (random_mdp(s, bx.NegativeEntropy(), np.float64) for s in (0, 1))
    every = jnp.broadcast_to(jnp.arange(STATES), (STATES, ACTIONS, STATES))
    [kernel] = jax.tree.leaves(other.transition)
    listed = eqx.tree_at(lambda m: m.transition, other, bx.SuccessorList(every, kernel))
    mdps = (dense, listed)
    policies = tuple(random_policy(s, mdp, 2.0) for s, mdp in enumerate(mdps))
    gap = duality_gap(mdps, policies, best_responses(mdps))
    truth = [true_gap(mdp, policy) for mdp, policy in zip(mdps, policies, strict=True)]
    np.testing.assert_allclose(gap.absolute, float(sum(t[0] for t in truth)), rtol=1e-9)
    np.testing.assert_allclose(gap.largest, float(max(t[1] for t in truth)), rtol=1e-9)
