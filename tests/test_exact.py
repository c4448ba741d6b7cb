"""Gradients (M8), (M9) and that of F against differences of an independent implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp as reference
import optax
import pytest

import bilevax as bx

ORACLE = bx.PolicyIteration(tol=1e-14)
UNIFORM_WEIGHT = 0.3
KEY = jax.random.key(0)


class Mixture(bx.AbstractPenalty):
    """A weighted sum of all penalties, so that each can be had from one compiled function."""

    weights: jax.Array

    def of_player(self, mdp, evaluation, response):
        parts = (bx.NikaidoIsoda(), bx.NikaidoIsoda(UNIFORM_WEIGHT), bx.BellmanPenalty())
        each = [p.of_player(mdp, evaluation, response) for p in parts]
        return jax.tree.map(lambda *z: jnp.tensordot(self.weights, jnp.stack(z), 1), *each)


class Case:
    """A problem at a point, with f once more in NumPy: ``upper(x, tables, policies)``."""

    def __init__(self, problem, x, rng, upper):
        self.x, self.upper = jnp.asarray(x), upper
        self.lower = jax.jit(lambda x: problem.lower(x))
        players = reference.players(self.lower(self.x))
        noise = [jnp.asarray(rng.normal(size=mdp.reward.shape)) for mdp in players]
        self.masks = [np.broadcast_to(_mask(mdp), mdp.reward.shape) for mdp in players]
        logits = [jnp.where(m, z, -jnp.inf) for m, z in zip(self.masks, noise, strict=True)]
        self.single = len(players) == 1
        self.policy = self.tree([jax.nn.softmax(z, axis=-1) for z in logits])
        estimator = bx.Exact(problem)
        self.estimator = estimator
        self.memory = jax.jit(lambda x: estimator.init(ORACLE, x, KEY))(self.x)[1]

        @jax.jit
        def penalised(x, policy, weight, shares, memory):
            memory = estimator.respond(ORACLE, x, policy, memory, KEY)
            return estimator.penalised_gradient(Mixture(shares), x, policy, weight, memory, KEY)

        @jax.jit
        def hypergradient(x, memory):
            return estimator.hypergradient(ORACLE, x, memory, KEY)

        self.penalised, self.hypergradient = penalised, hypergradient

    def tree(self, leaves):
        return leaves[0] if self.single else tuple(leaves)

    def split(self, flat):
        """The policies of a vector, as a list of one array per player."""
        sizes = np.cumsum([mask.size for mask in self.masks])[:-1]
        parts = np.split(flat, sizes)
        return [p.reshape(mask.shape) for p, mask in zip(parts, self.masks, strict=True)]

    def tables(self, x):
        return reference.tables(self.lower(jnp.asarray(x)))

    def f_and_penalties(self, x, policies):
        """[f, value penalty, the same with uniform weight, Bellman penalty] by definition."""
        tables = self.tables(x)
        policies = [p for policy in policies for p in reference.rows(policy)]
        penalties = np.zeros(3)
        for table, policy in zip(tables, policies, strict=True):
            best, _ = reference.optimum(table)
            loss = best - reference.values(table, policy)
            q = reference.backup(table, best)
            current = np.sum(policy * q, -1) - table.tau * reference.regularizer(table, policy)
            even = np.full(len(best), table.initial.sum() / len(best))
            share = UNIFORM_WEIGHT
            penalties += [
                table.initial @ loss,
                ((1 - share) * table.initial + share * even) @ loss,
                even @ (best - current),
            ]
        return np.array([self.upper(np.asarray(x), tables, policies), *penalties])

    def best_value(self, x):
        """F(x) by definition."""
        tables = self.tables(x)
        return self.upper(np.asarray(x), tables, [reference.optimum(t)[1] for t in tables])


def _mask(mdp):
    return np.ones(mdp.reward.shape, bool) if mdp.available is None else np.asarray(mdp.available)


def _stackelberg(rng, make, regularizer, parameterization, x):
    states, leads, follows = 3, 2, 3
    kernel = rng.dirichlet(np.ones(states), (states, leads, follows))
    leader, follower = rng.normal(size=(2, states, leads, follows))
    start = rng.dirichlet(np.ones(states))
    game = make(
        leader,
        follower,
        kernel,
        discount=0.9,
        tau=0.3,
        initial=start,
        regularizer=regularizer,
        parameterization=parameterization,
    )

    def upper(x, tables, policies):
        weight = x
        if isinstance(parameterization, bx.Softmax):
            weight = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        reward = leader.reshape(-1, follows)
        if not game.sees_action:
            reward = np.einsum("sl,sla->sa", weight, leader)
        return -tables[0].initial @ reference.values(tables[0], policies[0], reward)

    return Case(game, x, rng, upper)


def simultaneous(rng):
    x = rng.normal(size=(3, 2))
    return _stackelberg(rng, bx.StackelbergGame.simultaneous, bx.NegativeEntropy(), bx.Softmax(), x)


def sequential(rng):
    x = rng.dirichlet(np.ones(2), 3)
    return _stackelberg(rng, bx.StackelbergGame.sequential, bx.SquaredNorm(), bx.Simplex(), x)


def _general(rng, lower, x):
    """A problem whose f uses returns, occupancies and values of every player, and x itself."""
    players = reference.players(jax.jit(lower)(jnp.asarray(x)))
    rewards = [jnp.asarray(rng.normal(size=mdp.reward.shape)) for mdp in players]

    def upper(x, policy, evaluation):
        evaluations = evaluation if isinstance(evaluation, tuple) else (evaluation,)
        total = jnp.sum(x**2)
        for e, reward in zip(evaluations, rewards, strict=True):
            total += jnp.sum(e.occupancy**2) + jnp.sum(e.values()) - e.expected_return(reward)
        return total

    def table_upper(x, tables, policies):
        total = np.sum(x**2)
        by_table = [row for reward in rewards for row in reference.rows(reward)]
        for table, policy, reward in zip(tables, policies, by_table, strict=True):
            d = reference.occupancy(table, policy)
            total += np.sum(d**2) + np.sum(reference.values(table, policy))
            total -= np.sum(d[:, None] * policy * reward)
        return total

    return Case(bx.BilevelProblem(upper, lower), x, rng, table_upper)


def followers(rng):
    """Two groups of followers, each a stack of two contexts: everything a lower level may hold.

    The first lives on one graph that ends by itself (discount 1), with x in r, P and rho. The
    second is dense, with the squared norm, and each context has its own discount, tau and mask.
    """
    graph = rng.integers(0, 3, (3, 3, 2))
    base, dense = rng.normal(size=(2, 2, 3, 3))
    slope = rng.normal(size=(6, 2, 3, 3))
    kernels = rng.dirichlet(np.ones(3), (2, 2, 3, 3))
    shared = np.array([[True, True, False], [True, True, True], [False, True, False]])
    own = rng.random((2, 3, 3)) < 0.7
    own[..., 0] = True

    def lower(x):
        moved = base + jnp.tensordot(x, jnp.asarray(slope), 1)
        odds = jnp.stack([moved, -moved[::-1]], axis=-1)
        share = jax.nn.sigmoid(x[0])
        return (
            bx.MDP(
                moved,
                bx.SuccessorList(graph, 0.9 * jax.nn.softmax(odds, axis=-1)),
                discount=1.0,
                tau=0.5,
                initial=jnp.exp(x.reshape(2, 3)),  # a measure whose mass moves too
                available=shared,
            ),
            bx.MDP(
                dense + x.reshape(2, 3)[:, :, None] * jnp.asarray(dense) ** 2,
                bx.DenseTransition(share * kernels[0] + (1 - share) * kernels[1]),
                discount=jnp.array([0.9, 0.5]),
                tau=jnp.array([0.4, 2.0]),
                regularizer=bx.SquaredNorm(),
                available=own,
            ),
        )

    return _general(rng, lower, 0.3 * rng.normal(size=6))


CASES = (simultaneous, sequential, followers)


@pytest.fixture(scope="module", params=CASES, ids=lambda make: make.__name__)
def case(request):
    return request.param(np.random.default_rng(7))


def test_gradients_of_f_and_of_every_penalty_match_differences_in_x_and_policy(case):
    policies = [np.asarray(leaf) for leaf in jax.tree.leaves(case.policy)]
    flat = np.concatenate([p.ravel() for p in policies])
    x = np.asarray(case.x)
    in_x = reference.central_jacobian(lambda x: case.f_and_penalties(x, policies), x)
    in_policy = reference.central_jacobian(
        lambda y: case.f_and_penalties(x, case.split(y)),
        flat,
        among=np.flatnonzero(np.concatenate([mask.ravel() for mask in case.masks])),
    )
    values = case.f_and_penalties(x, policies)
    f = case.penalised(case.x, case.policy, jnp.asarray(0.0), jnp.zeros(3), case.memory)
    for k in range(3):
        shares = jnp.zeros(3).at[k].set(1.0)
        weight = jnp.asarray(1.0)
        terms, gradient, _ = case.penalised(case.x, case.policy, weight, shares, case.memory)
        np.testing.assert_allclose(terms.upper, values[0], rtol=1e-11)
        np.testing.assert_allclose(terms.penalty, values[1 + k], rtol=1e-9)
        assert bool(terms.converged)
        penalty = jax.tree.map(jnp.subtract, gradient, f[1])
        for exact, row in ((f[1], 0), (penalty, 1 + k)):
            assert _error(exact[0], in_x[row]) < 1e-6
            assert _error(_flat(exact[1]), in_policy[row]) < 1e-6


def test_the_step_in_logits_descends_the_gradient_in_logits(case):
    shares, weight = jnp.asarray([1.0, 0.5, 2.0]), jnp.asarray(3.0)
    gradient = lambda policy, memory: case.penalised(case.x, policy, weight, shares, memory)
    update = bx.SoftmaxLogits(optax.sgd(1.0))
    state = update.init(case.x, case.policy)
    moved = update(case.estimator, gradient, case.x, case.policy, case.memory, state)
    logits, _ = moved.state
    moves = jax.tree.map(lambda old, new: old - new, state[0], logits)
    available = np.concatenate([mask.ravel() for mask in case.masks])

    def objective(z):
        policies = []
        for part, mask in zip(case.split(z), case.masks, strict=True):
            odds = np.where(mask, np.exp(part), 0)
            policies.append(odds / odds.sum(-1, keepdims=True))
        f, *penalties = case.f_and_penalties(np.asarray(case.x), policies)
        return np.atleast_1d(f + weight * (shares @ np.array(penalties)))

    start = np.where(available, _flat(state[0]), 0)
    expected = reference.central_jacobian(objective, start, among=np.flatnonzero(available))[0]
    assert _error(np.where(available, _flat(moves), np.nan), expected) < 1e-6
    _, (in_x, _), _ = gradient(case.policy, case.memory)
    moved_x = jax.tree.map(jnp.subtract, case.x, in_x)
    in_x = jax.tree.map(jnp.subtract, case.x, case.estimator.project(moved_x))
    size = np.hypot(np.nansum(expected**2) ** 0.5, _norm(in_x))
    np.testing.assert_allclose(moved.norm, size)


@pytest.mark.slow
def test_the_hypergradient_matches_differences_of_the_lower_level_solved_anew(case):
    terms, gradient, policy, _ = case.hypergradient(case.x, case.memory)
    expected = reference.central_jacobian(
        lambda x: np.atleast_1d(case.best_value(x)), np.asarray(case.x)
    )[0]
    np.testing.assert_allclose(terms.upper, case.best_value(case.x), rtol=1e-11)
    assert _error(gradient, expected) < 1e-6
    optimal = np.concatenate([reference.optimum(t)[1].ravel() for t in case.tables(case.x)])
    np.testing.assert_allclose(_flat(policy), optimal, atol=1e-11)


@pytest.mark.slow
def test_warm_starts_from_a_far_point_do_not_change_a_gradient(case):
    shares, weight = jnp.asarray([1.0, 0.5, 2.0]), jnp.asarray(3.0)
    uniform = jax.tree.map(lambda p: (p > 0) / jnp.sum(p > 0, -1, keepdims=True), case.policy)
    *_, far = case.penalised(case.x + 0.5, uniform, weight, shares, case.memory)
    cold = case.penalised(case.x, case.policy, weight, shares, case.memory)[1]
    warm = case.penalised(case.x, case.policy, weight, shares, far)[1]
    np.testing.assert_allclose(_flat(warm), _flat(cold), rtol=1e-9, atol=1e-10)
    *_, far = case.hypergradient(case.x + 0.5, case.memory)
    cold = case.hypergradient(case.x, case.memory)[1]
    warm = case.hypergradient(case.x, far)[1]
    np.testing.assert_allclose(warm, cold, rtol=1e-9, atol=1e-10)


def test_independent_gradients_ignore_the_other_level():
    case = simultaneous(np.random.default_rng(3))
    gradient = jax.jit(
        lambda x, policy: case.estimator.independent_gradient(x, policy, case.memory, KEY)
    )
    terms, (in_x, in_policy), _ = gradient(case.x, case.policy)
    x, policy = np.asarray(case.x), np.asarray(case.policy)
    by_x = reference.central_jacobian(lambda x: case.f_and_penalties(x, [policy])[:1], x)[0]
    by_policy = reference.central_jacobian(lambda y: case.f_and_penalties(x, [y])[1:2], policy)[0]
    assert _error(in_x, by_x) < 1e-6
    assert _error(in_policy, by_policy) < 1e-6
    assert np.isnan(terms.penalty)


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _norm(tree):
    return np.linalg.norm(_flat(tree))


def _error(gradient, expected):
    """The norm-wise relative error over the entries that differences were taken of."""
    gradient, expected = np.ravel(gradient), np.ravel(expected)
    known = np.isfinite(expected)
    return np.linalg.norm((gradient - expected)[known]) / np.linalg.norm(expected[known])
