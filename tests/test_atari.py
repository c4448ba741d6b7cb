"""Atari through the whole path: episodes, what is hidden, seeds, and PBRL on Pong."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("ale_py")

from bilevax.deep import reward_network
from bilevax.deep.actor_critic import A2C
from bilevax.deep.adam_learner import AdamRewardLearner
from bilevax.deep.environments.atari import HIDDEN, Atari, Blank, Rectangle
from bilevax.deep.reward_network import StridedReward
from bilevax.deep.rlhf import PBRL, Setup
from bilevax.deep.rlhf.run import run_rlhf
from bilevax.deep.sampler import HostSampler
from bilevax.deep.schedule import Even

pytestmark = pytest.mark.slow


def played(env, steps, seed=3):
    """Observations, rewards, ends and fake steps of random actions."""
    chance = np.random.default_rng(0)
    records = [(env.reset(seed), *3 * (np.zeros(env.num_envs),))]
    for _ in range(steps):
        step = env.step(chance.integers(env.spec.num_actions, size=env.num_envs))
        records.append((step.observation, step.reward, step.terminated, step.fake))
    return [np.stack(part) for part in zip(*records, strict=True)]


def test_pbrl_walks_asks_fits_and_improves_on_pong():
    """3,040 frames of games cut after 240, and the games of the final evaluation."""
    setup = Setup(
        sampler=HostSampler(lambda count: Atari("pong", count, max_frames=240), 8, 8),
        learner=A2C(optax.adam(1e-4)),
        steps=512,
        rounds=1,
        labels=3,
        schedule=Even(),
        window=4,
        members=2,
        reward_learner=AdamRewardLearner(checks=1),
        first_fit_steps=2,
        batch=2,
        capacity=4,
        candidates=1,
    )
    algorithm = PBRL(setup, tracker_share=0.5, frames=32, scored_steps=8)
    (seed,) = run_rlhf(algorithm, [0], episodes=2).seeds
    # In 32 steps and then, restarted, 64 steps of 8 games, each is cut once and reset by one step.
    assert not seed.fault and seed.labels == 3 and seed.steps == 8 * (32 + 64 - 1)
    for learner in (seed.state.policy, seed.state.tracker):
        assert np.asarray(learner.window.fake).sum() == 4  # pyright: ignore
    assert all(-21 <= one <= 0 for one in seed.returns)
    for leaf in jax.tree.leaves((seed.state.reward.model, seed.state.policy.agent)):
        assert np.isfinite(leaf).all()
    setup.sampler.make.close()  # pyright: ignore


def test_a_lost_game_ends_once_pays_21_to_0_and_one_fake_step_follows():
    env = Atari("pong", 2, threads=1)
    assert env.spec.name == "atari-pong" and env.spec.hidden == "score"
    assert env.spec.observation_shape == (84, 84, 4) and env.spec.num_actions == 6
    observation, reward, terminated, fake = played(env, 1100)
    assert observation.dtype == np.uint8 and reward.dtype == np.float64
    for n in range(2):
        (first, *_) = np.flatnonzero(terminated[:, n])
        lost, won = (
            -reward[: first + 1, n].clip(None, 0).sum(),
            reward[: first + 1, n].clip(0).sum(),
        )
        assert lost == 21 and won < 21
        assert np.flatnonzero(fake[:, n])[0] == first + 1
        assert fake[:, n].sum() in (terminated[:, n].sum(), terminated[:-1, n].sum())
        assert reward[first + 1, n] == 0
    # The last axis holds the last four frames: each moves down by one from step to step.
    inside = np.flatnonzero((terminated + fake)[1:100].sum(1) == 0)
    np.testing.assert_array_equal(observation[inside + 1, ..., :3], observation[inside, ..., 1:])
    env.close()


def test_rewards_are_the_games_own_and_what_shows_them_is_black():
    shown = Atari("space-invaders", 2, blank=Blank("", ()), threads=1)
    hidden = Atari("space-invaders", 2, threads=1)
    (frames, reward, *_), (masked, same, *_) = played(shown, 150), played(hidden, 150)
    assert reward.max() >= 5 and set(reward[reward > 0] % 5) == {0}
    np.testing.assert_array_equal(reward, same)
    # Rows that change only when points are made show the score: they are black, others are not.
    np.testing.assert_array_equal(masked[:, :, 9:], frames[:, :, 9:])
    assert frames[:, :, :9].any() and not masked[:, :, :9].any()
    for env in (shown, hidden):
        env.close()


def test_what_is_hidden_lies_within_the_frame():
    for game, blank in HIDDEN.items():
        assert blank.what, game
        for top, bottom, left, right in blank.where:
            assert 0 <= top < bottom <= 84 and 0 <= left < right <= 84
    assert Rectangle(1, 2) == (1, 2, 0, 84)


def test_games_repeat_for_a_seed_on_any_number_of_threads():
    one, two = Atari("breakout", 3, threads=1), Atari("breakout", 3, threads=2)
    first, second, third = played(one, 40), played(two, 40), played(one, 40, seed=4)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != third[0]).any()
    assert one.picture(first[0][0, 0]).shape == (252, 252, 3)
    one.close()
    two.close()


@pytest.mark.parametrize(
    "game, options, message",
    [
        ("beam-ridre", {}, "game is 'beam-ridre'; did you mean beam-rider"),
        ("pong", dict(sticky=2.0), "sticky is 2.0; give a probability"),
        ("alien", {}, "where alien shows its score is not known; give blank"),
    ],
)
def test_a_wrong_game_or_option_is_named(game, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Atari(game, 1, **options)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'bilevax[atari]'")):
        Atari("pong", 1)


def test_a_reward_of_patches_is_a_dense_network_on_averaged_cells():
    """Against loops over patches, for an image whose sides are no multiples of 12."""
    network = StridedReward.create(jax.random.key(0), (14, 23, 3), 4, scale=1 / 255)
    chance = np.random.default_rng(0)
    image = chance.integers(256, size=(5, 14, 23, 3)).astype(np.uint8)
    action = chance.integers(4, size=5)
    whole = np.zeros((5, 24, 24, 3))
    whole[:, :14, :23] = image / 255
    features = []
    for row, column in np.ndindex(2, 2):
        patch = whole[:, 12 * row :, 12 * column :][:, :12, :12]
        cells = sum(patch[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        features.append(jnp.maximum(network.patch(jnp.asarray(cells.reshape(5, -1))), 0))  # pyright: ignore
    hidden = network.hidden(jnp.concatenate(features, -1)) + network.action_bias[action]
    expected = network.head(jnp.maximum(hidden, 0))[:, 0]
    np.testing.assert_allclose(
        network(jnp.asarray(image[None]), jnp.asarray(action[None]))[0], expected, atol=1e-10
    )


def test_a_reward_of_more_images_than_are_taken_at_once_is_the_same(monkeypatch):
    network = StridedReward.create(jax.random.key(0), (14, 23, 3), 4, scale=1 / 255)
    chance = np.random.default_rng(0)
    image = jnp.asarray(chance.integers(256, size=(3, 5, 14, 23, 3)).astype(np.uint8))
    action = jnp.asarray(chance.integers(4, size=(3, 5)))
    expected = network(image, action)
    monkeypatch.setattr(reward_network, "_AT_ONCE", 4)
    np.testing.assert_allclose(network(image, action), expected, rtol=1e-6)
