"""Models from Gymnasium and from files, and time unrolled, against loops written out here."""

import sys
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantecon.markov import DiscreteDP

import bilevax as bx


def optimal_values(outcomes, discount, sweeps):
    """Value iteration on ``P[s][a]`` itself, one outcome at a time."""
    v = np.zeros(len(outcomes))
    for _ in range(sweeps):
        v = np.array(
            [
                max(
                    sum(p * (r + discount * v[t] * (not done)) for p, t, r, done in row)
                    for row in actions.values()
                )
                for actions in outcomes.values()
            ]
        )
    return v


def soft_values(reward, transition, discount, tau, horizon):
    """Backward induction for the entropy: V_t = tau log sum exp((r + discount P V_{t+1}) / tau)."""
    values = np.zeros((horizon + 1, reward.shape[-2]))
    for t in reversed(range(horizon)):
        r = reward[t] if reward.ndim == 3 else reward
        q = r + discount * np.einsum("sat,t->sa", transition, values[t + 1])
        values[t] = q.max(-1) + tau * np.log(np.exp((q - q.max(-1, keepdims=True)) / tau).sum(-1))
    return values[:-1]


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1"])
def test_toy_text_values_are_those_of_a_loop_over_the_environments_own_table(name):
    env = gymnasium.make(name)
    mdp = bx.MDP.from_gymnasium(env, discount=0.9)
    values = bx.best_responses(mdp).values
    table = env.unwrapped.P  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(values, optimal_values(table, 0.9, 250), atol=1e-8)


def test_the_shortest_walk_along_the_cliff_takes_thirteen_steps():
    mdp = bx.MDP.from_gymnasium("CliffWalking-v1", discount=1.0)
    value = jnp.sum(mdp.initial * bx.best_responses(mdp).values)
    np.testing.assert_allclose(value, -13, rtol=1e-12)


def test_the_start_is_the_environments_and_an_episode_can_end():
    mdp = bx.MDP.from_gymnasium("FrozenLake-v1", discount=0.99, tau=0.01)
    np.testing.assert_array_equal(mdp.initial, np.eye(16)[0])
    mass = mdp.transition.expected_next(jnp.ones(16))
    # From 14 (right of it the goal) two of three outcomes of "right" stay in play; a hole is over.
    np.testing.assert_allclose(mass[14, 2], 2 / 3, rtol=1e-12)
    np.testing.assert_allclose(mass[jnp.asarray([5, 7, 11, 12, 15])], 0)


def test_soft_policy_iteration_settles_on_the_taxi():
    # Rewards of -10 and +20 throw early iterates far off; chord steps then went round in circles.
    mdp = bx.MDP.from_gymnasium("Taxi-v4", discount=0.99, tau=0.1)
    response = bx.best_responses(mdp)
    assert bool(response.converged)
    assert int(response.steps) < 15


def test_an_environment_without_a_model_is_refused():
    with pytest.raises(ValueError, match="BlackjackEnv carries no model"):
        bx.MDP.from_gymnasium("Blackjack-v1", discount=1.0)


def test_any_object_with_a_table_will_do():
    table = {0: {0: [(0.5, 1, 2.0, False), (0.5, 0, 0.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
    env = SimpleNamespace(P=table)
    mdp = bx.MDP.from_gymnasium(env, discount=0.5)
    np.testing.assert_array_equal(bx.state_values(mdp, mdp.uniform_policy()), [1.0, 0.0])
    np.testing.assert_array_equal(mdp.initial, [0.5, 0.5])


def test_a_missing_gymnasium_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"bilevax\[gymnasium\]"):
        bx.MDP.from_gymnasium("FrozenLake-v1", discount=0.9)


def random_model(seed, states=5, actions=3):
    draw = np.random.default_rng(seed)
    kernel = draw.dirichlet(np.ones(states), size=(states, actions))
    return draw.normal(size=(states, actions)), kernel


@pytest.mark.slow
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_finite_horizon_gives_the_values_of_backward_induction(discount):
    reward, kernel = random_model(0)
    mdp = bx.MDP.finite_horizon(reward, kernel, 7, discount=discount, tau=0.2)
    values = bx.best_responses(mdp).values.reshape(7, 5)
    np.testing.assert_allclose(values, soft_values(reward, kernel, discount, 0.2, 7), rtol=1e-10)
    np.testing.assert_allclose(mdp.initial.reshape(7, 5)[0], 1 / 5)
    assert float(jnp.sum(mdp.initial)) == pytest.approx(1)


@pytest.mark.slow
def test_rewards_kernels_and_masks_may_change_with_time():
    _, kernel = random_model(1)
    reward = np.random.default_rng(2).normal(size=(4, 5, 3))
    available = np.ones((4, 5, 3), bool)
    available[2, :, 0] = False
    options = dict(initial=np.eye(5)[3], tau=0.2, available=available)
    mdp = bx.MDP.finite_horizon(reward, np.stack([kernel] * 4), 4, **options)
    masked = np.where(available, reward, -1e6)
    expected = soft_values(masked, kernel, 1.0, 0.2, 4)
    response = bx.best_responses(mdp)
    np.testing.assert_allclose(response.values.reshape(4, 5), expected, rtol=1e-10)
    np.testing.assert_allclose(jnp.sum(bx.occupancy(mdp, response.policy)), 4, rtol=1e-12)


@pytest.mark.slow
def test_a_finite_horizon_of_successor_lists_is_that_of_the_dense_kernel():
    reward, kernel = random_model(3)
    lists = bx.SuccessorList(np.broadcast_to(np.arange(5), kernel.shape), kernel)
    dense = bx.MDP.finite_horizon(reward, kernel, 6, tau=0.1)
    sparse = bx.MDP.finite_horizon(reward, lists, 6, tau=0.1)
    np.testing.assert_allclose(
        bx.best_responses(sparse).values, bx.best_responses(dense).values, rtol=1e-12
    )


def test_a_finite_horizon_can_be_built_and_differentiated_under_jit():
    reward, kernel = random_model(4)

    @jax.jit
    def total(scale):
        mdp = bx.MDP.finite_horizon(scale * reward, kernel, 3, discount=0.5)
        return bx.expected_return(mdp, mdp.uniform_policy())

    np.testing.assert_allclose(jax.grad(total)(2.0), total(1.0), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(horizon=0), "horizon is 0"),
        (dict(reward=np.zeros((4, 5, 3))), r"reward has shape \(4, 5, 3\)"),
        (dict(transition=np.full((2, 5, 3, 5), 0.2)), "given for 2 times"),
        (dict(initial=np.ones(15) / 15), r"initial has shape \(15,\)"),
    ],
)
def test_a_wrong_finite_horizon_says_what_is_wrong(change, message):
    reward, kernel = random_model(5)
    arguments = dict(reward=reward, transition=kernel, horizon=3) | change
    with pytest.raises(ValueError, match=message):
        bx.MDP.finite_horizon(**arguments)  # pyright: ignore[reportArgumentType]


def test_a_file_of_arrays_is_the_model_it_was_saved_from(tmp_path):
    reward, kernel = random_model(6)
    successors = np.broadcast_to(np.arange(5), kernel.shape)
    dense, lists = tmp_path / "dense.npz", tmp_path / "lists.npz"
    np.savez(dense, reward=reward, transition=kernel, discount=0.9)
    available = np.ones((5, 3), bool)
    options: dict[str, Any] = dict(discount=0.5, tau=0.3, initial=np.eye(5)[0], available=available)
    np.savez(lists, reward=reward, next_state=successors, probability=kernel, **options)
    from_dense = bx.best_responses(bx.MDP.from_npz(dense)).values
    np.testing.assert_allclose(from_dense, DiscreteDP(reward, kernel, 0.9).solve("pi").v)
    read = bx.MDP.from_npz(lists, discount=0.8)
    assert (float(read.discount), float(read.tau)) == (0.8, 0.3)
    np.testing.assert_array_equal(read.initial, np.eye(5)[0])
    options |= dict(discount=[0.5, 0.6], tau=[0.3, 0.4])
    np.savez(lists, reward=[reward, reward], next_state=successors, probability=kernel, **options)
    contexts = bx.MDP.from_npz(lists)
    np.testing.assert_array_equal(contexts.discount, [0.5, 0.6])
    np.testing.assert_array_equal(contexts.tau, [0.3, 0.4])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["transition", "discount"], "no array named reward"),
        (["reward", "discount"], "no array named next_state"),
        (["reward", "next_state", "discount"], "no array named probability"),
        (["reward", "transition"], "no array named discount"),
        (["reward", "transition", "probability"], "keep one form"),
        (["reward", "transition", "gamma"], "holds gamma; the names read are"),
    ],
)
def test_a_file_with_a_missing_or_unknown_array_is_refused(tmp_path, names, message):
    reward, kernel = random_model(7)
    arrays = dict(
        reward=reward,
        transition=kernel,
        next_state=np.broadcast_to(np.arange(5), kernel.shape),
        probability=kernel,
        discount=np.float64(0.9),
        gamma=np.float64(0.9),
    )
    path = tmp_path / "model.npz"
    chosen: dict[str, Any] = {name: arrays[name] for name in names}
    np.savez(path, **chosen)
    with pytest.raises(ValueError, match=message):
        bx.MDP.from_npz(path)
