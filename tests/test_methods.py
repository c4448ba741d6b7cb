"""Published methods: one contract for all, and each gradient against an independent one."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from games import random_game

import bilevax as bx
from bilevax import _rollouts as rollouts
from bilevax.methods import (
    METHODS,
    ActorCritic,
    AdjointSweeps,
    Request,
    Rollouts,
    VisitAverages,
    ZeroOrder,
    amd,
    bc_hg,
    build_solver,
    hpgd,
    m_sobirl,
    nested,
    sobirl,
)
from bilevax.problems import bimatrix, matrix_game, random_reward, stackelberg

KEY, ORACLE = jax.random.key(0), bx.PolicyIteration()
WHOLE = optax.sgd(1.0)  # x moves by just the gradient
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


class Ending(eqx.Module):
    """Two contexts of four states, in which x moves rewards, starts, and how soon play ends."""

    kernel: jax.Array
    reward: jax.Array

    def lower(self, x):
        kept = 0.9 * jax.nn.sigmoid(x)[None, :, None, None]
        return bx.MDP(
            jnp.tanh(x)[:, None] * self.reward,
            bx.DenseTransition(kept * self.kernel),
            discount=0.9,
            initial=jax.nn.softmax(x) / 2,
            tau=0.4,
        )

    def upper_reward(self, x):
        return (self.reward[::-1] + 0.3 * x[:, None]) ** 2

    def upper(self, x, policy, evaluation):
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x):
        return x


def ending():
    rng = np.random.default_rng(3)
    kernel = rng.dirichlet(np.ones(4), (2, 4, 2))
    return Ending(jnp.asarray(kernel), jnp.asarray(rng.normal(size=(2, 4, 2))))


def sequential():
    rng = np.random.default_rng(1)
    kernel = rng.dirichlet(np.ones(3), (3, 2, 2))
    leader, follower = rng.random((2, 3, 2, 2))
    return bx.StackelbergGame.sequential(leader, follower, kernel, discount=0.7, tau=0.3)


PROBLEMS = [
    (ending(), jnp.asarray([0.3, -0.4, 0.8, 0.1])),
    (sequential(), jnp.asarray([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.2]])),
]


@eqx.filter_jit
def exact(problem, x):
    estimator = bx.Exact(problem)
    return estimator.hypergradient(ORACLE, x, estimator.init(ORACLE, x, KEY)[1], KEY)[1]


@eqx.filter_jit
def moved(solver, problem, x, keys):
    """What one whole step takes from x, for each key."""
    estimator = bx.Exact(problem)

    def one(key):
        return x - solver.step(estimator, solver.init(estimator, x, None, key)).x

    return jax.lax.map(one, keys)


def unbiased(samples, expected):
    """Means within 4.5 standard errors everywhere, and as far off as those errors say."""
    samples, expected = (np.reshape(z, (len(z), -1)) for z in (samples, expected[None]))
    error = samples.std(0, ddof=1) / len(samples) ** 0.5
    seen = error > 1e-9
    z = ((samples.mean(0) - expected[0]) / np.where(seen, error, 1))[seen]
    assert seen.any() and np.abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 2.2
    np.testing.assert_allclose(samples.mean(0)[~seen], expected[0][~seen], atol=1e-8)


@pytest.mark.parametrize(
    ("which", "solver"), [(0, bc_hg(WHOLE)), (1, hpgd(WHOLE, rollouts=None))], ids=("bc-hg", "hpgd")
)
def test_exact_covariances_and_expectations_are_the_hypergradient(which, solver):
    (problem, x), expected = PROBLEMS[which], exact(*PROBLEMS[which])
    assert np.linalg.norm(expected) > 0.01
    np.testing.assert_allclose(moved(solver, problem, x, KEY[None])[0], expected, atol=1e-10)


PLAIN, CRITIC = Rollouts(16, 100), Rollouts(16, 100, critic=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "solver"),
    [
        (0, hpgd(WHOLE, rollouts=PLAIN)),
        (0, sobirl(WHOLE, backups=100, rollouts=CRITIC, adjoint=CRITIC)),
        (1, hpgd(WHOLE, rollouts=PLAIN, adjoint=PLAIN)),
        (1, bc_hg(WHOLE, rollouts=CRITIC)),
    ],
    ids=("hpgd, oracle", "sobirl", "hpgd, Monte Carlo", "bc-hg"),
)
def test_sampled_gradients_are_unbiased(which, solver):
    problem, x = PROBLEMS[which]
    keys = jax.random.split(jax.random.key(1), 200)
    unbiased(moved(solver, problem, x, keys), exact(problem, x))


class Moving(eqx.Module):
    """x moves tau and the discount; half of the mass ends at each step; an action is masked."""

    def lower(self, x):
        rng = np.random.default_rng(3)
        kernel = jnp.asarray(0.5 * rng.dirichlet(np.ones(3), (3, 2)))
        return bx.MDP(
            jnp.asarray(rng.random((3, 2))),
            kernel,
            discount=0.9 * jax.nn.sigmoid(x[0] + 1),
            tau=0.4 * jnp.exp(x[1]),
            available=jnp.asarray([[False, True], [True, True], [True, True]]),
        )

    def upper_reward(self, x):
        return jnp.asarray([[0.3, 0.9], [0.2, -0.5], [1.0, 0.1]])

    def upper(self, x, policy, evaluation):
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x):
        return x


@pytest.mark.parametrize(
    "solver",
    [
        hpgd(WHOLE, rollouts=PLAIN, adjoint=PLAIN),
        pytest.param(hpgd(WHOLE, rollouts=CRITIC, adjoint=CRITIC), marks=pytest.mark.slow),
    ],
    ids=("plain", "critic"),
)
def test_sampled_gradients_are_unbiased_where_tau_and_discount_move(solver):
    problem, x = Moving(), jnp.asarray([0.2, -0.3])
    expected = exact(problem, x)
    assert (np.abs(expected) > 0.01).all()
    unbiased(moved(solver, problem, x, jax.random.split(jax.random.key(1), 200)), expected)


@pytest.mark.slow
def test_inner_iterations_take_sobirl_to_the_hypergradient():
    (problem, x), errors = PROBLEMS[1], []
    for count in (3, 100):
        solver = m_sobirl(WHOLE, backups=count, adjoint=AdjointSweeps(count))
        gradient = moved(solver, problem, x, KEY[None])[0]
        errors.append(np.max(np.abs(gradient - exact(problem, x))))
    assert errors[0] > 1e-6 and errors[1] < 1e-10


@pytest.mark.slow
def test_sobirl_ends_random_reward_at_its_known_value():
    zoo = random_reward()
    x0 = zoo.starts(KEY, 2)[1]
    solver = build_solver("sobirl", Request(zoo, x0, steps=400))
    solution = bx.solve(zoo.problem, solver, x0, max_steps=400)
    np.testing.assert_allclose(solution.best_response_value, 1.0, atol=1e-3)


@pytest.mark.slow
def test_directions_average_to_the_gradient():
    problem, x = PROBLEMS[1]
    keys = jax.random.split(KEY, 400)
    slopes = moved(ZeroOrder(WHOLE, radius=1e-4, directions=2), problem, x, keys)
    unbiased(slopes, exact(problem, x))


@pytest.mark.slow
def test_a_wide_radius_sees_the_smoothed_value():
    # F(x) = |x|^2 / 2 + c: two points see the slope <x, u> exactly, at any radius.
    zoo = random_reward(states=2, actions=2, dimension=2, tau=1e6)
    x = jnp.asarray([0.7, -0.2])
    unbiased(moved(ZeroOrder(WHOLE, radius=0.5), zoo.problem, x, jax.random.split(KEY, 300)), x)


def test_long_learning_from_the_uniform_policy_gives_the_hypergradient():
    problem, x = PROBLEMS[1]
    gradient = moved(nested(WHOLE, inner_steps=60, step_size=10.0), problem, x, KEY[None])[0]
    np.testing.assert_allclose(gradient, exact(problem, x), atol=1e-9)


def test_a_nested_learner_forgets_what_it_learned():
    problem, x = PROBLEMS[1]
    solver, estimator = nested(optax.sgd(0.0), inner_steps=2), bx.Exact(problem)
    step = eqx.filter_jit(solver.step)
    first = step(estimator, eqx.filter_jit(solver.init)(estimator, x, None, KEY))
    second = step(estimator, first)
    np.testing.assert_allclose(second.policy, first.policy, atol=1e-12)


@pytest.mark.slow
def test_while_x_rests_the_actor_critic_reaches_pbrls_gradient():
    last, game = 80, random_game(0)
    resting = optax.sgd(lambda step: jnp.where(jnp.less(step, last - 1), 0.0, 1.0))
    x0 = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2)))
    actor = ActorCritic(resting, 5.0, initial=1.0, oracle=bx.PolicyMirrorDescent(3.0))
    pbrl = bx.PBRL(penalty_weight=5.0, update=bx.Alternating(resting))
    ours, theirs = (bx.solve(game, s, x0, max_steps=last).x - x0 for s in (actor, pbrl))
    assert np.linalg.norm(theirs) > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


@pytest.mark.slow
def test_the_attenuating_temperature_ends_at_the_problems_own():
    game, x0 = random_game(0), jnp.zeros((3, 2))
    solver = ActorCritic(optax.sgd(0.0), 1e3, initial=5.0, attenuation=2.0)
    gaps = [bx.solve(game, solver, x0, max_steps=n).gap for n in (2, 400)]
    assert gaps[1] < 1e-4 < gaps[0]


@pytest.mark.slow
def test_adaptive_model_design_is_clipped_descent_on_the_hypergradient():
    problem, x = PROBLEMS[0]
    step, gradient = (
        moved(amd(0.5, 1e-3), problem, x, KEY[None])[0],
        exact(problem, x),
    )
    np.testing.assert_allclose(step, 0.5e-3 * gradient / np.linalg.norm(gradient), atol=1e-12)


@pytest.mark.parametrize(
    ("which", "solver", "most"),
    [
        (1, hpgd(WHOLE, rollouts=Rollouts(5, 7)), 5 * 7),
        (1, hpgd(WHOLE, rollouts=None, adjoint=Rollouts(3, 11)), 3 * 11),
        (1, sobirl(WHOLE, rollouts=Rollouts(5, 7), adjoint=Rollouts(3, 11)), 5 * 7 + 3 * 11),
        (1, hpgd(WHOLE, rollouts=VisitAverages(5, 7)), 5 * 7),
        (0, bx.Annealed(hpgd(WHOLE, rollouts=Rollouts(5, 7)), 2.0, 5), 5 * 7),
    ],
    ids=("leader's", "adjoint's", "both", "averages", "ending"),
)
def test_a_step_draws_the_transitions_that_its_solver_says(which, solver, most, monkeypatch):
    counts = []

    def counting(*arguments):
        seen = rollout(*arguments)
        jax.debug.callback(lambda n: counts.append(int(n)), jnp.sum(seen.weight > 0))
        return seen

    rollout = rollouts.rollout
    monkeypatch.setattr(rollouts, "rollout", counting)
    problem, x = PROBLEMS[which]
    estimator = bx.Exact(problem)
    step = jax.jit(lambda x: solver.step(estimator, solver.init(estimator, x, None, KEY)).x)
    jax.block_until_ready(step(x))
    jax.effects_barrier()
    assert solver.environment_steps == most
    # Episodes of the first problem end by themselves.
    assert sum(counts) == most if which == 1 else 5 < sum(counts) < most


def test_solvers_that_sample_no_episodes_draw_nothing():
    for solver in (bx.PBRL(), hpgd(rollouts=None), m_sobirl(), bx.Annealed(bx.PBRL(), 2.0, 5)):
        assert solver.environment_steps is None


@pytest.fixture(scope="module")
def small():
    zoo = stackelberg(states=3, leader_actions=2, follower_actions=2, tau=0.3)
    estimator = bx.Exact(zoo.problem)
    x0 = zoo.starts(KEY, 1)[0]
    memory = estimator.init(ORACLE, x0, KEY)[1]
    value = jax.jit(lambda x: estimator.best_response_value(ORACLE, x, memory, KEY)[0].upper)
    return zoo, estimator, x0, value


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name, small):
    zoo, estimator, x0, value = small
    solver, traces = build_solver(name, Request(zoo, x0, steps=40)), []

    @eqx.filter_jit
    def step(state):
        traces.append(name)
        return solver.step(estimator, state)

    start = eqx.filter_jit(solver.init)(estimator, x0, None, KEY)
    shape = lambda tree: jax.tree.map(lambda z: (z.shape, z.dtype), tree)
    first = step(start)
    assert shape(first) == shape(start)
    again = step(start)
    assert eqx.tree_equal((again.x, again.policy), (first.x, first.policy))
    state = first
    for _ in range(39):
        state = step(state)
    assert len(traces) == 1 and int(state.step) == 40 and not state.failed
    assert np.isfinite(state.progress.gradient_norm)
    x, policy = eqx.filter_eval_shape(solver.answer, estimator, state)
    assert shape((x, policy)) == shape((state.x, state.policy))
    if name != "independent":  # which does not look for an optimum of F
        assert value(state.x) < value(x0) - 1e-4


def refusal(name, zoo):
    """The trace of a first step, which is where a method refuses."""
    x0 = zoo.starts(KEY, 1)[0]
    solver, estimator = build_solver(name, Request(zoo, x0)), bx.Exact(zoo.problem)
    state = eqx.filter_eval_shape(solver.init, estimator, x0, None, KEY)
    return eqx.filter_eval_shape(solver.step, estimator, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hpgd", "sobirl", "bc-hg"])
def test_methods_of_one_follower_refuse_what_they_cannot_answer(name):
    with pytest.raises(ValueError, match="ZeroSumGame, whose players answer each other; use Impl"):
        refusal(name, matrix_game())
    with pytest.raises(ValueError, match=r"tau is 0, where they have no derivative; give the low"):
        refusal(name, bimatrix(tau=0.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: refusal("actor-critic", bimatrix(tau=0.0)), "actor-critic: tau is 0; give a pos"),
        (lambda: refusal("amd", bimatrix(tau=0.0)), "tau is 0, where the best response has no"),
        (lambda: Rollouts(0), "Rollouts: episodes is 0"),
        (lambda: VisitAverages(4, 0), "VisitAverages: steps is 0"),
        (lambda: VisitAverages(transitions=0), "VisitAverages: transitions is 0"),
        (
            lambda: VisitAverages(steps=300, transitions=1000),
            "a stream has 200 transitions and an episode up to 300; give more transitions",
        ),
        (
            lambda: hpgd(rollouts=VisitAverages(), adjoint=Rollouts()),
            "VisitAverages, .* and adjoint is a Rollouts; leave that out",
        ),
        (lambda: AdjointSweeps(0), "AdjointSweeps: sweeps is 0"),
        (lambda: m_sobirl(backups=0), "ThroughResponse: backups is 0"),
        (lambda: sobirl(backups=0), "ThroughResponse: backups is 0"),
        (lambda: ZeroOrder(radius=0.0), r"ZeroOrder: radius is 0\.0"),
        (lambda: ZeroOrder(directions=0), "ZeroOrder: directions is 0"),
        (lambda: nested(inner_steps=0), "MetaGradient: inner_steps is 0"),
        (lambda: nested(step_size=-1.0), r"MetaGradient: step_size is -1\.0"),
        (lambda: ActorCritic(initial=0.5), r"ActorCritic: initial is 0\.5"),
        (lambda: ActorCritic(attenuation=0.0), r"ActorCritic: attenuation is 0\.0"),
        (lambda: ActorCritic(policy_step=2.0), r"ActorCritic: policy_step is 2\.0"),
        (lambda: ActorCritic(penalty_weight=0.0), r"ActorCritic: penalty_weight is 0\.0"),
        (lambda: amd(clip=0.0), r"amd: clip is 0\.0"),
        (
            lambda: moved(sobirl(), random_reward(states=2).problem, jnp.ones(100), KEY[None]),
            "rollouts: RandomReward has no upper_reward",
        ),
    ],
)
def test_what_a_method_cannot_work_with_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_method_that_is_none_is_refused_with_the_nearest_name():
    request = Request(matrix_game(), jnp.zeros(2))
    with pytest.raises(ValueError, match="there is no method 'hpdg': did you mean 'hpgd'"):
        build_solver("hpdg", request)
    with pytest.raises(ValueError, match="there is no method 'xxxxx': there are pbrl, "):
        build_solver("xxxxx", request)


def test_values_alone_serve_where_there_is_no_derivative():
    refusal("zero-order", bimatrix(tau=0.0))
    refusal("zero-order", matrix_game())


def test_samples_alone_give_no_hypergradient():
    from bilevax.deep.sampled import Sampled

    estimator, x = Sampled(random_game(0)), jnp.zeros((3, 2))
    for solver in (bc_hg(), ZeroOrder()):
        state = eqx.filter_eval_shape(solver.init, estimator, x, None, KEY)
        with pytest.raises(ValueError, match=r"Sampled: .* use PBRL"):
            eqx.filter_eval_shape(solver.step, estimator, state)


def test_the_page_lists_every_method_as_it_describes_itself():
    lines = PAGE.read_text().splitlines()
    yes = lambda flag: "yes" if flag else "no"
    for method in METHODS.values():
        flags = map(yes, (method.model, method.follower_reward, method.second_order))
        row = (f"`{method.name}`", *flags, method.cost, method.source)
        assert f"| {' | '.join(row)} |" in lines
