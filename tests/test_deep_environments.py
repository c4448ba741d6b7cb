"""Environments against brute force, and what rollouts record of them."""

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from bilevax.deep.actor_critic import A2C
from bilevax.deep.environment import Spec, channels_to_rgb, frame_to_rgb
from bilevax.deep.environments.catcher import Catcher
from bilevax.deep.environments.gymnasium import GymnasiumVector, gymnasium_sampler
from bilevax.deep.environments.minatar import minatar
from bilevax.deep.environments.moving_dot import MovingDot
from bilevax.deep.policy import actor_critic
from bilevax.deep.rollout import collect, collect_on_host, start_actors, start_host_actors
from bilevax.deep.sampler import HostSampler, NoExtra, TrueRate

pytestmark = pytest.mark.slow

N, STEPS = 3, 12
reset = eqx.filter_jit(lambda env, key: env.reset(key))
step = eqx.filter_jit(lambda env, key, state, action: env.step(key, state, action))


@pytest.mark.parametrize("seed", range(3))
def test_the_dot_moves_by_one_cell_and_earns_in_the_left_half(seed):
    env, chance = MovingDot(size=4, horizon=9), np.random.default_rng(seed)
    state, observation = reset(env, jax.random.key(seed))
    row, column = map(int, np.argwhere(np.asarray(observation)[..., 0])[0])
    for time in range(1, 10):
        action = int(chance.integers(5))
        row = min(max(row + {1: -1, 3: 1}.get(action, 0), 0), 3)
        column = min(max(column + {2: 1, 4: -1}.get(action, 0), 0), 3)
        result = step(env, jax.random.key(time), state, jnp.asarray(action))
        assert np.argwhere(np.asarray(result.observation)[..., 0]).tolist() == [[row, column]]
        assert result.reward == (column < 2) and result.reward.dtype == jnp.float32
        assert not result.terminated and bool(result.truncated) == (time == 9)
        state = result.state


@pytest.mark.parametrize("seed", range(3))
def test_the_ball_falls_and_is_caught_by_the_paddle_under_it(seed):
    env, chance = Catcher(size=4), np.random.default_rng(seed)
    state, observation = reset(env, jax.random.key(seed))
    (ball,) = np.argwhere(np.asarray(observation)[0, :, 0])[0]
    paddle = 2
    for row in range(1, 4):
        action = int(chance.integers(3))
        paddle = min(max(paddle + action - 1, 0), 3)
        result = step(env, jax.random.key(0), state, jnp.asarray(action))
        shown = np.asarray(result.observation)
        assert np.argwhere(shown[..., 0]).tolist() == [[row, ball]]
        assert np.argwhere(shown[..., 1]).tolist() == [[3, paddle]]
        assert bool(result.terminated) == (row == 3) and not result.truncated
        expected = 0 if row < 3 else 1 if paddle == ball else -1
        assert result.reward == expected
        state = result.state


@eqx.filter_jit
def walk(env, policy, start, key):
    actors = start_actors(env, start, N)
    again, first = collect(env, policy, actors, key, STEPS)
    return first, collect(env, policy, again, key, STEPS)[1]


@pytest.fixture(scope="module")
def walked():
    env = MovingDot(size=4, horizon=5)
    policy = actor_critic(jax.random.key(0), env.spec, 8, 1)
    keys = jax.random.split(jax.random.key(1), 2)
    return policy, walk(env, policy, *keys), walk(env, policy, *keys)


def test_a_rollout_restarts_episodes_and_sums_each_up(walked):
    _, (first, second), _ = walked
    both = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("reward", "truncated", "finished_return", "finished_length")
    }
    for n in range(N):
        ends = np.flatnonzero(both["truncated"][:, n])
        assert ends.tolist() == [4, 9, 14, 19]
        for end in ends:
            assert both["finished_length"][end, n] == 5
            total = both["reward"][end - 4 : end + 1, n].sum()
            assert both["finished_return"][end, n] == total
    assert np.isnan(both["finished_return"][~both["truncated"]]).all()
    assert (both["finished_length"][~both["truncated"]] == 0).all()


def test_a_rollout_values_what_was_cut_off_and_what_comes_next(walked):
    policy, (first, second), _ = walked
    log_probs, value = policy(first.observation)
    np.testing.assert_allclose(first.value, value, rtol=1e-5)
    chosen = jnp.take_along_axis(log_probs, first.action[..., None], -1)[..., 0]
    np.testing.assert_allclose(first.log_prob, chosen, rtol=1e-5)
    np.testing.assert_allclose(first.last_value, second.value[0], rtol=1e-5)
    # The last observation of a cut episode follows from the step before by the rules of the dot.
    for t, n in np.argwhere(np.asarray(first.truncated)):
        row, column = np.argwhere(np.asarray(first.observation)[t, n, ..., 0])[0]
        move = [[0, 0], [-1, 0], [0, 1], [1, 0], [0, -1]][int(first.action[t, n])]
        row, column = np.clip([row + move[0], column + move[1]], 0, 3)
        last = jnp.zeros((4, 4, 1), bool).at[row, column, 0].set(True)
        np.testing.assert_allclose(first.bootstrap[t, n], policy(last)[1], rtol=1e-5)
    assert (np.asarray(first.bootstrap)[~np.asarray(first.truncated)] == 0).all()


def test_a_rollout_is_the_same_for_the_same_keys_and_keeps_to_32_bits(walked):
    _, first, second = walked
    for leaf, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(leaf, other)
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == jnp.float32
    assert first[0].observation.dtype == bool


def test_minatar_names_its_actions_cuts_at_the_limit_and_repeats_one_action_in_ten():
    pytest.importorskip("gymnax")
    env = minatar("Breakout")
    # MinAtar's own minimal set for Breakout: stay, left, right (Young and Tian 2019).
    assert env.spec.num_actions == 3 and env.spec.observation_shape == (10, 10, 4)
    state, _ = reset(env, jax.random.key(0))
    # One step with each of 2,000 keys: after "left" comes "right", or, sticky, "left" again.
    (game, _), many = state, jax.random.split(jax.random.key(1), 2000)
    moves = jax.jit(jax.vmap(lambda key: env.step(key, (game, jnp.asarray(1)), jnp.asarray(2))))
    results = moves(many)
    played = np.asarray(results.state[1])
    assert set(played.tolist()) == {1, 2}
    share = np.mean(played == 1)
    assert abs(share - 0.1) < 3 * np.sqrt(0.1 * 0.9 / 2000)
    paddle = np.argmax(np.asarray(results.observation)[:, -1, :, 0], axis=1)
    before = int(np.argmax(np.asarray(reset(env, jax.random.key(0))[1])[-1, :, 0]))
    np.testing.assert_array_equal(paddle - before, np.where(played == 1, -1, 1))
    assert not results.truncated.any()
    limit = env.params.max_steps_in_episode
    late = eqx.tree_at(lambda s: s.time, game, jnp.asarray(limit - 1))
    last = jax.jit(env.step)(many[0], (late, jnp.asarray(0)), jnp.asarray(0))
    assert last.truncated and not last.terminated


class Count(gymnasium.Env):
    """Observes the steps of the episode and the episode's number; ends in turn by each kind."""

    observation_space = gymnasium.spaces.Box(0, 99, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2, start=5)
    episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = 1 if seed is not None else self.episode + 1
        self.time = 0
        return np.array([0.0, self.episode]), {}

    def step(self, action):
        assert action in (5, 6)
        self.time += 1
        over = self.time == 2 + self.episode % 2
        observation = np.array([self.time, self.episode], float)
        return observation, 1.0, over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}


def counting(mode):
    return GymnasiumVector(SyncVectorEnv([Count] * N, autoreset_mode=mode), name="count")


@pytest.fixture(scope="module")
def host_policy():
    return actor_critic(jax.random.key(0), counting(AutoresetMode.DISABLED).spec, 8, 1)


def test_frames_are_read_by_dtype_and_other_squares_of_84_without_convolutions():
    key, frames = jax.random.key(0), jax.random.randint(jax.random.key(1), (1, 84, 84, 2), 0, 256)
    spec = lambda shape, dtype: Spec("frames", shape, dtype, 3)
    network = actor_critic(key, spec((84, 84, 2), jnp.uint8))
    whole, unit = frames.astype(jnp.uint8), frames.astype(jnp.float32) / 255
    np.testing.assert_array_equal(network(whole)[0], network(unit)[0])
    flat = actor_critic(key, spec((84, 84), jnp.float32), 4)
    assert flat(unit[..., 0])[0].shape == (1, 3)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_way_of_restarting_gives_the_same_transitions(mode, host_policy):
    env = counting(mode)
    actors = start_host_actors(env, jax.random.key(0))
    _, r = collect_on_host(env, host_policy, actors, jax.random.key(1), STEPS)
    fake = np.asarray(r.fake)
    # Episodes of 3, 2, 3, ... steps, cut short and terminated in turn.
    seen = np.array([[t, e] for e in range(1, 9) for t in range(2 + e % 2)])
    assert fake[:, 0].sum() == (3 if mode is AutoresetMode.NEXT_STEP else 0)
    real = ~fake[:, 0]
    np.testing.assert_array_equal(r.observation[real, 0], seen[: real.sum()])
    done = np.asarray(r.terminated | r.truncated)[:, 0]
    odd = r.observation[:, 0, 1] % 2 == 1
    np.testing.assert_array_equal(np.asarray(r.truncated)[:, 0], done & odd)
    np.testing.assert_array_equal(r.finished_length[done, 0], 2 + odd[done])
    np.testing.assert_array_equal(r.finished_return[done, 0], 2 + odd[done])
    np.testing.assert_array_equal(r.reward, ~fake)
    last = np.stack([np.full(STEPS, 3.0), r.observation[:, 0, 1]], -1).astype(np.float32)
    expected = np.where(r.truncated[:, 0], host_policy(jnp.asarray(last))[1], 0)
    np.testing.assert_allclose(r.bootstrap[:, 0], expected, rtol=1e-5)
    assert r.observation.dtype == np.float32


def test_what_cannot_be_learned_from_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"Pendulum.*Box.*finitely many.*DiscretizeAction"):
        gymnasium_sampler("Pendulum-v1", 2, 4).spec  # noqa: B018
    tuples = Count()
    tuples.observation_space = gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2))
    vector = SyncVectorEnv([lambda: tuples])
    with pytest.raises(ValueError, match=r"observation space is Dict.*FlattenObservation"):
        GymnasiumVector(vector)
    vector = SyncVectorEnv([Count])
    vector.metadata = {}
    with pytest.raises(ValueError, match="metadata"):
        GymnasiumVector(vector)


def test_states_become_one_hot_vectors_and_equal_seeds_equal_episodes():
    env = GymnasiumVector(gymnasium.make_vec("FrozenLake-v1", num_envs=2))
    assert env.spec.observation_shape == (16,)
    runs = [
        [env.reset(7), *(env.step(np.full(2, a)).observation for a in (1, 2, 1, 2))]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (np.asarray(runs).sum(-1) == 1).all() and np.argmax(runs[0][0], -1).tolist() == [0, 0]


def test_a_host_sampler_makes_each_vector_once_and_minds_who_left_it_where(host_policy):
    made = []

    def make(count):
        made.append(count)
        vector = SyncVectorEnv([Count] * count)
        return GymnasiumVector(vector, name="count")

    tracking, acting = HostSampler(make, 4, 3).split(2)
    first, second = (s.start(jax.random.key(0)) for s in (tracking, acting))
    assert made == [2, 2] and acting.spec.num_actions == 2
    agent = A2C(optax.sgd(0.1)).start(host_policy, 2)
    options = dict(iterations=2, window=1)
    go = lambda sampler, actors: sampler.improve(
        None, agent, actors, TrueRate(), NoExtra(), jax.random.key(0), **options
    )
    done = go(tracking, first)
    assert go(acting, second).summary.steps == done.summary.steps
    assert made == [2, 2] and done.window.observation.shape == (3, 2, 2)
    with pytest.raises(ValueError, match=r"not where these actors left them.*start"):
        go(tracking, first)
    go(tracking, done.actors)
    go(tracking, tracking.start(jax.random.key(3)))


def test_pictures_are_colours_of_bytes():
    image = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert (frame_to_rgb(image, 1) == image[..., 3:]).all()
    assert (frame_to_rgb(image[..., :3], 1) == image[..., :3]).all()
    assert frame_to_rgb(image[..., 0], 2).shape == (4, 6, 3)
    assert channels_to_rgb(image > 5, 2).shape == (4, 6, 3)
    assert counting(AutoresetMode.NEXT_STEP).picture(np.array([0.0, 1.0])).dtype == np.uint8
