"""Alternating's step of soft policy iteration, and Annealed's cooling, against NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_mdp
import optax
import pytest
from numpy_mdp import Table

import bilevax as bx
from bilevax._answer import levels

STATES, ACTIONS, CONTEXTS = 4, 3, 2
WEIGHT, TAU, DISCOUNT = 3.0, 0.2, 0.8
X = np.asarray(0.4)
FROZEN = bx.Alternating(optax.sgd(0.0))


class Game(eqx.Module):
    """The follower earns follower + x * bonus in its MDP, the leader ``leader``."""

    leader: jax.Array
    bonus: jax.Array
    mdp: bx.MDP

    def lower(self, x):
        return eqx.tree_at(lambda m: m.reward, self.mdp, self.mdp.reward + x * self.bonus)

    def upper(self, x, policy, evaluation):
        return -evaluation.expected_return(self.leader)

    def project(self, x):
        return x


def game(
    seed=0,
    *,
    contexts: int | None = None,
    masked=False,
    tau=TAU,
    regularizer: bx.NegativeEntropy | bx.SquaredNorm = bx.NegativeEntropy(),
):
    rng = np.random.default_rng(seed)
    lead = () if contexts is None else (contexts,)
    available = np.ones((STATES, ACTIONS), bool)
    if masked:
        available[1, 0] = available[3, 1:] = False
    leader, bonus, follower = rng.normal(size=(3, *lead, STATES, ACTIONS))
    mdp = bx.MDP(
        follower,
        rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)),
        discount=DISCOUNT,
        initial=rng.random((*lead, STATES)) + 0.1,
        tau=tau,
        regularizer=regularizer,
        available=available,
    )
    return Game(jnp.asarray(leader), jnp.asarray(bonus), mdp)


def followers(problem, x=X) -> list[Table]:
    return numpy_mdp.tables(problem.lower(x))


def penalised(problem, weight=WEIGHT, factor=1.0, x=X) -> list[Table]:
    """The MDPs whose optimal policies minimise -return of the leader + weight * penalty."""
    rewards = numpy_mdp.rows(problem.leader)
    return [
        Table(
            leader + weight * t.reward,
            *(t.kernel, t.discount, t.initial, weight * factor * t.tau, t.entropy, t.available),
        )
        for leader, t in zip(rewards, followers(problem, x), strict=True)
    ]


def improved(tables, policies):
    return [
        numpy_mdp.greedy(t, numpy_mdp.backup(t, numpy_mdp.values(t, pi)))
        for t, pi in zip(tables, policies, strict=True)
    ]


def uniform(tables):
    return [t.available / t.available.sum(-1, keepdims=True) for t in tables]


def solved(problem, steps, *, solver=None, **options):
    solver = bx.PBRL(penalty_weight=WEIGHT, update=FROZEN) if solver is None else solver
    return bx.solve(problem, solver, X, max_steps=steps, **options)


GAMES = {
    "one follower": game(0),
    "masks": game(1, masked=True),
    "contexts": game(2, contexts=CONTEXTS),
    "squared norm, masks": game(4, masked=True, regularizer=bx.SquaredNorm()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_the_policys_step_is_soft_policy_iteration_on_the_penalised_objective(name):
    tables = penalised(GAMES[name])
    once = numpy_mdp.rows(solved(GAMES[name], 1).policy)
    np.testing.assert_allclose(once, improved(tables, uniform(tables)), atol=1e-12)
    policies = numpy_mdp.rows(solved(GAMES[name], 8).policy)
    np.testing.assert_allclose(policies, [numpy_mdp.optimum(t)[1] for t in tables], atol=1e-10)


def test_x_sees_the_gradient_of_the_minimum_over_policies():
    problem = GAMES["one follower"]

    def minimum(x):
        (both,), (own,) = penalised(problem, x=x[0]), followers(problem, x[0])
        best = own.initial @ numpy_mdp.optimum(own)[0]
        return np.asarray([WEIGHT * best - both.initial @ numpy_mdp.optimum(both)[0]])

    slope = numpy_mdp.central_jacobian(minimum, X.reshape(1))
    norm = solved(problem, 8).stats["gradient_norm"]
    np.testing.assert_allclose(norm, abs(slope.item()), rtol=1e-7)


def slope_in_logits(objective, policy):
    """d objective / d logits by central differences, which masks and the simplex leave free."""

    def value(logits):
        return np.asarray([objective(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))])

    return numpy_mdp.central_jacobian(value, np.log(np.asarray(policy)))


@pytest.mark.slow
def test_it_rests_where_the_gradient_vanishes_with_weight_on_all_states():
    problem, share = GAMES["one follower"], 0.3
    (table,) = followers(problem)
    spread = (1 - share) * table.initial + share * table.initial.sum() / STATES

    def objective(policy):
        leader = numpy_mdp.values(table, policy, np.asarray(problem.leader))
        return -table.initial @ leader - WEIGHT * spread @ numpy_mdp.values(table, policy)

    solver = bx.PBRL(bx.NikaidoIsoda(share), penalty_weight=WEIGHT, update=FROZEN)
    policy = solved(problem, 60, solver=solver).policy
    assert np.max(np.abs(slope_in_logits(objective, uniform([table])[0]))) > 0.1
    np.testing.assert_allclose(slope_in_logits(objective, policy), 0, atol=1e-8)


@pytest.mark.slow
def test_it_rests_where_the_gradient_vanishes_with_the_bellman_penalty():
    problem, weight = GAMES["one follower"], 30.0
    (table,) = followers(problem)
    q = numpy_mdp.backup(table, numpy_mdp.optimum(table)[0])
    mu = np.full(STATES, table.initial.sum() / STATES)

    def objective(policy):
        leader = numpy_mdp.values(table, policy, np.asarray(problem.leader))
        current = np.sum(policy * q, -1) - table.tau * numpy_mdp.regularizer(table, policy)
        return -table.initial @ leader - weight * mu @ current

    solver = bx.PBRL(bx.BellmanPenalty(), penalty_weight=weight, update=FROZEN)
    policy = solved(problem, 100, solver=solver).policy
    assert np.max(np.abs(slope_in_logits(objective, uniform([table])[0]))) > 0.1
    np.testing.assert_allclose(slope_in_logits(objective, policy), 0, atol=1e-8)


@pytest.mark.parametrize("name", ["masks", "squared norm, masks"])
def test_a_probability_of_zero_comes_back_but_not_where_the_action_is_masked(name):
    problem = GAMES[name]
    (table,) = penalised(problem)
    best = numpy_mdp.optimum(table)[1]
    worst = np.where(table.available, best, 2).argmin(-1)  # all on what should be rare
    policy0 = jnp.asarray(np.eye(ACTIONS)[worst])
    policy = np.asarray(solved(problem, 10, policy0=policy0).policy)
    np.testing.assert_allclose(policy, best, atol=1e-10)
    assert np.all(policy[~table.available] == 0)


@pytest.mark.slow
def test_a_shorter_policy_step_is_refused_outside_its_range_and_ends_at_the_same_policy():
    update = bx.Alternating(optax.sgd(0.0), policy_step=0.5)
    solver = bx.PBRL(penalty_weight=WEIGHT, update=update)
    problem = GAMES["one follower"]
    np.testing.assert_allclose(
        solved(problem, 60, solver=solver).policy, solved(problem, 8).policy, atol=1e-10
    )
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="Alternating: policy_step is"):
            bx.Alternating(optax.sgd(0.1), policy_step=wrong)


def test_without_temperature_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"^Alternating: .* tau is 0,? .* or use SoftmaxLogits\."):
        solved(game(tau=0.0), 1)


HOT, COOLING = 16.0, 4


def annealed(initial=HOT, final=1.0, **options):
    solver = bx.PBRL(penalty_weight=WEIGHT, update=FROZEN)
    return bx.Annealed(solver, initial, COOLING, final, **options)


@pytest.mark.slow
@pytest.mark.parametrize("final, factors", [(1.0, [16, 8, 4, 2, 1, 1]), (4.0, [16, 11.3137085])])
def test_annealing_cools_geometrically_from_the_first_factor_to_the_last(final, factors):
    problem = GAMES["one follower"]
    policies = uniform(followers(problem))
    for step, factor in enumerate(factors, start=1):
        policies = improved(penalised(problem, factor=factor), policies)
        policy = solved(problem, step, solver=annealed(final=final)).policy
        np.testing.assert_allclose(policy, policies[0], atol=1e-8)


def test_annealing_that_stays_hot_ends_at_its_last_factor():
    problem = GAMES["one follower"]
    policy = solved(problem, COOLING + 10, solver=annealed(final=4.0)).policy
    (hot,) = penalised(problem, factor=4.0)
    np.testing.assert_allclose(policy, numpy_mdp.optimum(hot)[1], atol=1e-10)


@pytest.mark.slow
def test_annealing_from_the_factor_1_is_the_solver_itself():
    update = bx.Alternating(optax.adam(0.1))
    solver = bx.PBRL(penalty_weight=WEIGHT, update=update)
    problem = GAMES["one follower"]
    plain = solved(problem, 20, solver=solver)
    same = solved(problem, 20, solver=bx.Annealed(solver, 1.0, COOLING))
    assert abs(plain.x - X) > 0.1
    for one, other in ((plain.x, same.x), (plain.policy, same.policy), (plain.gap, same.gap)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_a_small_gradient_stops_no_run_that_is_still_hot():
    problem, small = GAMES["one follower"], 1e9
    assert solved(problem, 50, tol=small).stats["steps"] == 1
    assert solved(problem, 50, solver=annealed(), tol=small).stats["steps"] == COOLING


def test_temperatures_multiply():
    twice = bx.Exact(game()).tempered(jnp.asarray(2.0)).tempered(jnp.asarray(3.0))
    (lower,) = levels(twice._lower(X))
    assert np.isclose(lower.tau, 6 * TAU, rtol=1e-15)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: annealed(0.5), r"Annealed: initial is 0\.5 and final 1"),
        (lambda: annealed(2.0, 3.0), r"Annealed: initial is 2\.0 and final 3"),
        (lambda: annealed(2.0, 0.5), r"Annealed: initial is 2\.0 and final 0\.5"),
        (lambda: annealed(float("nan")), "Annealed: initial is nan"),
        (lambda: bx.Annealed(bx.PBRL(), 2.0, 0), "Annealed: steps is 0; give at least 1"),
        (lambda: bx.Annealed(bx.QuasiNewton(), 2.0, 5), "solver is QuasiNewton, which compares"),
        (lambda: bx.Annealed(bx.Anderson(bx.PBRL(penalty_weight=2.0)), 2.0, 5), "is Anderson, wh"),
    ],
)
def test_annealing_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
