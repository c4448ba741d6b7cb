"""Games: induced MDPs against their definition, and gradients against differences of it."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_game
import numpy_mdp as reference
import optax
import pytest
from scipy.special import softmax

import bilevax as bx

S, A1, A2 = 3, 2, 3
TAU, DISCOUNT = 0.4, 0.8
KEY = jax.random.key(0)
ORACLE = bx.PolicyIteration(tol=1e-14)
MASKS = (
    np.array([[1, 1], [1, 0], [1, 1]], bool),
    np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1]], bool),
)


class Designer(eqx.Module):
    """x moves the reward, the kernel and the start; f is anything but linear in the policies."""

    reward: jax.Array
    kernels: jax.Array
    gain: jax.Array
    lists: bool = eqx.field(static=True, default=False)

    def lower(self, x):
        share = jax.nn.sigmoid(x[0, 0, 0])
        kernel = share * self.kernels[0] + (1 - share) * self.kernels[1]
        transition = kernel
        if self.lists:
            everywhere = jnp.broadcast_to(jnp.arange(S), (S, A1 * A2, S))
            transition = bx.SuccessorList(everywhere, kernel.reshape(S, A1 * A2, S))
        return bx.ZeroSumGame(
            self.reward + x,
            transition,
            discount=DISCOUNT,
            initial=jnp.exp(0.1 * x[:, 0, 0]),
            tau=TAU,
            available=MASKS,
        )

    def upper(self, x, policy, evaluation):
        d = evaluation[0].occupancy
        joint = policy[0][:, :, None] * policy[1][:, None, :]
        spread = jnp.sum(d**2) + jnp.sum(evaluation[1].occupancy ** 2)
        return spread - jnp.sum(d[:, None, None] * joint * self.gain) + jnp.sum(x**2)

    def project(self, x):
        return x


def designer(lists=False):
    rng = np.random.default_rng(5)
    kernels = 0.95 * rng.dirichlet(np.ones(S), (2, S, A1, A2))
    reward, gain = rng.normal(size=(2, S, A1, A2))
    return Designer(jnp.asarray(reward), jnp.asarray(kernels), jnp.asarray(gain), lists)


PROBLEM = designer()
X = jnp.asarray(0.3 * np.random.default_rng(6).normal(size=(S, A1, A2)))


def table(x):
    """The same game in NumPy."""
    share = 1 / (1 + np.exp(-x[0, 0, 0]))
    kernels = np.asarray(PROBLEM.kernels)
    return numpy_game.Game(
        np.asarray(PROBLEM.reward) + x,
        share * kernels[0] + (1 - share) * kernels[1],
        DISCOUNT,
        np.exp(0.1 * x[:, 0, 0]),
        TAU,
        MASKS,
    )


def upper(x, p, q):
    """f by definition."""
    d = numpy_game.occupancy(table(x), p, q)
    gain = np.einsum("s,si,sj,sij->", d, p, q, np.asarray(PROBLEM.gain))
    return 2 * np.sum(d**2) - gain + np.sum(x**2)


def policies(seed=8):
    rng = np.random.default_rng(seed)
    return tuple(softmax(np.where(m, rng.normal(size=m.shape), -np.inf), -1) for m in MASKS)


@pytest.fixture(scope="module")
def penalised():
    estimator = bx.Exact(PROBLEM)

    @jax.jit
    def gradient(x, policy, weight):
        _, memory = estimator.init(ORACLE, x, KEY)
        memory = estimator.respond(ORACLE, x, policy, memory, KEY)
        terms, gradient, _ = estimator.penalised_gradient(
            bx.NikaidoIsoda(), x, policy, weight, memory, KEY
        )
        return terms, gradient

    return gradient


# What the players face


def test_each_player_faces_the_game_with_the_other_averaged_out():
    p, q = policies()
    game = table(np.asarray(X))
    for mdp, player, own, other in zip(
        PROBLEM.lower(X).induced_mdps((jnp.asarray(p), jnp.asarray(q))),
        (0, 1),
        (p, q),
        (q, p),
        strict=True,
    ):
        (ours,) = reference.tables(mdp)
        theirs = numpy_game.against(game, other, player)
        for name in ("reward", "kernel", "initial", "available"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-13)
        sign = 1 - 2 * player
        np.testing.assert_allclose(
            sign * reference.values(ours, own), numpy_game.joint_values(game, p, q), rtol=1e-12
        )


def test_successor_lists_and_arrays_induce_the_same_mdps():
    policy = tuple(map(jnp.asarray, policies()))
    dense = PROBLEM.lower(X).induced_mdps(policy)
    sparse = designer(lists=True).lower(X).induced_mdps(policy)
    for a, b in zip(reference.tables(dense), reference.tables(sparse), strict=True):
        np.testing.assert_allclose(a.kernel, b.kernel, rtol=1e-13)
        np.testing.assert_allclose(a.reward, b.reward, rtol=1e-13)


def test_players_of_a_general_game_face_the_average_over_all_joint_actions():
    rng = np.random.default_rng(3)
    shape = (2, 2, 3, 2)  # states, and three players' actions
    rewards, kernel = rng.normal(size=(3, *shape)), rng.dirichlet(np.ones(2), shape)
    game = bx.MarkovGame(rewards, kernel, discount=0.5, tau=[0.1, 0.2, 0.3])
    policy = [rng.dirichlet(np.ones(a), 2) for a in shape[1:]]
    mdps = game.induced_mdps(tuple(map(jnp.asarray, policy)))
    for player, mdp in enumerate(mdps):
        reward, chain = np.zeros((2, shape[player + 1])), np.zeros((2, shape[player + 1], 2))
        for s, *actions in np.ndindex(*shape):
            weight = np.prod([policy[i][s, a] for i, a in enumerate(actions) if i != player])
            place = (s, *actions)
            reward[s, actions[player]] += weight * rewards[player][place]
            chain[s, actions[player]] += weight * kernel[place]
        (ours,) = reference.tables(mdp)
        np.testing.assert_allclose(ours.reward, reward, rtol=1e-12)
        np.testing.assert_allclose(ours.kernel, chain, rtol=1e-12)
        assert ours.tau == pytest.approx(0.1 * (player + 1))


# Gradients (M13)


@pytest.mark.slow
def test_the_gap_and_its_gradients_match_differences_in_x_and_both_policies(penalised):
    p, q = policies()
    x, flat = np.asarray(X), np.concatenate([np.log(p[MASKS[0]]), np.log(q[MASKS[1]])])

    def at(x, logits):
        """[f, psi] at logits of the actions that exist."""
        z, w = (np.full(m.shape, -np.inf) for m in MASKS)
        z[MASKS[0]], w[MASKS[1]] = np.split(logits, [MASKS[0].sum()])
        p, q = softmax(z, -1), softmax(w, -1)
        return np.array([upper(x, p, q), numpy_game.duality_gap(table(x), p, q)])

    in_x = reference.central_jacobian(lambda x: at(x, flat), x)
    in_logits = reference.central_jacobian(lambda z: at(x, z), flat)
    policy = (jnp.asarray(p), jnp.asarray(q))
    f, with_f = (penalised(X, policy, jnp.asarray(w)) for w in (0.0, 1.0))
    np.testing.assert_allclose([with_f[0].upper, with_f[0].penalty], at(x, flat), rtol=1e-9)
    psi = jax.tree.map(jnp.subtract, with_f[1], f[1])
    for (by_x, by_policy), row in ((f[1], 0), (psi, 1)):
        assert _error(by_x, in_x[row]) < 1e-6
        chained = [
            (pi * (g - np.sum(pi * g, -1, keepdims=True)))[mask]
            for pi, g, mask in zip((p, q), map(np.asarray, by_policy), MASKS, strict=True)
        ]
        assert _error(np.concatenate(chained), in_logits[row]) < 1e-6


@pytest.mark.slow
def test_the_hypergradient_matches_differences_of_the_equilibrium_solved_anew():
    estimator = bx.Exact(PROBLEM)

    @jax.jit
    def hypergradient(x):
        _, memory = estimator.init(ORACLE, x, KEY)
        return estimator.hypergradient(ORACLE, x, memory, KEY)[:3]

    def best(x):
        _, p, q = numpy_game.equilibrium(table(x))
        return np.atleast_1d(upper(x, p, q))

    terms, gradient, policy = hypergradient(X)
    _, p, q = numpy_game.equilibrium(table(np.asarray(X)))
    np.testing.assert_allclose(policy[0], p, atol=1e-9)
    np.testing.assert_allclose(policy[1], q, atol=1e-9)
    np.testing.assert_allclose(terms.upper, best(np.asarray(X))[0], rtol=1e-9)
    among = np.array([0, 1, 4, 8, 12, 17])  # x[0, 0, 0] moves the kernel and the start as well
    expected = reference.central_jacobian(best, np.asarray(X), step=1e-3, among=among)[0]
    assert _error(gradient, expected) < 1e-6


# Solving


def test_the_certificate_sees_that_a_row_of_the_opponents_policy_is_short():
    # With the row taken as it is, play would end a little at every step, and hide the gap.
    payoff = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    game = bx.ZeroSumGame(payoff, np.full((2, 2, 2, 2), 0.5), discount=0.99, tau=0.1)
    p, q = jnp.full((2, 2), 0.5), jnp.asarray([[0.5, 0.5 - 1e-8], [0.5, 0.5]])
    gap = lambda q: bx.duality_gap(game.induced_mdps((p, q)), (p, q)).absolute
    exact = gap(q / jnp.sum(q, axis=-1, keepdims=True))
    np.testing.assert_allclose(gap(q), exact, rtol=1e-6, atol=1e-12)


def test_float32_reaches_an_equilibrium_to_its_own_rounding():
    game = bx.ZeroSumGame(
        np.eye(2, dtype=np.float32)[None],
        np.full((1, 2, 2, 1), 0.5, np.float32),
        discount=0.5,
        tau=0.1,
    )
    found = bx.solve_game(game, bx.ShapleyNewton())
    assert found.converged and found.values.dtype == jnp.float32
    np.testing.assert_allclose(found.values, 2 / 3, rtol=1e-5)


@pytest.mark.slow
def test_a_tuple_of_a_game_and_an_mdp_is_two_lower_levels():
    base = designer()
    alone = bx.MDP(np.eye(2), np.full((2, 2, 2), 0.5), discount=0.5, tau=0.3)
    richer = lambda x: eqx.tree_at(lambda m: m.reward, alone, alone.reward + x[0, 0, 0])
    problem = bx.BilevelProblem(
        lambda x, policy, e: base.upper(x, policy[0], e[0]) + e[1].occupancy[0],
        lambda x: (base.lower(x), richer(x)),
    )
    solver = bx.PBRL(penalty_weight=bx.Homotopy(10.0, 1e4, 100))
    solution = bx.solve(problem, solver, X, max_steps=120)
    assert solution.result == bx.RESULTS.successful and solution.gap < 1e-3


@pytest.mark.slow
def test_the_natural_step_converges_quadratically_to_an_equilibrium():
    problem = bx.BilevelProblem(lambda x, policy, e: 0 * jnp.sum(x), PROBLEM.lower)
    solver = bx.PBRL(update=bx.Alternating(optax.sgd(0.0)), penalty_weight=1.0)
    gaps = []
    step = eqx.filter_jit(lambda state: solver.step(bx.Exact(problem), state))
    policy = tuple(map(jnp.asarray, policies()))
    state = solver.init(bx.Exact(problem), X, policy, KEY)
    for _ in range(8):
        state = step(state)
        p, q = map(np.asarray, state.policy)
        gaps.append(numpy_game.duality_gap(table(np.asarray(X)), p, q))
    assert gaps[-1] < 1e-12
    # Quadratic in the policy, whose square the gap is: its logarithm doubles.
    pairs = [(a, b) for a, b in itertools.pairwise(gaps) if 1e-7 < a < 1e-2]
    assert pairs and all(b < 30 * a**1.8 for a, b in pairs)


@pytest.mark.slow
def test_pbrl_ends_at_a_certified_equilibrium_and_no_worse_than_the_implicit_gradient():
    solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 200))
    solution = bx.solve(PROBLEM, solver, X, max_steps=250)
    exact = bx.solve(PROBLEM, bx.ImplicitGradient(), X, max_steps=250)
    assert solution.result == bx.RESULTS.successful
    p, q = map(np.asarray, solution.policy)
    true = numpy_game.duality_gap(table(np.asarray(solution.x)), p, q)
    assert true <= solution.gap < 1e-5
    _, p, q = numpy_game.equilibrium(table(np.asarray(solution.x)))
    np.testing.assert_allclose(
        solution.best_response_value, upper(np.asarray(solution.x), p, q), rtol=1e-7
    )
    assert solution.best_response_value <= exact.best_response_value + 1e-3


@pytest.mark.slow
def test_a_general_game_away_from_equilibrium_is_infeasible_and_has_no_f_of_x():
    rng = np.random.default_rng(1)
    rewards, kernel = rng.normal(size=(2, S, A1, A2)), rng.dirichlet(np.ones(S), (S, A1, A2))
    problem = bx.BilevelProblem(
        lambda x, policy, e: jnp.sum((x - 1) ** 2) - e[0].expected_return(),
        lambda x: bx.MarkovGame(rewards * x, kernel, discount=0.5, tau=0.1),
    )
    solver = bx.PBRL(update=bx.SoftmaxLogits(optax.adam(0.1)), penalty_weight=10.0)
    short = bx.solve(problem, solver, jnp.asarray(1.0), max_steps=2)
    assert short.result == bx.RESULTS.infeasible
    assert np.isnan(short.best_response_value)
    long = bx.solve(problem, solver, jnp.asarray(1.0), max_steps=600, gap_tol=0.1)
    assert long.result == bx.RESULTS.successful
    for wrong, message in (
        (bx.PBRL(), "Alternating: the policies' step has no curvature .* a game of n players"),
        (bx.ImplicitGradient(), "hypergradient: the lower level is a MarkovGame"),
    ):
        with pytest.raises(ValueError, match=message):
            bx.solve(problem, wrong, jnp.asarray(1.0), max_steps=2)


def test_the_bellman_penalty_on_a_game_is_refused():
    with pytest.raises(ValueError, match="BellmanPenalty: the lower level is a game"):
        bx.solve(PROBLEM, bx.PBRL(penalty=bx.BellmanPenalty()), X, max_steps=2)


# What is refused


def good() -> dict[str, Any]:
    return dict(
        reward=np.zeros((S, A1, A2)), transition=np.full((S, A1, A2, S), 1 / S), discount=0.9
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reward=np.zeros((S, A1))), r"reward has shape \(3, 2\); give \[S, actions of player"),
        (dict(reward=np.zeros((S, 0, A2))), "player 1 has no action"),
        (
            dict(reward=np.full((S, A1, A2), [[0.0] * A2, [np.nan] * A2])),
            r"reward\[0, 1, 0\] is nan",
        ),
        (
            dict(transition=np.full((S, A1, S), 1 / S)),
            r"transition has shape \(3, 2, 3\); with thi",
        ),
        (
            dict(transition=np.full((S, A1, A2, S), 0.5)),
            r"ZeroSumGame: .* of transition\[0, 0, 0\] sum to 1.5",
        ),
        (dict(discount=1.0), r"discount is 1.0; it must lie in \[0, 1\)"),
        (dict(tau=-1.0), "tau is -1.0; it must be finite and at least 0"),
        (dict(initial=np.ones(S + 1)), r"initial has shape \(4,\)"),
        (dict(available=(None,)), "available has 1 entries; give one for each of the 2 players"),
        (dict(available=(np.ones((S, A2), bool), None)), r"available\[0\] has shape \(3, 3\)"),
        (dict(available=(None, np.eye(S, dtype=bool) & False)), r"available\[1\] has no action in"),
    ],
)
def test_a_wrong_game_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        bx.ZeroSumGame(**good() | change)


def test_a_general_game_wants_one_axis_of_actions_per_player_and_tau_for_all_or_none():
    with pytest.raises(ValueError, match=r"rewards has shape \(3, 3, 2, 3\); give \[n, S"):
        bx.MarkovGame(np.zeros((3, S, A1, A2)), good()["transition"], discount=0.9)
    with pytest.raises(ValueError, match=r"tau is \[0.0, 0.1\]; regularise all players or none"):
        bx.MarkovGame(np.zeros((2, S, A1, A2)), good()["transition"], discount=0.9, tau=[0.0, 0.1])
    with pytest.raises(ValueError, match=r"policy has shapes \(\(3, 3\), \(3, 2\)\); give"):
        game = bx.ZeroSumGame(**good())
        game.induced_mdps((jnp.full((S, A2), 1 / A2), jnp.full((S, A1), 1 / A1)))


def _error(gradient, expected):
    gradient, expected = np.ravel(gradient), np.ravel(expected)
    known = np.isfinite(expected)
    return np.linalg.norm((gradient - expected)[known]) / np.linalg.norm(expected[known])
