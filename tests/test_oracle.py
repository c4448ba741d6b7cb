"""The oracles against brute force, other solvers, and what they promise."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from numpy_mdp import backup, greedy, optimum, own_reward, tables, values
from quantecon.markov import DiscreteDP

import bilevax as bx
from bilevax._linear import DENSE_LIMIT
from bilevax._mdp import action_values, greedy_policy
from bilevax._oracle import cold_start, respond, track

STATES, ACTIONS = 6, 3
ORACLES = [
    bx.PolicyIteration(),
    bx.AdaptivePolicyIteration(),
    bx.NewtonKrylov(),
    bx.ValueIteration(),
    bx.PolicyMirrorDescent(),
]
REGULARIZERS = [bx.NegativeEntropy(), bx.SquaredNorm(), bx.Unregularized()]
name = lambda instance: type(instance).__name__


# Half the time to compile, for code as fast at these sizes.
compile_fast = functools.partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": False})


@functools.cache
def solver(oracle):
    """``respond`` compiled, a cold start by default."""
    compiled = compile_fast(lambda mdp, warm: respond(oracle, mdp, warm))
    start = compile_fast(lambda mdp: cold_start(oracle, mdp))
    return lambda mdp, warm=None: compiled(mdp, warm or start(mdp))


def models(regularizer, taus=(0.1, 0.01, 1.0, 0.3, 0.5)):
    """Contexts that mix fast, slowly, hardly at all, terminate, and are episodes at discount 1."""
    rng = np.random.default_rng(0)
    line = np.zeros((STATES, ACTIONS, STATES))
    for s, (a, move) in itertools.product(range(STATES), enumerate([-1, 0, 1])):
        for step, mass in ((move, 0.8), (-1, 0.1), (1, 0.1)):
            line[s, a, np.clip(s + step, 0, STATES - 1)] += mass
    fast, other = rng.dirichlet(np.ones(STATES), (2, STATES, ACTIONS))
    sharp = rng.dirichlet(np.full(STATES, 0.01), (STATES, ACTIONS))
    ending = other * rng.uniform(0.2, 1, (STATES, ACTIONS, 1))
    episodes = line * (np.arange(STATES) > 0)[:, None, None]
    available = rng.random((5, STATES, ACTIONS)) < 0.8
    available[..., 0] = True
    reward = rng.normal(size=(5, STATES, ACTIONS))
    reward[4] -= 4  # every step costs, more than the entropy gives back
    return bx.MDP(
        jnp.asarray(reward),
        jnp.asarray(np.stack([fast, line, sharp, ending, episodes])),
        discount=jnp.asarray([0.95, 0.999, 0.9, 0.97, 1.0]),
        tau=0.0 if isinstance(regularizer, bx.Unregularized) else jnp.asarray(taus),
        regularizer=regularizer,
        available=available,
    )


def best_of_all_policies(table):
    """V* at tau = 0, the largest value over all deterministic policies in every state."""
    choices = itertools.product(*[np.flatnonzero(row) for row in table.available])
    policies = np.eye(ACTIONS)[np.asarray(list(choices))]
    chains = np.einsum("nsa,sat->nst", policies, table.kernel)
    own = np.sum(policies * table.reward, -1)[..., None]
    return np.linalg.solve(np.eye(STATES) - table.discount * chains, own)[..., 0].max(0)


# Every pair is tested; those that share most of their code with another one are slow tests.
ALIKE = {(1, 1), (2, 0), (2, 2), (3, 1), (3, 2), (0, 0), (0, 2)}


@pytest.mark.parametrize(
    ("oracle", "regularizer"),
    [
        pytest.param(
            ORACLES[i],
            REGULARIZERS[j],
            id=f"{name(ORACLES[i])}-{name(REGULARIZERS[j])}",
            marks=[pytest.mark.slow] if (i, j) in ALIKE else [],
        )
        for i, j in itertools.product(range(5), range(3))
    ],
)
def test_the_optimum_is_found_from_any_start_and_its_policy_is_greedy(oracle, regularizer):
    mdp = models(regularizer)
    hard = isinstance(regularizer, bx.Unregularized)
    expected = np.stack([best_of_all_policies(t) if hard else optimum(t)[0] for t in tables(mdp)])
    scale = np.abs(expected).max(-1)
    # The residual's effect: the tolerance times the longest horizon among these models.
    accuracy = 1e-12 * 1e3 * scale[:, None] + 1e-9

    cold = solver(oracle)(mdp)
    noise = 1e5 * np.random.default_rng(1).normal(size=expected.shape)
    elsewhere = eqx.tree_at(lambda r: r.values, cold, cold.values + noise)
    lost = eqx.tree_at(lambda r: r.values, cold, cold.values * jnp.nan)
    for response in (cold, solver(oracle)(mdp, elsewhere), solver(oracle)(mdp, lost)):
        assert response.converged.all()
        assert (response.residual <= oracle.tol * scale * (1 + 1e-9)).all()
        assert (np.abs(response.values - expected) <= accuracy).all()
        policies = zip(tables(mdp), np.asarray(response.policy), strict=True)
        of_policy = [values(table, policy) for table, policy in policies]
        assert (np.abs(np.stack(of_policy) - expected) <= accuracy).all()
        if not isinstance(oracle, bx.PolicyMirrorDescent):
            own = greedy_policy(mdp, action_values(mdp, response.values))
            np.testing.assert_allclose(response.policy, own, atol=1e-10)

    again = solver(oracle)(mdp, cold)
    assert (again.steps == 0).all()
    np.testing.assert_array_equal(again.values, cold.values)
    near = eqx.tree_at(lambda m: m.reward, mdp, mdp.reward * 1.0001)
    warm, anew = solver(oracle)(near, cold), solver(oracle)(near)
    assert warm.converged.all()
    assert warm.steps.sum() < anew.steps.sum()


def random_lists(states, actions, successors, seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(successors), (states, actions))
    next_state = rng.integers(0, states, (states, actions, successors))
    return jnp.asarray(rng.random((states, actions))), bx.SuccessorList(next_state, probability)


def test_a_large_sparse_model_has_the_values_that_quantecon_finds():
    states, actions = DENSE_LIMIT + 100, 3
    reward, transition = random_lists(states, actions, 4)
    mdp = bx.MDP(reward, transition, discount=0.95)
    rows = np.arange(0, transition.probability.size + 1, 4)
    kernel = sp.csr_matrix(
        (transition.probability.ravel(), transition.next_state.ravel(), rows),
        shape=(states * actions, states),
    )
    pairs = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
    peer = DiscreteDP(np.asarray(reward).ravel(), kernel, 0.95, *pairs)
    expected = peer.solve("mpi", epsilon=1e-9, max_iter=1000)
    response = solver(bx.AdaptivePolicyIteration())(mdp)
    assert response.converged
    np.testing.assert_allclose(response.values, expected.v, rtol=1e-9)
    np.testing.assert_array_equal(np.argmax(response.policy, -1), expected.sigma)


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", REGULARIZERS[:2], ids=name)
def test_a_large_soft_model_agrees_with_plain_value_iteration(regularizer):
    reward, transition = random_lists(DENSE_LIMIT + 1, 3, 4)
    mdp = bx.MDP(reward, transition, discount=0.8, tau=0.1, regularizer=regularizer)
    response = solver(bx.AdaptivePolicyIteration())(mdp)
    assert response.converged
    v = jnp.zeros(mdp.num_states)
    bellman = compile_fast(
        lambda v: mdp.regularizer.conjugate(action_values(mdp, v), mdp.tau, None)
    )
    for _ in range(150):
        v = bellman(v)
    np.testing.assert_allclose(response.values, v, rtol=1e-10)


def test_the_tolerance_is_respected_and_not_overshot():
    mdp = models(bx.NegativeEntropy())
    loose, tight = (solver(bx.ValueIteration(tol=tol))(mdp) for tol in (1e-3, 1e-9))
    for response, tol in ((loose, 1e-3), (tight, 1e-9)):
        assert response.converged.all()
        assert (response.residual <= tol * np.abs(response.backup).max(-1)).all()
    assert (loose.steps < tight.steps).all()
    assert (loose.residual > 1e-9).all()


def test_an_answer_that_has_not_converged_says_so():
    mdp = models(bx.NegativeEntropy())
    short = solver(bx.ValueIteration(max_steps=2))(mdp)
    assert not short.converged.any()
    assert (short.steps == 2).all()
    table, v = tables(mdp)[1], np.asarray(short.values[1])
    policy = greedy(table, backup(table, v))
    improved = own_reward(table, policy) + table.discount * np.einsum(
        "sa,sat,t->s", policy, table.kernel, v
    )
    np.testing.assert_allclose(short.residual[1], np.abs(improved - v).max(), rtol=1e-10)


@pytest.mark.parametrize(
    "oracle", [bx.PolicyIteration(tol=0.0), bx.ValueIteration(tol=0.0)], ids=name
)
def test_an_oracle_stops_where_rounding_ends_its_descent(oracle):
    response = solver(oracle)(models(bx.NegativeEntropy()))
    assert (response.steps < 400).all()
    assert (response.residual < 1e-13 * np.abs(response.values).max(-1)).all()
    assert not response.converged[response.residual > 0].any()


@pytest.mark.slow
def test_single_precision_says_what_it_cannot_reach():
    double = jax.tree.map(
        lambda leaf: leaf[0], eqx.filter(models(bx.NegativeEntropy()), eqx.is_array)
    )
    mdp = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == float else leaf, double
    )
    out_of_reach = solver(bx.AdaptivePolicyIteration())(mdp)
    assert out_of_reach.values.dtype == jnp.float32
    assert not out_of_reach.converged and out_of_reach.found
    assert out_of_reach.steps < 50
    assert out_of_reach.residual < 1e-5 * np.abs(out_of_reach.values).max()
    assert solver(bx.AdaptivePolicyIteration(tol=1e-5))(mdp).converged


def test_a_lower_level_of_infinite_value_does_not_converge():
    # Two states that lead to each other at no cost: at discount 1 the entropy adds up for ever.
    closed = jnp.asarray([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.999, 0.0]]])
    mdp = bx.MDP(jnp.zeros((2, 2)), closed, discount=0.5, tau=1.0)
    mdp = eqx.tree_at(lambda m: m.discount, mdp, jnp.asarray(1.0))  # an MDP itself refuses it
    for oracle in (bx.AdaptivePolicyIteration(), bx.NewtonKrylov()):
        assert not solver(oracle)(mdp).converged


@pytest.mark.slow
@pytest.mark.parametrize("oracle", ORACLES[1:3], ids=name)
def test_contexts_alone_stacked_and_side_by_side_give_the_same_response(oracle):
    mdp = models(bx.NegativeEntropy())
    cold = cold_start(oracle, mdp)
    stacked = solver(oracle)(mdp)
    arrays, static = eqx.partition(mdp, eqx.is_array)
    side_by_side = jax.jit(jax.vmap(lambda m, warm: respond(oracle, eqx.combine(m, static), warm)))(
        arrays, cold
    )
    for n in range(5):
        pick = lambda tree, n=n: jax.tree.map(lambda leaf: leaf[n], tree)
        alone = solver(oracle)(eqx.combine(pick(arrays), static), pick(cold))
        for other in (pick(stacked), pick(side_by_side)):
            assert alone.converged and other.converged
            assert alone.steps == other.steps
            np.testing.assert_allclose(alone.values, other.values, rtol=1e-9)
            np.testing.assert_allclose(alone.policy, other.policy, atol=1e-8)


@pytest.mark.slow
def test_steps_by_hand_are_those_of_the_loop():
    oracle = bx.NewtonKrylov()
    mdp = bx.MDP(*random_model(), discount=0.95, tau=0.1)
    expected = solver(oracle)(mdp)
    response = eqx.tree_at(
        lambda r: r.backup,
        cold_start(oracle, mdp),
        mdp.regularizer.conjugate(mdp.reward, mdp.tau, None),
    )
    response = eqx.tree_at(lambda r: r.residual, response, jnp.max(jnp.abs(response.backup)))
    response = eqx.tree_at(lambda r: r.policy, response, greedy_policy(mdp, mdp.reward))
    step = compile_fast(oracle.step)
    while not response.converged:
        response = step(mdp, response)
    assert response.steps == expected.steps
    np.testing.assert_allclose(response.values, expected.values, rtol=1e-12)


def random_model():
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.random((20, 4))), jnp.asarray(rng.dirichlet(np.ones(20), (20, 4)))


@pytest.mark.parametrize("oracle", [ORACLES[1], ORACLES[3]], ids=name)
def test_one_step_at_a_time_tracks_a_moving_model(oracle):
    reward, kernel = random_model()
    one = compile_fast(lambda mdp, warm: track(oracle, mdp, warm))
    at = lambda t: bx.MDP(reward * (1 + 0.01 * t), kernel, discount=0.95, tau=0.1)
    response = solver(oracle)(at(0))
    for t in range(1, 6):
        response = one(at(t), response)
        exact = solver(oracle)(at(t)).values
        assert np.abs(response.values - exact).max() < 1e-3 * np.abs(exact).max()


def test_removing_the_constant_mode_makes_the_discount_harmless():
    reward, kernel = random_model()
    steps = [
        solver(bx.ValueIteration(tol=1e-10))(bx.MDP(reward, kernel, discount=g, tau=0.1)).steps
        for g in (0.9, 0.9999)
    ]
    assert max(steps) < 25  # plain sweeps need 230 and 230,000


def test_a_step_size_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="step_size is 0"):
        bx.PolicyMirrorDescent(step_size=0.0)
