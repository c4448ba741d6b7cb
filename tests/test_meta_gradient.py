"""Learning unrolled: the policies and the gradient through them, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from incentive import ACTIONS, STATES, incentive
from numpy_mdp import central_jacobian

import bilevax as bx

KEY, STEPS, STEP_SIZE = jax.random.key(0), 3, 0.7
RNG = np.random.default_rng(4)
X = RNG.normal(size=(STATES, *ACTIONS))
POLICY = tuple(RNG.dirichlet(np.ones(count), STATES) for count in ACTIONS)


def softmax(z):
    weight = np.exp(z - z.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def learned(game, x, policy, steps):
    """Mirror ascent of both players at once, from the definition of the game."""
    (p, q), tau, kernel = policy, float(game.tau), np.asarray(game.kernel)
    reward, discount = np.asarray(game.reward) + x, float(game.discount)
    for _ in range(steps):
        negative_entropy = [np.sum(y * np.log(y), -1) for y in (p, q)]
        own = np.einsum("sij,si,sj->s", reward, p, q)
        own = own - tau * (negative_entropy[0] - negative_entropy[1])
        chain = np.einsum("sijt,si,sj->st", kernel, p, q)
        values = np.linalg.solve(np.eye(STATES) - discount * chain, own)
        joint = reward + discount * kernel @ values
        # What both players pay for player 2's entropy is the same for all actions of player 1.
        first = np.einsum("sij,sj->si", joint, q) + np.log(p) / STEP_SIZE
        second = -np.einsum("sij,si->sj", joint, p) + np.log(q) / STEP_SIZE
        p, q = (softmax(z / (tau + 1 / STEP_SIZE)) for z in (first, second))
    return p, q


def upper(game, x, policy):
    p, q = policy
    joint = p[:, :, None] * q[:, None, :]
    chain = np.einsum("sijt,sij->st", np.asarray(game.kernel), joint)
    system = np.eye(STATES) - float(game.discount) * chain
    gain = np.sum(joint * (np.asarray(game.wanted) - 0.1 * x), (1, 2))
    return -np.mean(np.linalg.solve(system, gain))


def unrolled(game, steps):
    estimator = bx.Exact(game)
    _, memory = estimator.init(bx.PolicyIteration(), jnp.asarray(X), KEY)
    one = jax.jit(
        lambda x, policy: estimator.unrolled_gradient(
            x, policy, memory, KEY, steps=steps, step_size=STEP_SIZE
        )
    )
    return one(jnp.asarray(X), tuple(map(jnp.asarray, POLICY)))


@pytest.mark.slow
def test_the_gradient_passes_through_every_step():
    game = incentive(0)
    terms, gradient, policy, _ = unrolled(game, STEPS)
    expected = learned(game, X, POLICY, STEPS)
    for ours, theirs in zip(policy, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(terms.upper, upper(game, X, expected), atol=1e-12)

    def end(x):
        return np.atleast_1d(upper(game, x, learned(game, x, POLICY, STEPS)))

    differences = central_jacobian(end, X)[0].reshape(X.shape)
    np.testing.assert_allclose(gradient, differences, atol=1e-9)


@pytest.mark.slow
def test_after_many_steps_it_is_the_gradient_of_the_equilibrium():
    game = incentive(1)
    _, gradient, policy, _ = unrolled(game, 500)
    x = jnp.asarray(X)
    mdps = game.lower(x).induced_mdps(policy)
    assert bx.duality_gap(mdps, policy).absolute < 1e-10
    estimator, oracle = bx.Exact(game), bx.PolicyIteration()

    @jax.jit
    def exact(x):
        return estimator.hypergradient(oracle, x, estimator.init(oracle, x, KEY)[1], KEY)[1]

    np.testing.assert_allclose(gradient, exact(x), atol=1e-8)


@pytest.mark.slow
def test_solutions_answer_their_own_x_and_f_falls():
    game, solver = incentive(2), bx.MetaGradient(inner_steps=STEPS, step_size=STEP_SIZE)
    short, long = (bx.solve(game, solver, X, max_steps=n) for n in (20, 60))
    assert long.best_response_value < short.best_response_value < upper(game, X, POLICY)
    for solution in (short, long):
        state = tuple(map(np.asarray, solution.state.policy))
        expected = learned(game, np.asarray(solution.x), state, STEPS)
        for ours, theirs in zip(solution.policy, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bx.MetaGradient(inner_steps=0), "MetaGradient: inner_steps is 0"),
        (lambda: bx.MetaGradient(step_size=0.0), r"MetaGradient: step_size is 0\.0"),
    ],
)
def test_what_meta_gradient_cannot_work_with_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
