"""Sampled estimators, against the exact core and against the definition of what they estimate."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chi2

import bilevax as bx
from bilevax._estimator import Terms
from bilevax.deep import sampled as sm

S, L, A = 3, 2, 2
DISCOUNT = 0.8
RESAMPLES = 200
ONE = jnp.asarray(1.0)
OPTIMUM = 12.5212  # the leader's return that exact hypergradient descent finds


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
def estimates(simulator, x, policies, tables, keys, trace):
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


def exact_tables(problem, x, policy):
    """Both players' action values, ``[2, S, A]`` over all contexts' states."""
    mdp = problem.lower(x)
    reward = jnp.broadcast_to(problem.upper_reward(x), mdp.reward.shape)
    upper = eqx.tree_at(lambda m: (m.reward, m.tau), mdp, (reward, 0.0 * mdp.tau))
    return jnp.stack([flat(bx.q_values(m, policy)) for m in (mdp, upper)])


def exact_terms(problem, x, policy, player):
    value = exact_return(problem, player)
    in_x, in_policy = jax.grad(value, (0, 1))(x, policy)
    return value(x, policy), in_x, in_logits(flat(policy), flat(in_policy))


@pytest.mark.parametrize(
    "name",
    [n if n == "simultaneous" else pytest.param(n, marks=pytest.mark.slow) for n in PROBLEMS],
)
def test_every_estimate_is_unbiased_whatever_the_table_and_whoever_played(name):
    # Broken by hand, each makes it fail: 0.95 of the discount in delta, 0.8 of the score, no slope
    # of the regulariser, weights without the step's own action, coins of 0.97 of the discount.
    problem, x, own, other = setting(name)
    policies = jnp.stack([flat(own), flat(other)])
    # Wrong tables, but not so wrong that their noise would hide a bias.
    error = np.random.default_rng(3).normal(scale=0.3, size=policies.shape)
    table = exact_tables(problem, x, own) + error
    keys = jax.random.split(jax.random.key(0), RESAMPLES)
    found = estimates(sm.as_simulator(problem), x, policies, table, keys, ONE)
    for samples, player in zip(found, (sm.FOLLOWER, sm.LEADER), strict=True):
        for sample, exact in zip(samples, exact_terms(problem, x, own, player), strict=True):
            assert misfit(sample, exact) > 0.01


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("simultaneous", ["transition"]),
        pytest.param(
            "everything moves", ["reward", "transition", "initial"], marks=pytest.mark.slow
        ),
    ],
)
def test_the_test_of_bias_sees_any_one_term_missing(name, parts):
    problem, x, own, other = setting(name)
    policies = jnp.stack([flat(own), flat(other)])
    keys = jax.random.split(jax.random.key(0), RESAMPLES)
    tables = exact_tables(problem, x, own)
    found = estimates(sm.as_simulator(problem), x, policies, tables, keys, ONE)[0]

    @jax.jit
    def returned(x, policy, tau):
        """V, once for each part of the MDP that is a constant to derivatives."""
        mdp = eqx.tree_at(lambda m: m.tau, problem.lower(x), tau)
        still = jax.lax.stop_gradient(mdp)
        held = lambda part: eqx.tree_at(lambda m: getattr(m, part), mdp, getattr(still, part))
        return [bx.expected_return(held(part), policy) for part in parts]

    for wrong in jax.jacobian(returned)(x, own, problem.lower(x).tau):
        assert misfit(found[1], wrong) < 1e-3
    unregularised = jax.jacobian(returned, argnums=1)(x, own, 0 * ONE)[0]
    assert misfit(found[2], in_logits(flat(own), flat(unregularised))) < 1e-3


@pytest.mark.slow
def test_tables_cut_the_variance_and_leave_the_mean():
    problem, x, own, _ = setting("simultaneous")
    simulator, policies = sm.as_simulator(problem), jnp.stack([own, own])
    keys = jax.random.split(jax.random.key(1), RESAMPLES)
    exact = exact_tables(problem, x, own)
    without = estimates(simulator, x, policies, 0 * exact, keys, ONE)
    with_tables = estimates(simulator, x, policies, exact, keys, ONE)
    for bare, helped in zip(without, with_tables, strict=True):
        factors = [spread(b) / spread(h) for b, h in zip(bare, helped, strict=True)]
        # Measured: (the value, the gradient in x, the gradient in the policy) by these factors.
        assert factors[0] > 5 and factors[1] > 5 and factors[2] > 5, factors


def test_a_short_trace_is_unbiased_just_where_the_table_is_exact():
    problem, x, own, _ = setting("simultaneous")
    keys = jax.random.split(jax.random.key(2), RESAMPLES)
    exact = bx.q_values(problem.lower(x), own)
    tables = jnp.stack([exact, jnp.zeros_like(exact)])
    found = estimates(sm.as_simulator(problem), x, jnp.stack([own, own]), tables, keys, 0 * ONE)
    for samples, player, fits in zip(found, (sm.FOLLOWER, sm.LEADER), (True, False), strict=True):
        in_x = exact_terms(problem, x, own, player)[1]
        assert (misfit(samples[1], in_x) > 0.01) == fits


@pytest.fixture(scope="module")
def solved():
    """A tiny game, a run of PBRL, and its first steps, twice."""
    game, steps = random_game(), 200
    estimator = sm.Sampled(game, streams=32, certificate_batches=100)
    rate = optax.cosine_decay_schedule(0.1, steps)
    solver = bx.PBRL(
        penalty_weight=bx.Homotopy(3.0, 30.0, 130), update=bx.SoftmaxLogits(optax.adam(rate))
    )
    run = lambda count: bx.solve(
        estimator, solver, jnp.zeros((S, L)), key=jax.random.key(0), max_steps=count, gap_tol=1.0
    )
    return game, run(steps), run(3), run(3)


@pytest.mark.slow
def test_pbrl_from_samples_alone_ends_near_the_exact_optimum(solved):
    game, solution, *_ = solved
    certify = eqx.filter_jit(bx.Exact(game).certify)
    truth = certify(solution.x, solution.policy)
    start = certify(jnp.zeros((S, L)), solution.policy)
    # From -9.00 down to the optimum, but for a penalty of finite weight and noise.
    gained = start.upper_at_best_response - truth.upper_at_best_response
    assert gained > 0.97 * (start.upper_at_best_response + OPTIMUM)
    assert truth.gap.absolute < 0.01
    assert solution.result == bx.RESULTS.successful
    assert solution.state.memory.cut == 0


@pytest.mark.slow
def test_the_certificate_is_an_interval_that_holds_the_exact_values(solved):
    game, solution, *_ = solved
    truth = eqx.filter_jit(bx.Exact(game).certify)(solution.x, solution.policy)
    for interval, exact in (
        (solution.upper_value, truth.upper),
        (solution.gap, truth.gap.absolute),
    ):
        assert isinstance(interval, bx.Interval)
        assert interval.lower <= exact <= interval.upper
        assert not hasattr(interval, "__float__")
    assert solution.upper_value.upper - solution.upper_value.lower < 0.1
    # What samples do not know is absent.
    assert solution.best_response_value is None and solution.relative_gap is None


@pytest.mark.slow
def test_episodes_that_are_cut_off_bound_nothing(solved):
    game, solution, *_ = solved
    short = sm.Sampled(game, streams=32, max_steps=2)
    certify = eqx.filter_jit(short.certify)
    found = certify(solution.x, solution.policy, solution.state.memory, jax.random.key(0))
    for interval in (found.upper, found.gap.absolute):
        assert interval.lower == -jnp.inf and interval.upper == jnp.inf


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(solved):
    _, _, first, second = solved
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.policy, second.policy)


class Recorder(bx.AbstractEstimator):
    """An estimator of nothing, whose memory is how many keys it was given, and those."""

    def init(self, oracle, x, key):
        return jnp.full((1, 2), 0.5), (0, jnp.zeros((4, 2), jnp.uint32))

    def respond(self, oracle, x, policy, memory, key, *, single_loop):
        count, keys = memory
        return count + 1, keys.at[count].set(jax.random.key_data(key))

    def penalised_gradient(self, penalty, x, policy, weight, memory, key):
        terms = Terms(jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(True), None)
        memory = self.respond(bx.PolicyIteration(), x, policy, memory, key, single_loop=True)
        return terms, (jnp.zeros_like(x), jnp.zeros_like(policy)), memory

    def interactive(self, x):
        return False

    def project(self, x):
        return x

    def independent_gradient(self, x, policy, memory, key):
        raise NotImplementedError

    def hypergradient(self, oracle, x, memory, key):
        raise NotImplementedError

    def best_response_value(self, oracle, x, memory, key):
        raise NotImplementedError

    def response_hypergradient(self, x, memory, measure, key, *, rollouts, adjoint):
        raise NotImplementedError

    def unrolled_gradient(self, x, policy, memory, key, *, steps, step_size):
        raise NotImplementedError

    def certify(self, x, policy, memory=None, key=None):
        raise NotImplementedError

    def tempered(self, factor):
        raise NotImplementedError

    def mirror_step(self, x, policy, step):
        raise NotImplementedError


@pytest.mark.slow
def test_no_two_calls_of_two_steps_share_a_key():
    solver = bx.PBRL(update=bx.SoftmaxLogits(optax.sgd(0.1)))
    state = solver.init(Recorder(), jnp.zeros(1), None, jax.random.key(0))
    state = jax.lax.fori_loop(0, 2, lambda _, state: solver.step(Recorder(), state), state)
    count, keys = state.memory
    keys = [jax.random.key_data(state.key), *keys]
    assert count == 4 and len({np.asarray(key).tobytes() for key in keys}) == 5


@pytest.mark.slow
def test_a_99_percent_interval_covers_what_it_should(solved):
    game, solution, *_ = solved
    small = sm.Sampled(game, streams=32, episodes=4, certificate_batches=3)
    uniform = game.lower(solution.x).uniform_policy()
    truth = bx.Exact(game).certify(solution.x, uniform)
    found = jax.jit(
        jax.vmap(lambda k: small.certify(solution.x, uniform, solution.state.memory, k))
    )(jax.random.split(jax.random.key(5), 100))
    for interval, exact in ((found.upper, truth.upper), (found.gap.absolute, truth.gap.absolute)):
        inside = (interval.lower <= exact) & (exact <= interval.upper)
        assert jnp.mean(inside) >= 0.95  # 99 of 100 expected; 94 or fewer have chance 5e-4


@pytest.mark.slow
def test_streams_play_their_episodes_and_say_so_where_the_buffer_ends_first():
    game = random_game()
    x = jnp.zeros((S, L))
    dynamics = sm.GameSimulator(game).at(x)
    policy = game.lower(x).uniform_policy()[None]
    draw = jax.jit(sm.rollout, static_argnames=("streams", "episodes", "max_steps"))
    seen = draw(dynamics, policy, jax.random.key(0), streams=400, episodes=4, max_steps=30)
    done = jnp.sum(seen.over & seen.active, axis=0)
    assert 0.02 < seen.cut < 0.3 and np.isclose(seen.cut, np.mean(done < 4))
    np.testing.assert_array_equal(jnp.max(done), 4)
    # An episode begins at the start, and after each that is over; nothing follows the last one.
    begun = jnp.sum(seen.first, axis=0)
    np.testing.assert_array_equal(begun[done == 4], 4)
    # Nothing but the discount ends episodes here: stops are coins of chance 1 - discount.
    stops, coins = jnp.sum(done), seen.steps
    noise = np.sqrt(DISCOUNT * (1 - DISCOUNT) / coins)
    assert abs(stops / coins - (1 - DISCOUNT)) < 3 * noise


def test_a_stream_is_longer_than_its_buffer_with_the_stated_chance_at_most():
    for discount, episodes in ((0.5, 1), (0.9, 8), (0.99, 4)):
        length = sm.buffer_length(discount, episodes, tolerance=0.01)
        lengths = np.random.default_rng(0).geometric(1 - discount, (4000, episodes)).sum(-1)
        assert np.mean(lengths > length) <= 0.01 and length < 3 * np.mean(lengths) + 10 / (
            1 - discount
        )


def test_what_has_no_sampled_meaning_says_so():
    game, x = random_game(), jnp.zeros((S, L))
    estimator = sm.Sampled(game, streams=4)
    with pytest.raises(ValueError, match="hypergradient"):
        bx.solve(estimator, bx.ImplicitGradient(), x)
    with pytest.raises(ValueError, match="follower's learning"):
        bx.solve(estimator, bx.MetaGradient(), x)
    soft = bx.SoftmaxLogits(optax.sgd(0.1))
    with pytest.raises(ValueError, match="NikaidoIsoda"):
        bx.solve(estimator, bx.PBRL(penalty=bx.BellmanPenalty(), update=soft), x)
    with pytest.raises(ValueError, match="gradients are sampled"):
        bx.solve(estimator, bx.PBRL(), x)
    with pytest.raises(ValueError, match="upper_reward"):
        sm.Sampled(bx.BilevelProblem(game.upper, game.lower))
    with pytest.raises(ValueError, match="even number"):
        sm.Sampled(game, streams=3)
    with pytest.raises(ValueError, match="max_steps is 0; give at least 1"):
        sm.Sampled(game, max_steps=0)
    with pytest.raises(ValueError, match="two streams give one sample"):
        sm.Sampled(game, streams=2, certificate_batches=1)
    with pytest.raises(ValueError, match="give max_steps"):
        sm.Sampled(Everything(discount=1.0))
