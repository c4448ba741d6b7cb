"""Hypergradients from averages over visits: by loops, and in the limit of many episodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevax as bx
from bilevax import _rollouts as rollouts
from bilevax._episodes import rollout, tables
from bilevax.methods import VisitAverages, hpgd

KEY, ORACLE = jax.random.key(0), bx.PolicyIteration()


class Moving(eqx.Module):
    """Contexts of three states; x moves all that it can, and an action is masked."""

    regularizer: bx.NegativeEntropy | bx.SquaredNorm = bx.NegativeEntropy()
    tau: float = 0.4
    shares: tuple[float, ...] = (1.0,)
    paid: float = 0.3

    def lower(self, x):
        rng, contexts = np.random.default_rng(3), len(self.shares)
        kernel = jnp.asarray(rng.dirichlet(np.ones(3), (contexts, 3, 2)))
        return bx.MDP(
            jnp.tanh(x)[:, None] * jnp.asarray(rng.normal(size=(contexts, 3, 2))),
            bx.DenseTransition(0.8 * jax.nn.sigmoid(x + 1)[:, None, None] * kernel),
            discount=0.9 * jax.nn.sigmoid(x[0] + 1),
            initial=jax.nn.softmax(x) * jnp.asarray(self.shares)[:, None],
            tau=self.tau * jnp.exp(x[1]),
            regularizer=self.regularizer,
            available=jnp.asarray([[False, True], [True, True], [True, True]]),
        )

    def upper_reward(self, x):
        rng = np.random.default_rng(4)
        gains = jnp.asarray(rng.normal(size=(len(self.shares), 3, 2)))
        return gains + self.paid * x[:, None] ** 2

    def upper(self, x, policy, evaluation):
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x):
        return x


X = jnp.asarray([0.2, -0.3, 0.5])


def exact(problem):
    estimator = bx.Exact(problem)
    memory = estimator.init(ORACLE, X, KEY)[1]
    return eqx.filter_jit(estimator.hypergradient)(ORACLE, X, memory, KEY)[1]


def estimated(problem, averages, seeds):
    """What a whole step takes from x, for each seed."""
    solver, estimator = hpgd(optax.sgd(1.0), rollouts=averages), bx.Exact(problem)

    def one(key):
        return X - solver.step(estimator, solver.init(estimator, X, None, key)).x

    return np.asarray(jax.jit(lambda k: jax.lax.map(one, k))(jax.random.split(KEY, seeds)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regularizer", "tau"), [(bx.NegativeEntropy(), 0.4), (bx.SquaredNorm(), 2)]
)
def test_with_many_episodes_they_give_the_hypergradient(regularizer, tau):
    problem = Moving(regularizer, tau)
    expected = exact(problem)
    assert (np.abs(expected) > 0.01).all()

    def error(episodes):
        found = estimated(problem, VisitAverages(episodes, 40), 4)
        return np.max(np.abs(found.mean(0) - expected))

    # With 64 times as many episodes noise falls by eight, and what bias there is by more.
    assert error(16_000) < min(0.25 * error(250), 0.03 * np.max(np.abs(expected)))


@pytest.mark.slow
def test_a_step_sees_one_context_drawn_by_its_mass():
    found = estimated(Moving(shares=(0.3, 0.7)), VisitAverages(4000, 40), 40)
    alone = [exact(Moving(shares=shares)) for shares in ((1.0, 0.0), (0.0, 1.0))]
    size = np.linalg.norm(alone[1] - alone[0])
    first, second = (np.linalg.norm(found - own, axis=1) < 0.25 * size for own in alone)
    assert np.all(first ^ second) and 20 <= second.sum() <= 36


def test_steps_carry_the_weights_of_the_differences_of_averages():
    mdp = jax.lax.stop_gradient(Moving(shares=(0.4, 0.6)).lower(X))
    known = tables(mdp)
    policy = bx.best_responses(mdp).policy.reshape(known.reward.shape)
    start = jnp.asarray([0, 1, 2, 3, 4, 5, 1, 4])
    seen = rollout(known, policy, start, jnp.ones_like(start), KEY, 30)
    rng = np.random.default_rng(0)
    weight, reward = rng.normal(size=(2, *policy.shape))
    visits = rollouts._Visits(known, seen)
    weight = np.where(visits.pairs > 0, weight, 0)
    carried = rollouts._carried(known, seen, visits.shared(jnp.asarray(weight)))
    found = jnp.sum(carried * reward[seen.state, seen.action])

    followed = {}  # by pair, the discounted rewards that followed each of its visits
    for m in range(start.size):
        alive = int(np.sum(seen.weight[:, m] > 0))
        total = 0.0
        for t in reversed(range(alive)):
            s, a = int(seen.state[t, m]), int(seen.action[t, m])
            total = reward[s, a] + float(known.discount[s]) * total
            followed.setdefault((s, a), []).append(total)
    expected = 0.0
    for (s, a), own in followed.items():
        there = [r for (other, _), returns in followed.items() if other == s for r in returns]
        expected += weight[s, a] * (np.mean(own) - np.mean(there))
    assert len(followed) > 6 and abs(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-12)


class Charged(Moving):
    """x moves the follower's reward alone."""

    paid: float = 0.0

    def lower(self, x):
        return eqx.tree_at(lambda m: m.reward, Moving().lower(X), Moving().lower(x).reward)


def test_a_state_in_which_one_action_alone_was_tried_teaches_nothing():
    assert np.all(estimated(Charged(), VisitAverages(1, 1), 1) == 0)
    assert np.all(np.abs(estimated(Charged(), VisitAverages(1000, 60), 1)) > 0.001)
