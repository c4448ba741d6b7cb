"""Hypergradients from averages over visits: by loops, and in the limit of many episodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevax as bx
from bilevax import _rollouts as rollouts
from bilevax.methods import VisitAverages, hpgd

KEY, ORACLE = jax.random.key(0), bx.PolicyIteration()
X = jnp.asarray([0.2, -0.3, 0.5])


class Moving(eqx.Module):
    """Contexts of three states; x moves all that it can, or one field of the MDP alone."""

    regularizer: bx.NegativeEntropy | bx.SquaredNorm = bx.NegativeEntropy()
    tau: float = 0.4
    shares: tuple[float, ...] = (1.0,)
    paid: float = 0.3
    alone: str | None = None

    def lower(self, x):
        everything, name = self._moved(x), self.alone
        if name is None:
            return everything
        field = lambda mdp: getattr(mdp, name)
        return eqx.tree_at(field, self._moved(X), field(everything))

    def _moved(self, x):
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


@pytest.mark.parametrize(("length", "cuts"), [(1000, 0), (9, 1), (7, 2)])
def test_a_step_is_the_formula_by_loops_over_the_visits(length, cuts, monkeypatch):
    played = []
    rollout = rollouts.rollout
    monkeypatch.setattr(rollouts, "rollout", lambda *a: played.append(rollout(*a)) or played[0])
    problem = Moving(shares=(0.6, 1.4), paid=0.0, alone="reward")
    averages = VisitAverages(12, 6, 2 * length, streams=2)

    @eqx.filter_jit
    def step():
        mdp, gain = problem.lower(X), jnp.reshape(problem.upper_reward(X), (6, 2))
        slope = jax.jacobian(lambda x: problem.lower(x).reward)(X).reshape(6, 2, 3)
        found = averages.hypergradient(
            problem.lower, problem.upper_reward, X, bx.best_responses(mdp), KEY
        )
        return found, played, mdp.discount, mdp.tau, gain, slope

    (upper, found), (seen,), discount, tau, gain, slope = jax.tree.map(np.asarray, step())
    episodes, whole, filled, used = [], 0, 0, 0
    for m in range(12):
        alive = int(np.sum(seen.weight[:, m] > 0))
        kept = min(alive, length - used)
        used += kept
        if filled < 2:
            whole += kept == alive
            episodes.append([(int(seen.state[t, m]), int(seen.action[t, m])) for t in range(kept)])
        if used == length:
            filled, used = filled + 1, 0
    assert len(episodes) - whole == cuts
    counted, earned, moved = {}, {}, {}
    for episode in episodes:
        gains, slopes = 0.0, np.zeros(3)
        for t, pair in reversed(list(enumerate(episode))):
            gains, slopes = gain[pair] + discount * gains, slope[pair] + discount * slopes
            counted[pair] = counted.get(pair, 0) + discount**t * 2.0 / whole
            earned.setdefault(pair, []).append(gains)
            moved.setdefault(pair, []).append(slopes)

    def advantage(followed, pair):
        there = [z for (s, _), returns in followed.items() if s == pair[0] for z in returns]
        return np.mean(followed[pair], axis=0) - np.mean(there, axis=0)

    terms = [counted[p] * advantage(earned, p) * advantage(moved, p) for p in counted]
    expected = -np.sum(terms, axis=0) / tau
    assert np.max(np.abs(expected)) > 0.01
    np.testing.assert_allclose(upper, -sum(counted[p] * gain[p] for p in counted), rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "relative"),
    [
        (Moving(alone="reward", paid=0.0), 0.05),
        (Moving(alone="transition"), 0.05),
        (Moving(alone="initial"), 0.05),
        (Moving(alone="discount"), 0.05),
        (Moving(alone="tau"), 0.05),
        (Moving(bx.SquaredNorm(), 2.0), 0.05),
        (Moving(bx.SquaredNorm(), 0.4), 0.05),
    ],
)
def test_with_many_episodes_they_give_the_hypergradient(problem, relative):
    expected = exact(problem)
    averages = VisitAverages(20_000, 40, 10**6)
    found = estimated(problem, averages, 4).mean(0)
    np.testing.assert_allclose(found, expected, atol=relative * np.max(np.abs(expected)))


@pytest.mark.slow
def test_a_step_sees_one_context_drawn_by_its_mass():
    found = estimated(Moving(shares=(0.3, 0.7)), VisitAverages(4000, 40, 10**6), 40)
    alone = [exact(Moving(shares=shares)) for shares in ((1.0, 0.0), (0.0, 1.0))]
    size = np.linalg.norm(alone[1] - alone[0])
    first, second = (np.linalg.norm(found - own, axis=1) < 0.25 * size for own in alone)
    assert np.all(first ^ second) and 20 <= second.sum() <= 36


def test_a_state_in_which_one_action_alone_was_tried_teaches_nothing():
    problem = Moving(paid=0.0, alone="reward")
    assert np.all(estimated(problem, VisitAverages(1, 1), 1) == 0)
    assert np.all(np.abs(estimated(problem, VisitAverages(1000, 60), 1)) > 0.001)
