"""What a large weight buys: the paper's landscape results, checked in numbers on tiny problems."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import pytest
from games import random_game
from hypothesis import given
from hypothesis import strategies as st

import bilevax as bx

GAME = random_game(2, tau=0.3)
X = jnp.asarray(np.random.default_rng(5).normal(size=(3, 2)))
WEIGHTS = np.logspace(1.5, 3.5, 5)


def policy_of(z):
    """Two actions per state, one free logit each."""
    return jax.nn.softmax(jnp.stack([z, jnp.zeros_like(z)], axis=-1), axis=-1)


def penalised(x, z, weight, kind):
    """f + weight p, and p: the value penalty at kind = 0, the Bellman penalty at kind = 1."""
    mdp, policy = GAME.lower(x), policy_of(z)
    evaluation = bx.evaluate(mdp, policy)
    response = bx.best_responses(GAME.lower(jax.lax.stop_gradient(x)), tol=1e-15)
    parts = jnp.stack(
        [p(mdp, evaluation, response)[0] for p in (bx.NikaidoIsoda(), bx.BellmanPenalty())]
    )
    penalty = jnp.where(kind == 0, parts[0], parts[1])
    return GAME.upper(x, policy, evaluation) + weight * penalty, parts[0]


derivatives = jax.jit(
    lambda x, z, weight, kind: (
        jax.grad(penalised, argnums=(0, 1), has_aux=True)(x, z, weight, kind),
        jax.hessian(lambda z: penalised(x, z, weight, kind)[0])(z),
    )
)


@pytest.fixture(scope="module")
def hypergradient():
    estimator, key, oracle = bx.Exact(GAME), jax.random.key(0), bx.PolicyIteration(tol=1e-15)
    _, memory = estimator.init(oracle, X, key)
    _, gradient, policy, _ = jax.jit(lambda x: estimator.hypergradient(oracle, x, memory, key))(X)
    return gradient, jnp.log(policy[:, 0] / policy[:, 1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1], ids=["value", "bellman"])
def test_the_gap_falls_as_the_weight_squared_and_the_gradient_error_as_the_weight(
    kind, hypergradient
):
    implicit, z = hypergradient
    gaps, errors = [], []
    for weight in WEIGHTS * 10**kind:  # the Bellman penalty is smaller by about 1 - discount
        for _ in range(20):  # Newton, from the best response
            ((_, slope), _), curvature = derivatives(X, z, weight, kind)
            z = z - jnp.linalg.solve(curvature, slope)
        ((in_x, slope), gap), curvature = derivatives(X, z, weight, kind)
        assert jnp.max(jnp.abs(slope)) < 1e-10
        assert jnp.linalg.eigvalsh(curvature)[0] > 0
        gaps.append(gap)
        errors.append(jnp.linalg.norm(in_x - implicit))
    rate = lambda series: np.polyfit(np.log(WEIGHTS), np.log(series), 1)[0]
    assert abs(rate(gaps) + 2) < 0.1
    assert abs(rate(errors) + 1) < 0.1


def choice(x):
    """One state, two actions, of which the first pays x."""
    reward = jnp.stack([x, jnp.zeros_like(x)])[None]
    return bx.MDP(reward, jnp.ones((1, 2, 1)), discount=0.5, tau=0.4)


@jax.jit
@jax.vmap
def penalty_over_choices(x, chances):
    """p(x, y) of many y, the chances of the first action; the last is the best response."""
    mdp = choice(x)
    response = bx.best_responses(mdp)
    policies = jnp.stack([chances, 1 - chances], axis=-1)[:, None]
    policies = jnp.concatenate([policies, response.policy[None]])
    one = lambda policy: bx.NikaidoIsoda()(mdp, bx.evaluate(mdp, policy), response)[0]
    return policies[:, 0, 0], jax.vmap(one)(policies)


@pytest.mark.slow
def test_a_minimiser_of_the_penalised_problem_minimises_the_relaxed_one():
    x, chances = np.linspace(-1, 1, 101), np.linspace(0.005, 0.995, 100)
    y, penalty = penalty_over_choices(x, np.tile(chances, (101, 1)))
    x, y, penalty = x[:, None], np.asarray(y), np.asarray(penalty)
    f = np.sin(4 * x) + 3 * (y - 0.5 - 0.4 * np.cos(3 * x)) ** 2
    best = f[:, -1].min()  # at exact best responses
    spread = best - f.min()
    assert spread > 0.3  # the follower's answer does bind
    for delta in (0.1, 1e-2, 1e-3, 1e-4):
        weight = spread / delta
        where = np.unravel_index(np.argmin(f + weight * penalty), f.shape)
        # lambda of the order 1/delta makes the answer delta-feasible ...
        assert penalty[where] <= delta
        # ... and no point that is as feasible as the answer has a lower f,
        assert f[where] <= f[penalty <= penalty[where]].min()
        # nor is it worse than any best response: from below the values tend to F's minimum.
        assert f[where] <= best
    np.testing.assert_allclose(f[where], best, atol=0.01)


value_penalty = jax.jit(
    jax.value_and_grad(lambda x, z: penalised(x, z, 0.0, 0)[1], argnums=1),
)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 1.0, 3.0]))
def test_a_small_gradient_in_the_policy_means_a_small_gap(seed, sharpness):
    # Gradient dominance (after Mei et al. 2020, lemma 15), with explicit constants:
    #   V*(rho) - V(rho) <= max_s d*(s) / d(s)^2 / (2 tau min pi^2) ||grad in logits of V(rho)||^2.
    # Where the penalised problem is stationary in y, its gradient is that of f over the weight.
    z = sharpness * np.random.default_rng(seed).normal(size=3)
    loss, slope = value_penalty(X, z)
    policy = np.asarray(policy_of(jnp.asarray(z)))
    [table] = reference.tables(GAME.lower(X))
    best = reference.optimum(table)[1]
    visits = reference.occupancy(table, best) / reference.occupancy(table, policy) ** 2
    norm = 2 * np.sum(np.asarray(slope) ** 2)  # the second logit's slope is minus the first's
    assert loss <= visits.max() / (2 * table.tau * policy.min() ** 2) * norm
