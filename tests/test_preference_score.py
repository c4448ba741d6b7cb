"""The upper level's share of the policy gradient, from answered pairs, against NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevax.deep.buffer import Pairs
from bilevax.deep.networks import Linear
from bilevax.deep.policy import ActorCritic, MLPTorso
from bilevax.deep.reward_model import RewardModel
from bilevax.deep.reward_network import AbstractNetwork
from bilevax.deep.rlhf.pbrl import PreferenceScore, summary_of
from bilevax.deep.rollout import Rollout
from bilevax.deep.segments import Segments
from bilevax.deep.teacher import Answers

PAIRS, LENGTH, WEIGHT = 5, 3, 7.0
ANSWERED = np.array([True, False, True, True, False])
SECOND = np.array([1.0, 0.0, 0.5, 0.0, 1.0])
CHANCE = np.random.default_rng(0)


def policy():
    draw = lambda *shape: jnp.asarray(CHANCE.normal(size=shape), jnp.float32)
    return ActorCritic(
        MLPTorso((), rank=1), Linear(draw(2, 3), draw(3)), Linear(draw(2, 1), draw(1))
    )


def segments(network):
    observation = jnp.asarray(CHANCE.normal(size=(PAIRS, LENGTH, 2)), jnp.float32)
    action = jnp.asarray(CHANCE.integers(3, size=(PAIRS, LENGTH)), jnp.int32)
    log_probs, _ = network(observation)
    chosen = jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]
    return Segments(observation, action, chosen, jnp.zeros((PAIRS, LENGTH), jnp.float32))


class FirstCoordinate(AbstractNetwork):
    """Pays a multiple of the first coordinate of what is observed."""

    factor: jax.Array

    def __call__(self, observation, action):
        return self.factor * observation[..., 0]


model = RewardModel(
    FirstCoordinate(jnp.array([0.5, 1.5], jnp.float32))
)  # two members, 1 on average


@pytest.mark.slow
def test_its_gradient_is_the_covariance_of_loss_and_score_over_answered_pairs():
    network = policy()
    first, second = segments(network), segments(network)
    answers = Answers(jnp.asarray(SECOND, jnp.float32), jnp.asarray(ANSWERED, jnp.float32))
    score = PreferenceScore.create(model, Pairs(first, second, answers), jnp.asarray(WEIGHT), 4000)
    slope = eqx.filter_grad(lambda network, key: score(network, key))
    found = jax.vmap(lambda key: slope(network, key).actor.bias)(
        jax.random.split(jax.random.key(1), 50)
    )

    paid = lambda part: np.asarray(part.observation, float)[..., 0].sum(1)
    margin = paid(second) - paid(first)
    loss = np.logaddexp(0, margin) - SECOND * margin
    surplus = loss - loss[ANSWERED].mean()
    expected = np.zeros(3)
    for pair in np.flatnonzero(ANSWERED):
        for part in (first, second):
            probs = np.exp(np.asarray(network(part.observation[pair])[0], float))
            scores = np.eye(3)[np.asarray(part.action[pair])] - probs
            expected += surplus[pair] * scores.sum(0) / ANSWERED.sum() / WEIGHT
    error = np.asarray(found).std(0) / np.sqrt(len(found))
    assert np.all(np.abs(np.asarray(found).mean(0) - expected) < 5 * error)
    assert np.all(error < np.abs(expected).max() / 20)


@pytest.mark.slow
def test_without_an_answer_it_moves_nothing():
    network = policy()
    first, second = segments(network), segments(network)
    none = Answers(jnp.zeros(PAIRS), jnp.zeros(PAIRS))
    score = PreferenceScore.create(model, Pairs(first, second, none), jnp.asarray(WEIGHT), 8)
    slope = eqx.filter_grad(lambda network: score(network, jax.random.key(0)))(network)
    assert all(np.all(np.asarray(z) == 0) for z in jax.tree.leaves(slope))


@pytest.mark.slow
def test_a_summary_takes_as_many_steps_of_each_environment_and_resets_last():
    fake = jnp.zeros((6, 3), bool).at[jnp.array([0, 2, 5]), jnp.array([0, 0, 2])].set(True)
    label = jnp.arange(18.0).reshape(6, 3, 1)
    zeros, no = jnp.zeros((6, 3)), jnp.zeros((6, 3), bool)
    window = Rollout(
        observation=label,
        action=zeros.astype(int),
        log_prob=zeros,
        value=zeros,
        reward=zeros,
        terminated=no,
        truncated=no,
        fake=fake,
        bootstrap=zeros,
        last_value=zeros[0],
        finished_return=zeros,
        finished_length=zeros.astype(int),
    )
    (observation, _), count = summary_of(model, window, jax.random.key(0), 14)
    assert count == 4 and observation.shape == (3, 4, 1)
    seen = np.asarray(observation[..., 0], int)
    assert all(len(set(row)) == 4 and set(row % 3) == {env} for env, row in enumerate(seen))
    assert not set(seen.ravel()) & set(np.asarray(label[..., 0])[np.asarray(fake)].astype(int))
