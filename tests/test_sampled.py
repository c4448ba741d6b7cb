"""Sampled estimators, against the exact core and against the definition of what they estimate."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

import bilevax as bx
from bilevax.deep import sampled as sm

S, L, A = 3, 2, 2
DISCOUNT = 0.8
RESAMPLES = 200


def random_game(*, sees_action=False, tau=0.2):
    draw = np.random.default_rng(0)
    kernel = draw.dirichlet(np.ones(S), size=(S, L, A))
    if sees_action:  # some steps may end the episode
        kernel *= draw.choice([1.0, 0.7], size=(S, L, A, 1))
    make = bx.StackelbergGame.sequential if sees_action else bx.StackelbergGame.simultaneous
    leader_reward, follower_reward = draw.normal(1.0, 1.0, size=(2, S, L, A))
    initial = draw.exponential(size=S)  # of mass other than 1
    return make(leader_reward, follower_reward, kernel, discount=DISCOUNT, initial=initial, tau=tau)


class Everything(eqx.Module):
    """Two contexts whose start, kernel and rewards all depend on x; some actions are masked."""

    discount: float = DISCOUNT

    def lower(self, x):
        draw = np.random.default_rng(1)
        logits = draw.normal(size=(2, S, A, S)) + x[:, None, None] * jnp.arange(S)
        kernel = jax.nn.softmax(logits, axis=-1) * (1 - 0.2 * jax.nn.sigmoid(x))[:, None, None]
        return bx.MDP(
            jnp.sin(x)[:, None] * jnp.asarray(draw.normal(size=(2, S, A))),
            kernel,
            discount=self.discount,
            initial=jnp.exp(x) * jnp.asarray([[0.5], [0.2]]),
            tau=1.0,
            regularizer=bx.SquaredNorm(),
            available=jnp.asarray([[True, True], [True, False], [True, True]]),
        )

    def upper_reward(self, x):
        return jnp.cos(x)[:, None] * jnp.asarray([1.0, -1.0])

    def upper(self, x, policy, evaluation):
        return -evaluation.expected_return(jnp.broadcast_to(self.upper_reward(x), policy.shape))

    def project(self, x):
        return x


PROBLEMS: dict[str, Any] = {
    "simultaneous": (random_game(), (S, L)),
    "sequential": (random_game(sees_action=True), (S, L)),
    "everything moves": (Everything(), (S,)),
}


def setting(name):
    """The problem, an x, and two policies that differ."""
    problem, shape = PROBLEMS[name]
    draw = np.random.default_rng(2)
    x = jnp.asarray(draw.normal(size=shape))
    uniform = problem.lower(x).uniform_policy()
    weights = uniform * draw.uniform(0.2, 2.0, size=(2, *uniform.shape))
    own, other = weights / weights.sum(-1, keepdims=True)
    return problem, x, own, other


def exact_return(problem, player):
    def value(x, policy):
        evaluation = bx.evaluate(problem.lower(x), policy)
        if not player.upper:
            return evaluation.expected_return()
        reward = jnp.broadcast_to(problem.upper_reward(x), policy.shape)
        return evaluation.expected_return(reward)

    return value


def in_logits(policy, gradient):
    return policy * (gradient - jnp.sum(policy * gradient, axis=-1, keepdims=True))


def flat(policy):
    return policy.reshape(-1, policy.shape[-1])


@eqx.filter_jit
def estimates(simulator, x, policies, tables, keys, trace=1.0):
    """Per key: the follower's V and both gradients under policy 0, and the leader's."""

    def one(key):
        dynamics = simulator.at(x)
        seen = sm.rollout(dynamics, policies, key, streams=16, episodes=4, max_steps=90)
        found = [
            sm.returns(dynamics, seen, player, table, trace=trace)
            for player, table in zip((sm.FOLLOWER, sm.LEADER), tables, strict=True)
        ]
        return [
            (
                jnp.mean(sm.value_samples(dynamics, f)),
                sm.gradient_in_x(simulator, x, f),
                in_logits(policies[0], sm.policy_gradient(dynamics, f)),
            )
            for f in found
        ]

    return jax.vmap(one)(keys)


def misfit(samples, exact):
    """The p-value of Hotelling's test that the samples' mean is ``exact`` (by chi-square)."""
    samples = np.asarray(samples).reshape(len(samples), -1)
    error = samples.mean(0) - np.asarray(exact).ravel()
    covariance = np.cov(samples.T).reshape(error.size, error.size) / len(samples)
    # Gradients in logits sum to zero in a state: those directions have no noise, nor error.
    scale, axes = np.linalg.eigh(covariance)
    noisy = scale > 1e-10 * scale[-1]
    assert np.abs(axes[:, ~noisy].T @ error).max(initial=0) < 1e-10
    statistic = np.sum((axes[:, noisy].T @ error) ** 2 / scale[noisy])
    return chi2.sf(statistic, noisy.sum())


def spread(samples):
    samples = np.asarray(samples).reshape(len(samples), -1)
    return np.sum(samples.var(0, ddof=1))


def exact_terms(problem, x, policy, player):
    value = exact_return(problem, player)
    in_x, in_policy = jax.grad(value, (0, 1))(x, policy)
    return value(x, policy), in_x, in_logits(flat(policy), flat(in_policy))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_estimate_is_unbiased_whatever_the_table_and_whoever_played(name):
    problem, x, own, other = setting(name)
    policies = jnp.stack([flat(own), flat(other)])
    table = jnp.asarray(np.random.default_rng(3).normal(size=policies.shape))
    keys = jax.random.split(jax.random.key(0), RESAMPLES)
    found = estimates(sm.as_simulator(problem), x, policies, table, keys)
    for samples, player in zip(found, (sm.FOLLOWER, sm.LEADER), strict=True):
        for sample, exact in zip(samples, exact_terms(problem, x, own, player), strict=True):
            assert misfit(sample, exact) > 0.01


def test_the_test_of_bias_sees_any_one_term_missing():
    problem, x, own, other = setting("everything moves")
    policies = jnp.stack([flat(own), flat(other)])
    keys = jax.random.split(jax.random.key(0), RESAMPLES)
    table = jnp.asarray(np.random.default_rng(3).normal(size=policies.shape))
    found = estimates(sm.as_simulator(problem), x, policies, table, keys)[0]

    def partial_return(x, policy, held):
        """V with one part of the MDP a constant to derivatives."""
        mdp = problem.lower(x)
        mdp = eqx.tree_at(held, mdp, jax.lax.stop_gradient(held(mdp)))
        return bx.expected_return(mdp, policy)

    for held in (lambda m: m.reward, lambda m: m.transition, lambda m: m.initial):
        wrong = jax.grad(partial_return)(x, own, held)
        assert misfit(found[1], wrong) < 1e-3
    unregularised = lambda p: bx.expected_return(
        eqx.tree_at(lambda m: m.tau, problem.lower(x), jnp.asarray(0.0)), p
    )
    wrong = in_logits(flat(own), flat(jax.grad(unregularised)(own)))
    assert misfit(found[2], wrong) < 1e-3


def test_tables_cut_the_variance_and_leave_the_mean():
    problem, x, own, _ = setting("simultaneous")
    simulator, policies = sm.as_simulator(problem), own[None]
    keys = jax.random.split(jax.random.key(1), RESAMPLES)
    mdp = problem.lower(x)
    reward = problem.upper_reward(x)
    plain = eqx.tree_at(lambda m: (m.reward, m.tau), mdp, (reward, 0.0 * mdp.tau))
    exact = jnp.stack([bx.q_values(mdp, own), bx.q_values(plain, own)])
    without = estimates(simulator, x, policies, 0 * exact, keys)
    with_tables = estimates(simulator, x, policies, exact, keys)
    for bare, helped in zip(without, with_tables, strict=True):
        factors = [spread(b) / spread(h) for b, h in zip(bare, helped, strict=True)]
        # Measured: (the value, the gradient in x, the gradient in the policy) by these factors.
        assert factors[0] > 5 and factors[1] > 5 and factors[2] > 5, factors


def test_a_short_trace_is_unbiased_just_where_the_table_is_exact():
    problem, x, own, _ = setting("simultaneous")
    keys = jax.random.split(jax.random.key(2), RESAMPLES)
    exact = bx.q_values(problem.lower(x), own)
    tables = jnp.stack([exact, jnp.zeros_like(exact)])
    found = estimates(sm.as_simulator(problem), x, own[None], tables, keys, trace=0.0)
    for samples, player, fits in zip(found, (sm.FOLLOWER, sm.LEADER), (True, False), strict=True):
        in_x = exact_terms(problem, x, own, player)[1]
        assert (misfit(samples[1], in_x) > 0.01) == fits
