"""Actor-critics against NumPy, and on probes so small that each failure names its cause."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevax.deep.actor_critic import A2C, PPO, ReturnScale, advantages
from bilevax.deep.environment import AbstractEnvironment, Spec, Step
from bilevax.deep.networks import Linear
from bilevax.deep.policy import ActorCritic, MLPTorso, actor_critic
from bilevax.deep.rollout import Rollout
from bilevax.deep.sampler import CompiledSampler, NoExtra, TrueRate

pytestmark = pytest.mark.slow

T, N, DISCOUNT, TRACE = 7, 4, 0.8, 0.6
TAU, VALUE_WEIGHT = 3 / np.sqrt(2) / np.log(2), 0.3


def events(chance):
    """An end is a termination, a truncation, or none; the step after some of the ends is fake."""
    kind = chance.choice(3, (T, N), p=(0.6, 0.2, 0.2))
    terminated, truncated, fake = kind == 1, kind == 2, np.zeros((T, N), bool)
    for t, n in np.ndindex(T - 1, N):
        fake[t + 1, n] = (kind[t, n] > 0) and not fake[t, n] and chance.random() < 0.7
    return terminated & ~fake, truncated & ~fake, fake


def rollout(seed, policy=None):
    """A rollout of random numbers, with the policy's own values where there is one."""
    chance = np.random.default_rng(seed)
    terminated, truncated, fake = events(chance)
    draw = lambda *shape: jnp.asarray(chance.normal(size=shape), jnp.float32)
    observation, action = draw(T, N, 3), jnp.asarray(chance.integers(2, size=(T, N)), jnp.int32)
    log_prob, value = draw(T, N), draw(T, N)
    if policy is not None:
        log_probs, value = policy(observation)
        log_prob = jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]
    return Rollout(
        observation=observation,
        action=action,
        log_prob=log_prob,
        value=value,
        reward=draw(T, N),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        fake=jnp.asarray(fake),
        bootstrap=jnp.where(truncated, draw(T, N), 0),
        last_value=draw(N),
        finished_return=draw(T, N),
        finished_length=jnp.zeros((T, N), jnp.int32),
    )


def linear_policy(seed):
    """Logits and value linear in the observation: its gradients fit on a line."""
    chance = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(0.3 * chance.normal(size=shape), jnp.float32)
    head = lambda outputs: Linear(draw(3, outputs), draw(outputs))
    return ActorCritic(MLPTorso((), rank=1), head(2), head(1))


def by_definition(r, reward):
    """Generalised advantages as sums of discounted residuals, each up to its episode's end."""
    value, reward = np.asarray(r.value, float), np.asarray(reward, float)
    ended = np.asarray(r.terminated | r.truncated)
    result = np.zeros((T, N))
    for t, n in np.ndindex(T, N):
        for k in range(t, T):
            following = value[k + 1, n] if k + 1 < T else r.last_value[n]
            if r.terminated[k, n]:
                following = 0
            elif r.truncated[k, n]:
                following = r.bootstrap[k, n]
            residual = reward[k, n] + DISCOUNT * following - value[k, n]
            result[t, n] += (DISCOUNT * TRACE) ** (k - t) * residual
            if ended[k, n]:
                break
    return result


def gradient_by_hand(policy, r, advantage, target):
    """d/d(actor, critic) of -E[A log pi] - TAU E[H] + VALUE_WEIGHT E[(V - target)^2]."""
    observation = np.concatenate([np.asarray(r.observation, float), np.ones((T, N, 1))], -1)
    log_probs, value = (np.asarray(z, float) for z in policy(r.observation))
    keep = ~np.asarray(r.fake) / np.sum(~np.asarray(r.fake))
    probs, chosen = np.exp(log_probs), np.eye(2)[np.asarray(r.action)]
    entropy = -(probs * log_probs).sum(-1, keepdims=True)
    logits = -advantage[..., None] * (chosen - probs) + TAU * probs * (log_probs + entropy)
    actor = np.einsum("tn,tni,tna->ia", keep, observation, logits)
    critic = np.einsum("tn,tni->i", keep * 2 * VALUE_WEIGHT * (value - target), observation)
    return actor, critic


def moved(learner, policy, r, reward):
    """Minus what one gradient step of size 1 adds to the actor and to the critic."""
    agent = learner.start(policy, N)
    new, _ = update(learner, agent, r, reward)
    stacked = lambda head: np.concatenate([np.asarray(head.weight), np.asarray(head.bias)[None]])
    difference = lambda a, b: stacked(a) - stacked(b)
    return (
        difference(policy.actor, new.network.actor),
        difference(policy.critic, new.network.critic)[:, 0],
        float(new.scale.deviation),
    )


@eqx.filter_jit
def update(learner, agent, r, reward):
    return learner.update(agent, r, reward, jax.random.key(0), lambda network, step: jnp.float32(0))


options = dict(discount=DISCOUNT, trace=TRACE, entropy=TAU, value_weight=VALUE_WEIGHT)
a2c = A2C(optax.sgd(1.0), **options)
ppo = PPO(optax.sgd(1.0), **options, epochs=1, minibatches=1)
advantages_of = jax.jit(lambda r, reward: advantages(r, reward, DISCOUNT, TRACE))


@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_discounted_residuals_up_to_the_end_of_an_episode(seed):
    r = rollout(seed)
    found = advantages_of(r, r.reward)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_definition(r, r.reward), rtol=2e-5, atol=2e-5)


def test_the_scale_is_the_spread_of_discounted_returns_and_forgets_slowly():
    chance = np.random.default_rng(0)
    rewards, done = chance.normal(size=(3, T, N)), chance.random((3, T, N)) < 0.3
    real = chance.random((3, T, N)) < 0.8
    scale, running, moments, weights = ReturnScale.start(N), np.zeros(N), np.zeros((2, 3)), []
    for k in range(3):
        scale = scale.update(
            jnp.asarray(rewards[k], jnp.float32), jnp.asarray(done[k]), jnp.asarray(real[k]), 0.9
        )
        returns = np.zeros((T, N))
        for t, n in np.ndindex(T, N):
            running[n] = 0.9 * running[n] + rewards[k, t, n] if real[k, t, n] else 0
            returns[t, n] = running[n]
            running[n] *= not done[k, t, n]
        moments[:, k] = [np.mean(returns[real[k]] ** p) for p in (1, 2)]
        weights = 0.01 * 0.99 ** np.arange(k, -1, -1)
    mean, second = np.asarray(moments) @ weights / np.sum(weights)
    np.testing.assert_allclose(scale.deviation, np.sqrt(second - mean**2), rtol=1e-4)
    assert scale.deviation.dtype == jnp.float32


def test_rewards_that_never_vary_keep_their_size():
    scale = ReturnScale.start(N)
    assert scale.deviation == 1
    ones, yes = jnp.ones((T, N), jnp.float32), jnp.ones((T, N), bool)
    assert scale.update(ones, yes, yes, 0.9).deviation == 1


@pytest.mark.parametrize("learner", [a2c, ppo], ids=["A2C", "PPO"])
def test_a_step_follows_the_gradient_written_by_hand(learner):
    policy = linear_policy(1)
    r = rollout(2, policy)
    actor, critic, deviation = moved(learner, policy, r, r.reward)
    advantage = by_definition(r, r.reward / deviation)
    target = np.asarray(r.value) + advantage
    if learner is ppo:
        real = advantage[~np.asarray(r.fake)]
        advantage = (advantage - real.mean()) / real.std()
    by_hand = gradient_by_hand(policy, r, advantage, target)
    for found, expected in zip((actor, critic), by_hand, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learner", [a2c, ppo], ids=["A2C", "PPO"])
@pytest.mark.parametrize("reward", [0.0, 2.0])
def test_a_reward_that_was_never_other_than_constant_moves_the_critic_alone(learner, reward):
    policy = linear_policy(1)
    r = rollout(2, policy)
    # Every step ends its episode, so that all returns are one reward.
    whole = dict(terminated=jnp.ones_like(r.terminated), fake=jnp.zeros_like(r.fake))
    r = dataclasses.replace(r, **whole)
    plain = dataclasses.replace(learner, entropy=0.0)
    actor, critic, deviation = moved(plain, policy, r, jnp.full_like(r.reward, reward))
    assert deviation == 1 and np.all(actor == 0) and np.any(critic != 0)


@pytest.mark.parametrize("learner", [a2c, ppo], ids=["A2C", "PPO"])
def test_what_an_automatic_reset_holds_changes_nothing(learner):
    policy = linear_policy(1)
    r = rollout(2, policy)
    assert r.fake.any()
    shown = jnp.where(r.fake[..., None], 9.0, r.observation)
    other = eqx.tree_at(lambda r: (r.observation, r.action), r, (shown, r.action ^ r.fake))
    first, second = (
        moved(learner, policy, r, reward)
        for r, reward in ((r, r.reward), (other, jnp.where(r.fake, -50.0, r.reward)))
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_the_entropy_bonus_stops_at_the_softmax_of_the_scaled_reward_over_tau():
    """A bandit that pays 1 for the second arm, pulled twice in three: the scale is sqrt(2) / 3.

    softmax((0, 1) / scale / TAU) is (1, 2) / 3: there, and only there, the actor stands still.
    """
    ends = jnp.zeros((T, N), bool).at[:, :3].set(True)
    action = jnp.broadcast_to(jnp.asarray([1, 1, 0, 0]), (T, N)).astype(jnp.int32)
    bandit = eqx.tree_at(
        lambda r: (r.action, r.terminated, r.truncated, r.fake, r.value, r.bootstrap),
        rollout(0),
        (action, ends, ~ends & False, ~ends, *2 * (jnp.zeros((T, N), jnp.float32),)),
    )
    bandit = eqx.tree_at(lambda r: r.observation, bandit, 0 * bandit.observation)
    reward = action.astype(jnp.float32)
    for odds, still in ((2, True), (1.5, False), (3, False)):
        bias = jnp.asarray([0, np.log(odds)], jnp.float32)
        policy = eqx.tree_at(lambda p: p.actor.bias, linear_policy(0), bias)
        actor, _, deviation = moved(a2c, policy, bandit, reward)
        np.testing.assert_allclose(deviation, np.sqrt(2) / 3, rtol=1e-4)
        assert (np.abs(actor).max() < 1e-5) == still


class Probe(AbstractEnvironment):
    """Observations (1, time, sign), the sign of 1 or -1 drawn at the start.

    A rule is a number and not a name, so that one compiled program serves all of them.
    """

    rule: jax.Array

    @property
    def spec(self):
        return Spec("probe", (3,), jnp.float32, 2)

    def reset(self, key):
        state = (jnp.zeros((), jnp.int32), 2 * jax.random.bernoulli(key).astype(jnp.int32) - 1)
        return state, self._show(state)

    def step(self, key, state, action):
        time, sign = state
        right = 2 * (action == 1) - 1
        last, over = (self.rule != 1) | (time == 1), self.rule != 5
        rewards = jnp.stack([1, time, sign, right, right * sign, 1]).astype(jnp.float32)
        state = (jnp.where(last, 0, time + 1), sign)
        return Step(state, self._show(state), rewards[self.rule], last & over, last & ~over)

    def _show(self, state):
        return jnp.stack([1, *state]).astype(jnp.float32)


HALF = dict(discount=0.5, trace=0.9)
LEARNERS = {
    "A2C": A2C(optax.adam(1e-2), **HALF),
    "PPO": PPO(optax.adam(3e-3), **HALF, epochs=2, minibatches=2),
}
ONE_STEP, TWO_STEPS, SHOWN, DONE, DONE_WHERE, CUT = range(6)


def train(name, rule):
    """Probabilities of action 1 and values at (time, sign) = (0, -1), (0, 1), (1, 1)."""
    sampler, learner = CompiledSampler(Probe(jnp.asarray(rule)), 16, 4), LEARNERS[name]
    agent = learner.start(actor_critic(jax.random.key(0), sampler.spec, 16, 1), 16)
    actors = sampler.start(jax.random.key(1))
    done = sampler.improve(
        learner, agent, actors, TrueRate(), NoExtra(), jax.random.key(2), iterations=250, window=1
    )
    shown = jnp.asarray([[1, 0, -1], [1, 0, 1], [1, 1, 1]], jnp.float32)
    log_probs, value = done.agent.network(shown)
    return np.exp(log_probs[:, 1]), np.asarray(value * done.agent.scale.deviation)


@pytest.fixture(params=LEARNERS)
def name(request):
    return request.param


def test_one_step_that_earns_1_is_worth_1(name):
    np.testing.assert_allclose(train(name, ONE_STEP)[1][:2], 1, atol=0.03)


def test_a_reward_one_step_later_is_discounted_once(name):
    np.testing.assert_allclose(train(name, TWO_STEPS)[1][1:], [0.5, 1], atol=0.04)


def test_the_value_depends_on_what_is_observed(name):
    np.testing.assert_allclose(train(name, SHOWN)[1][:2], [-1, 1], atol=0.05)


def test_the_action_that_pays_is_chosen(name):
    probability, _ = train(name, DONE)
    assert np.all(probability[:2] > 0.95)


def test_the_action_that_pays_is_chosen_where_it_pays(name):
    probability, value = train(name, DONE_WHERE)
    assert probability[0] < 0.05 and probability[1] > 0.95
    np.testing.assert_allclose(value[:2], 1, atol=0.15)


def test_an_episode_cut_short_is_worth_what_would_have_followed(name):
    np.testing.assert_allclose(train(name, CUT)[1][:2], 1 / (1 - 0.5), atol=0.1)


@pytest.mark.parametrize("learner", [a2c, ppo], ids=["A2C", "PPO"])
def test_an_extra_loss_is_divided_by_what_advantages_are_divided_by(learner):
    policy = linear_policy(1)
    r = rollout(2, policy)
    slope = jnp.array([2.0, -3.0], jnp.float32)
    extra = lambda network, step: network.actor.bias @ slope
    agent = learner.start(policy, N)
    new, _ = learner.update(agent, r, r.reward, jax.random.key(0), extra)
    actor, _, deviation = moved(learner, policy, r, r.reward)
    unit = deviation
    if learner is ppo:
        advantage = by_definition(r, r.reward / deviation)
        unit = deviation * advantage[~np.asarray(r.fake)].std()
    added = np.asarray(policy.actor.bias - new.network.actor.bias) - actor[-1]
    np.testing.assert_allclose(added, np.asarray(slope) / unit, rtol=1e-4, atol=1e-5)
