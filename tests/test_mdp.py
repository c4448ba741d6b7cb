"""Values, occupancies and action values: identities, brute force, contexts, masks, errors."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantecon.markov import DiscreteDP
from scipy.sparse import csr_matrix

import bilevax as bx
from bilevax._mdp import action_values, greedy_policy, soft_maximum

S, A = 4, 3
SEEDS = st.integers(0, 10_000)
REGULARIZERS: dict[str, Any] = {"entropy": bx.NegativeEntropy(), "norm": bx.SquaredNorm()}


def random_mdp(seed, *, tau=0.3, discount=0.9, regularizer="entropy", episodes=True, masked=True):
    """An MDP with an unnormalised start, masked actions and rows that may terminate."""
    draw = np.random.default_rng(seed)
    kernel = draw.dirichlet(np.full(S, 0.5), size=(S, A))
    if episodes:
        kernel *= draw.choice([1.0, 0.6, 0.0], size=(S, A, 1), p=[0.6, 0.3, 0.1])
    available = draw.random((S, A)) < 0.7
    available[np.arange(S), draw.integers(A, size=S)] = True
    return bx.MDP(
        draw.normal(size=(S, A)),
        kernel,
        discount=discount,
        initial=draw.exponential(size=S),
        tau=tau,
        regularizer=REGULARIZERS[regularizer],
        available=available if masked else None,
    )


def random_policy(mdp, seed):
    weights = np.random.default_rng(seed).exponential(size=mdp.reward.shape) + 0.01
    if mdp.available is not None:
        weights = weights * np.asarray(mdp.available)
    return jnp.asarray(weights / weights.sum(-1, keepdims=True))


def regularization(mdp, policy):
    """tau h(pi) as its definition has it."""
    pi = np.asarray(policy)
    if isinstance(mdp.regularizer, bx.NegativeEntropy):
        return float(mdp.tau) * np.sum(pi * np.log(np.where(pi > 0, pi, 1)), -1)
    return float(mdp.tau) * 0.5 * np.sum(pi**2, -1)


# Identities


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@given(seed=SEEDS)
def test_values_satisfy_both_bellman_equations(regularizer, seed):
    mdp = random_mdp(seed, regularizer=regularizer)
    policy = random_policy(mdp, seed)
    v, q = np.asarray(bx.state_values(mdp, policy)), np.asarray(bx.q_values(mdp, policy))
    kernel = np.asarray(jax.tree.leaves(mdp.transition)[0])
    np.testing.assert_allclose(q, mdp.reward + 0.9 * kernel @ v, rtol=1e-10, atol=1e-12)
    expected = np.sum(policy * q, -1) - regularization(mdp, policy)
    np.testing.assert_allclose(v, expected, rtol=1e-10, atol=1e-12)


@given(seed=SEEDS)
def test_occupancy_keeps_the_balance_of_mass(seed):
    mdp = random_mdp(seed)
    policy = random_policy(mdp, seed)
    d = np.asarray(bx.occupancy(mdp, policy))
    kernel = np.asarray(jax.tree.leaves(mdp.transition)[0])
    arrivals = np.einsum("s,sa,sat->t", d, policy, kernel)
    np.testing.assert_allclose(d, mdp.initial + 0.9 * arrivals, rtol=1e-10)
    assert np.all(d >= np.asarray(mdp.initial) - 1e-12)


@given(seed=SEEDS)
def test_without_termination_occupancy_sums_to_the_start_over_one_minus_discount(seed):
    mdp = random_mdp(seed, episodes=False)
    d = bx.occupancy(mdp, random_policy(mdp, seed))
    np.testing.assert_allclose(jnp.sum(d), jnp.sum(mdp.initial) / (1 - 0.9), rtol=1e-10)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@given(seed=SEEDS)
def test_the_return_is_the_same_by_values_and_by_occupancy(regularizer, seed):
    mdp = random_mdp(seed, regularizer=regularizer)
    policy = random_policy(mdp, seed)
    by_values = jnp.sum(mdp.initial * bx.state_values(mdp, policy))
    own = np.sum(policy * mdp.reward, -1) - regularization(mdp, policy)
    by_occupancy = np.sum(np.asarray(bx.occupancy(mdp, policy)) * own)
    np.testing.assert_allclose(by_values, by_occupancy, rtol=1e-10)
    np.testing.assert_allclose(bx.expected_return(mdp, policy), by_occupancy, rtol=1e-10)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@given(seed=SEEDS)
def test_the_performance_difference_lemma_holds(regularizer, seed):
    mdp = random_mdp(seed, regularizer=regularizer)
    old, new = random_policy(mdp, seed), random_policy(mdp, seed + 1)
    q, v = bx.q_values(mdp, old), bx.state_values(mdp, old)
    advantage = np.sum(new * q, -1) - regularization(mdp, new) - np.asarray(v)
    expected = np.sum(np.asarray(bx.occupancy(mdp, new)) * advantage)
    difference = bx.expected_return(mdp, new) - bx.expected_return(mdp, old)
    np.testing.assert_allclose(difference, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", REGULARIZERS)
@given(seed=SEEDS)
def test_the_gap_is_the_visited_regret_of_optimal_action_values(regularizer, seed):
    # spec (M5): max V - V_pi = sum_s d_pi(s) (max_p <p, Q*> - tau h(p) - (<pi, Q*> - tau h(pi))).
    mdp = random_mdp(seed, regularizer=regularizer)
    policy = random_policy(mdp, seed)
    best = bx.best_responses(mdp)
    q = action_values(mdp, best.values)
    current = np.sum(policy * q, -1) - regularization(mdp, policy)
    regret = np.asarray(soft_maximum(mdp, q)) - current
    assert np.all(regret > -1e-12)
    gap = jnp.sum(mdp.initial * best.values) - bx.expected_return(mdp, policy)
    np.testing.assert_allclose(
        gap, np.sum(np.asarray(bx.occupancy(mdp, policy)) * regret), rtol=1e-8, atol=1e-10
    )


@given(seed=SEEDS)
def test_no_random_policy_beats_the_best_response(seed):
    mdp = random_mdp(seed)
    best = bx.best_responses(mdp)
    optimum = bx.state_values(mdp, best.policy)
    np.testing.assert_allclose(optimum, best.values, rtol=1e-9, atol=1e-11)
    for i in range(3):
        assert jnp.all(bx.state_values(mdp, random_policy(mdp, seed + i)) <= optimum + 1e-11)


# Independent values


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_unregularised_optimum_is_the_best_of_all_deterministic_policies(seed):
    mdp = random_mdp(seed, tau=0.0)
    best = bx.best_responses(mdp).values
    actions = [np.flatnonzero(row) for row in np.asarray(mdp.available)]
    policies = jnp.asarray([np.eye(A)[list(choice)] for choice in itertools.product(*actions)])
    values = jax.vmap(lambda policy: bx.state_values(mdp, policy))(policies)
    np.testing.assert_allclose(best, jnp.max(values, axis=0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_unregularised_optimum_is_quantecons(seed):
    mdp = random_mdp(seed, tau=0.0, episodes=False, masked=False)
    kernel = np.asarray(jax.tree.leaves(mdp.transition)[0])
    reference: Any = DiscreteDP(np.asarray(mdp.reward), kernel, 0.9).solve("policy_iteration")
    response = bx.best_responses(mdp)
    np.testing.assert_allclose(response.values, reference.v, rtol=1e-10)
    np.testing.assert_array_equal(jnp.argmax(response.policy, -1), reference.sigma)


def test_a_return_is_the_mean_of_simulated_episodes():
    mdp = random_mdp(3, tau=0.0, discount=1.0)
    policy = random_policy(mdp, 3)
    kernel = np.asarray(jax.tree.leaves(mdp.transition)[0])
    outcomes = np.concatenate([kernel, 1 - kernel.sum(-1, keepdims=True)], -1)
    outcomes = np.concatenate([outcomes, np.tile(np.eye(S + 1)[S], (1, A, 1))])
    behaviour = np.concatenate([policy, np.full((1, A), 1 / A)])
    reward = np.concatenate([mdp.reward, np.zeros((1, A))])
    draw = np.random.default_rng(0)
    episodes = 20_000

    def sample(probability):  # one index per row
        return (draw.random((episodes, 1)) > probability.cumsum(-1)).sum(-1).clip(max=S)

    state = draw.choice(S, size=episodes, p=np.asarray(mdp.initial / mdp.initial.sum()))
    returns = np.zeros(episodes)
    while np.any(state < S):
        action = sample(behaviour[state]).clip(max=A - 1)
        returns += reward[state, action]
        state = sample(outcomes[state, action])
    error = np.std(returns) / np.sqrt(episodes)
    expected = float(bx.expected_return(mdp, policy) / mdp.initial.sum())
    assert abs(np.mean(returns) - expected) < 4 * error


def test_missing_mass_is_an_absorbing_state_of_value_zero():
    mdp = random_mdp(5, tau=0.0)
    policy = random_policy(mdp, 5)
    kernel = np.zeros((S + 1, A, S + 1))
    kernel[:S, :, :S] = jax.tree.leaves(mdp.transition)[0]
    kernel[..., S] = 1 - kernel.sum(-1)
    reward = np.concatenate([mdp.reward, np.zeros((1, A))])
    full = bx.MDP(reward, kernel, discount=0.9, tau=0.0)
    values = bx.state_values(full, jnp.concatenate([policy, jnp.full((1, A), 1 / A)]))
    np.testing.assert_allclose(values, jnp.append(bx.state_values(mdp, policy), 0.0), atol=1e-12)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_a_masked_action_may_as_well_not_exist(regularizer):
    mdp = random_mdp(7, regularizer=regularizer, masked=False)
    masked = eqx.tree_at(
        lambda m: m.available,
        mdp,
        jnp.ones((S, A), bool).at[:, 1].set(False),
        is_leaf=lambda x: x is None,
    )
    kept = [0, 2]
    smaller = bx.MDP(
        mdp.reward[:, kept],
        jax.tree.leaves(mdp.transition)[0][:, kept],
        discount=0.9,
        initial=mdp.initial,
        tau=0.3,
        regularizer=REGULARIZERS[regularizer],
    )
    response, expected = bx.best_responses(masked), bx.best_responses(smaller)
    np.testing.assert_allclose(response.values, expected.values, rtol=1e-10)
    np.testing.assert_allclose(response.policy[:, kept], expected.policy, atol=1e-10)
    np.testing.assert_array_equal(response.policy[:, 1], 0)
    np.testing.assert_allclose(masked.uniform_policy(), np.tile([0.5, 0, 0.5], (S, 1)))


def test_other_rewards_are_evaluated_by_the_same_factorisation():
    mdp = random_mdp(8)
    policy, reward = random_policy(mdp, 8), np.random.default_rng(8).normal(size=(S, A))
    other = bx.MDP(reward, mdp.transition, discount=0.9, initial=mdp.initial)
    evaluation = bx.evaluate(mdp, policy)
    reward = jnp.asarray(reward)
    np.testing.assert_allclose(evaluation.values(reward), bx.state_values(other, policy))
    expected = bx.expected_return(other, policy)
    np.testing.assert_allclose(evaluation.expected_return(reward), expected)
    by_pairs = jnp.sum(evaluation.state_action_occupancy * reward)
    np.testing.assert_allclose(by_pairs, expected)


def test_discount_zero_sees_one_step():
    mdp = random_mdp(9, discount=0.0)
    policy = random_policy(mdp, 9)
    np.testing.assert_allclose(bx.q_values(mdp, policy), mdp.reward)
    np.testing.assert_allclose(bx.occupancy(mdp, policy), mdp.initial)


def test_the_start_is_uniform_probability_by_default():
    reward = jnp.zeros((2, S, A))
    mdp = bx.MDP(reward, jnp.zeros((S, A, S)), discount=0.5)
    np.testing.assert_allclose(mdp.initial, np.full((2, S), 1 / (2 * S)))


def test_float32_stays_float32_and_close():
    double = random_mdp(10)
    policy = random_policy(double, 10)
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, double
    )
    values = bx.state_values(single, policy.astype(jnp.float32))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, bx.state_values(double, policy), rtol=1e-4)


# Dense kernels and successor lists


def as_lists(mdp):
    """The same MDP with its kernel as successor lists, their order reversed and one entry split."""
    kernel = jax.tree.leaves(mdp.transition)[0]
    next_state = np.broadcast_to(np.arange(S)[::-1], (S, A, S))
    probability = kernel[..., ::-1]
    split = jnp.concatenate([0.5 * probability[..., :1], 0.5 * probability[..., :1]], axis=-1)
    lists = bx.SuccessorList(
        np.concatenate([next_state[..., :1], next_state], -1),
        jnp.concatenate([split, probability[..., 1:]], -1),
    )
    return eqx.tree_at(lambda m: m.transition, mdp, lists)


@given(seed=SEEDS)
def test_successor_lists_give_the_values_of_the_dense_kernel(seed):
    dense = random_mdp(seed)
    lists, policy = as_lists(dense), random_policy(dense, seed)
    for quantity in (bx.state_values, bx.q_values, bx.occupancy, bx.expected_return):
        np.testing.assert_allclose(quantity(lists, policy), quantity(dense, policy), rtol=1e-10)
    np.testing.assert_allclose(
        bx.best_responses(lists).policy, bx.best_responses(dense).policy, atol=1e-10
    )


def test_successor_lists_give_the_gradients_of_the_dense_kernel():
    dense = random_mdp(11)
    lists, policy = as_lists(dense), random_policy(dense, 11)
    of_dense = jax.grad(bx.expected_return, allow_int=True)(dense, policy)
    of_lists = jax.grad(bx.expected_return, allow_int=True)(lists, policy)
    np.testing.assert_allclose(of_lists.reward, of_dense.reward, rtol=1e-10)
    kernel_gradient = jax.tree.leaves(of_dense.transition)[0]
    (_, probability_gradient) = jax.tree.leaves(of_lists.transition)
    # Every entry's slope is that of the state it leads to; the split one has it twice.
    np.testing.assert_allclose(probability_gradient[..., 1:], kernel_gradient[..., ::-1], rtol=1e-9)
    np.testing.assert_allclose(probability_gradient[..., 0], kernel_gradient[..., -1], rtol=1e-9)


# Derivatives


def test_the_gradient_of_the_return_in_the_reward_is_the_occupancy():
    mdp = random_mdp(12)
    policy = random_policy(mdp, 12)
    gradient = jax.grad(bx.expected_return, allow_int=True)(mdp, policy)
    expected = bx.evaluate(mdp, policy).state_action_occupancy
    np.testing.assert_allclose(gradient.reward, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient.initial, bx.state_values(mdp, policy), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_gradients_in_kernel_discount_tau_and_policy_match_differences(regularizer):
    mdp = random_mdp(13, regularizer=regularizer)
    policy = random_policy(mdp, 13)
    draw = np.random.default_rng(13)

    def moved(step, name):
        if name == "policy":
            return bx.expected_return(mdp, policy + step * direction)
        where = dict(
            kernel=lambda m: m.transition.array, discount=lambda m: m.discount, tau=lambda m: m.tau
        )[name]
        changed = eqx.tree_at(where, mdp, where(mdp) + step * direction)
        return bx.expected_return(changed, policy)

    for name, shape in dict(kernel=(S, A, S), discount=(), tau=(), policy=(S, A)).items():
        direction = jnp.asarray(draw.normal(size=shape))
        if name == "policy":
            direction = direction * jnp.asarray(mdp.available)
        slope = jax.grad(moved)(0.0, name)
        h = 1e-4
        difference = (8 * (moved(h, name) - moved(-h, name)) - moved(2 * h, name)) / (12 * h)
        difference += moved(-2 * h, name) / (12 * h)
        np.testing.assert_allclose(slope, difference, rtol=1e-7, err_msg=name)


def test_the_gradient_in_the_policy_is_occupancy_times_action_values():
    # The policy-gradient theorem: d V(rho) / d pi(a|s) = d(s) (Q(s,a) - tau h'(pi(a|s))).
    mdp = random_mdp(14, masked=False)
    policy = random_policy(mdp, 14)
    gradient = jax.grad(bx.expected_return, argnums=1)(mdp, policy)
    slope = bx.q_values(mdp, policy) - 0.3 * (jnp.log(policy) + 1)
    expected = bx.occupancy(mdp, policy)[:, None] * slope
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)


# Contexts, jit, vmap


def contexts(count):
    """``count`` MDPs, and the same stacked: they share kernel and mask, and nothing else."""
    draw = np.random.default_rng(15)
    base = random_mdp(15)
    own = dict(
        reward=draw.normal(size=(count, S, A)),
        discount=draw.uniform(0.5, 0.95, size=count),
        initial=draw.exponential(size=(count, S)),
        tau=draw.uniform(0.1, 0.5, size=count),
    )
    singles = [
        bx.MDP(
            own["reward"][n],
            base.transition,
            discount=own["discount"][n],
            initial=own["initial"][n],
            tau=own["tau"][n],
            available=base.available,
        )
        for n in range(count)
    ]
    reward = own.pop("reward")
    options: dict[str, Any] = {name: jnp.asarray(value) for name, value in own.items()}
    stacked = bx.MDP(reward, base.transition, available=base.available, **options)
    return singles, stacked


@pytest.mark.slow
def test_a_stacked_mdp_is_its_contexts_side_by_side():
    singles, stacked = contexts(3)
    assert stacked.stacked and stacked.num_states == S
    policy = jnp.stack([random_policy(single, n) for n, single in enumerate(singles)])
    for quantity in (bx.state_values, bx.q_values, bx.occupancy):
        expected = jnp.stack([quantity(m, p) for m, p in zip(singles, policy, strict=True)])
        np.testing.assert_allclose(quantity(stacked, policy), expected, rtol=1e-10)
    total = sum(bx.expected_return(m, p) for m, p in zip(singles, policy, strict=True))
    np.testing.assert_allclose(bx.expected_return(stacked, policy), total, rtol=1e-10)
    best = bx.best_responses(stacked)
    for n, single in enumerate(singles):
        np.testing.assert_allclose(best.policy[n], bx.best_responses(single).policy, atol=1e-10)
    q = action_values(stacked, best.values)
    np.testing.assert_allclose(soft_maximum(stacked, q), best.values, rtol=1e-10)
    np.testing.assert_allclose(greedy_policy(stacked, q), best.policy, atol=1e-10)


def test_gradients_pass_through_contexts():
    singles, stacked = contexts(2)
    policy = stacked.uniform_policy()
    gradient = jax.grad(bx.expected_return, allow_int=True)(stacked, policy)
    single = [
        jax.grad(bx.expected_return, allow_int=True)(m, p)
        for m, p in zip(singles, policy, strict=True)
    ]
    np.testing.assert_allclose(gradient.reward, jnp.stack([g.reward for g in single]), rtol=1e-10)
    np.testing.assert_allclose(gradient.tau, jnp.stack([g.tau for g in single]), rtol=1e-10)
    # The kernel is shared: its gradient is the sum.
    kernels = [jax.tree.leaves(g.transition)[0] for g in [gradient, *single]]
    np.testing.assert_allclose(kernels[0], kernels[1] + kernels[2], rtol=1e-9)


def test_values_are_the_same_under_jit_and_vmap_and_trace_once():
    mdp = random_mdp(16)
    policy = random_policy(mdp, 16)
    rewards = jnp.stack([mdp.reward, 2 * mdp.reward, -mdp.reward])
    traces = []

    @jax.jit
    def values(reward):
        traces.append(None)
        changed = eqx.tree_at(lambda m: m.reward, mdp, reward)
        return bx.state_values(changed, policy)

    looped = jnp.stack([values(reward) for reward in rewards])
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(values)(rewards), looped, rtol=1e-10)
    np.testing.assert_allclose(looped[0], bx.state_values(mdp, policy), rtol=1e-12)


# Errors


def good() -> dict[str, Any]:
    return dict(reward=np.zeros((S, A)), transition=np.full((S, A, S), 1 / S), discount=0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reward=np.zeros((S, A + 1))), r"reward has shape \(4, 4\) but the transition"),
        (dict(reward=np.zeros(S)), r"reward has shape \(4,\)"),
        (dict(reward=np.zeros((S, A), complex)), "reward has dtype complex128; give real numbers"),
        (dict(reward=np.zeros((S, A), object)), "reward is no array of numbers, but ndarray of d"),
        (dict(reward=[[0.0], [0.0, 1.0]]), "reward is no array of numbers, but list; give an"),
        (dict(transition=csr_matrix((S, S))), "transition is no array .* csr_matrix.* Successor"),
        (dict(reward=np.full((S, A), np.nan)), r"reward\[0, 0\] is nan; give finite rewards"),
        (dict(discount=1.2), r"discount is 1.2; it must lie in \[0, 1\]"),
        (dict(discount=-0.1), "discount is -0.1"),
        (dict(discount=jnp.asarray([0.9, 0.8])), r"discount has shape \(2,\); give one number"),
        (dict(tau=-1.0), "tau is -1.0; it must be finite and at least 0"),
        (dict(tau=np.inf), "tau is inf"),
        (dict(initial=np.ones(S + 1)), r"initial has shape \(5,\); .* it is \(4,\)"),
        (dict(initial=-np.ones(S)), "initial has the entry -1.0"),
        (dict(available=np.ones((S, A + 1), bool)), r"available has shape \(4, 4\)"),
        (dict(available=np.eye(S, A, dtype=bool)), "available has no action in state 3"),
    ],
)
def test_a_wrong_mdp_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=f"MDP: {message}"):
        bx.MDP(**good() | change)


@pytest.mark.parametrize("dtype", [int, bool])
def test_integers_and_booleans_become_floats(dtype):
    kernel = np.eye(S, dtype=dtype)[:, None].repeat(A, axis=1)
    reward = np.eye(S, A, dtype=dtype)
    mdp = bx.MDP(reward, kernel, discount=0.9)
    assert mdp.reward.dtype == jax.tree.leaves(mdp.transition)[0].dtype == np.float64
    narrow = bx.MDP(reward.astype(np.float32), kernel, discount=0.9)
    assert jax.tree.leaves(narrow.transition)[0].dtype == np.float32
    lists = bx.SuccessorList(np.zeros((S, A, 1), int), np.ones((S, A, 1), dtype))
    assert lists.probability.dtype == np.float64
    game = bx.StackelbergGame.simultaneous(
        reward[..., None], reward[..., None], kernel[:, :, None], discount=0.9
    )
    assert game.leader_reward.dtype == game.follower_reward.dtype == np.float64


def test_contexts_are_all_regularised_or_none():
    stacked: dict[str, Any] = good() | dict(reward=np.zeros((2, S, A)), tau=jnp.asarray([0.0, 0.3]))
    with pytest.raises(ValueError, match=r"tau is \[0\. +0\.3\]; contexts with and without"):
        bx.MDP(**stacked)


def test_a_policy_of_the_wrong_shape_is_refused():
    mdp = bx.MDP(**good())
    with pytest.raises(ValueError, match=r"policy has shape \(3, 4\); .* it is \(4, 3\)"):
        bx.state_values(mdp, jnp.full((A, S), 1 / S))
