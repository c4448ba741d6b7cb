"""PBRL for RLHF: the reward model and the policy descend one penalised objective together."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._solver.weight import AbstractWeight, as_weight
from ..._types import Array, Float, Scalar
from ..buffer import Pairs
from ..policy import ActorCritic
from ..preference_loss import bradley_terry_loss
from ..reward_network import AbstractReward
from ..rollout import Rollout
from ..sampler import AbstractExtra, NoExtra
from ..teacher import Answers
from .base import (
    AbstractAlgorithm,
    Learner,
    PredictedRate,
    first_state,
    mean_reward,
    renewed_normalizer,
)
from .setup import Setup


class PBRL(AbstractAlgorithm):
    """min over x, y of f(x, y) + weight p(x, y)  (Shen, Yang and Chen 2025; spec (M4), (M8)).

    f is minus the expected log-likelihood of labels on pairs drawn from pi_y, p the value penalty
    E_pi_hat[r_x] - E_pi_y[r_x], both per step and in the normalised reward, held fixed over a
    round. A tracker pi_hat follows the best response to r_x:

        x       descends  grad f + weight (E_pi_hat - E_pi_y)[grad r_x]
        y       ascends   grad V_x^{pi_y} - (1/weight) grad_y f
        pi_hat  ascends   grad V_x^{pi_hat}

    grad_y f is the score function of the labels' loss on the segments themselves; how earlier
    steps lead to a segment is left out, as is the discount in the visited states, both as usual
    for deep actor-critics. The response is never worse than the policy: where the tracker earns
    less than pi_y, pi_y is the better response, the penalty is 0, and the tracker starts again
    from there. Steps of both policies count; pi_y is the one that is scored.

    Attributes:
        penalty_weight: a number, or a schedule over rounds such as ``Homotopy``.
        tracker_share: the share of the environments that the tracker acts in.
        frames: steps of each policy that the penalty's expectations are estimated from.
        scored_pairs: fresh pairs in each estimate of grad_y f.
    """

    setup: Setup
    penalty_weight: AbstractWeight = eqx.field(converter=as_weight, default=10.0)
    tracker_share: float = eqx.field(static=True, default=0.125)
    frames: int = eqx.field(static=True, default=256)
    scored_pairs: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        if not 0 < self.tracker_share < 1:
            raise ValueError(
                f"PBRL: tracker_share is {self.tracker_share}; give a share between 0 and 1."
            )
        if self._tracking.count < 1 or self._acting.count < 1:
            raise ValueError(
                f"PBRL: {self.setup.sampler.count} environments cannot be split between two "
                "policies; give at least 2."
            )

    @property
    def _split(self):
        sampler = self.setup.sampler
        return sampler.split(max(1, round(self.tracker_share * sampler.count)))

    @property
    def _tracking(self):
        return self._split[0]

    @property
    def _acting(self):
        return self._split[1]

    @property
    def samplers(self):
        return self._acting, self._tracking

    @property
    def asks(self):
        return True

    def init(self, key):
        weight = self.penalty_weight.init()
        return first_state(self.setup, key, self._acting, self._tracking, weight)

    def fit(self, state, key, steps):
        fit_key, frame_key = jax.random.split(key)
        assert state.tracker is not None
        penalty = _penalty(state, frame_key, self.frames)
        reward, metrics = self.setup.reward_learner.fit(
            state.reward,
            state.buffer,
            fit_key,
            steps=steps,
            batch=self.setup.batch,
            penalty=penalty,
        )
        state = eqx.tree_at(lambda s: s.reward, state, reward)
        return eqx.tree_at(lambda s: s.normalizer, state, renewed_normalizer(state)), metrics

    def improve(self, state, key):
        setup, tracker = self.setup, state.tracker
        assert tracker is not None
        act_key, track_key = jax.random.split(key)
        rate = PredictedRate(state.reward.model, state.normalizer)
        extra = _score(state, self.scored_pairs)
        options = dict(iterations=setup.iterations, window=setup.window)
        acted = self._acting.improve(
            setup.learner, state.policy.agent, state.policy.actors, rate, extra, act_key, **options
        )
        tracked = self._tracking.improve(
            setup.learner, tracker.agent, tracker.actors, rate, NoExtra(), track_key, **options
        )
        policy = Learner(acted.agent, acted.actors, acted.window)
        tracker = Learner(tracked.agent, tracked.actors, tracked.window)
        tracker = _at_least(state, policy, tracker)
        step = state.round + 1
        steps = state.steps + acted.summary.steps + tracked.summary.steps
        weight = self.penalty_weight.next(state.weight, step, jnp.asarray(jnp.nan))
        return eqx.tree_at(
            lambda s: (s.policy, s.tracker, s.steps, s.weight),
            state,
            (policy, tracker, steps, weight),
        ), acted.summary


class Frames(eqx.Module):
    """Steps of one policy, flat: observations ``[K, *obs]`` and actions ``[K]``."""

    observation: Array
    action: Array

    @classmethod
    def draw(cls, window: Rollout, key, count: int) -> "Frames":
        """``count`` steps of a window, uniformly, automatic resets left out."""
        steps, envs = window.action.shape
        real = (~window.fake).reshape(-1).astype(jnp.float32)
        index = jax.random.choice(key, steps * envs, (count,), p=real / jnp.sum(real))
        time, env = index // envs, index % envs
        return cls(window.observation[time, env], window.action[time, env])


class PolicyDifference(eqx.Module):
    """weight max(0, E_pi_hat[r] - E_pi_y[r]) / scale for a reward network r, from frames."""

    tracker: Frames
    policy: Frames
    weight: Scalar
    scale: Scalar

    def __call__(self, member: AbstractReward) -> Scalar:
        """The penalty on this network."""
        mean = lambda frames: jnp.mean(member(frames.observation, frames.action))
        gain = (mean(self.tracker) - mean(self.policy)) / self.scale
        return self.weight * jnp.maximum(gain, 0)


class PreferenceScore(AbstractExtra):
    """(1/weight) times a function of the policy whose gradient estimates grad_y f.

    At the policy that drew the pairs its gradient is the mean over pairs of (loss - mean loss)
    times the score of their actions. The policy moves on while the pairs stay, so each action
    counts with its probability ratio pi / pi_old, in the form of Schulman et al. (2017): the
    gradient ends once an action is ``ratio_range`` more, or less, likely than when it was drawn.

    Attributes:
        pairs: drawn from the policy at the start of the round.
        surplus: each pair's loss minus their mean, 0 where there is no answer.
        weight: the penalty weight.
        count: pairs drawn for each estimate.
        ratio_range: how far an action's probability may move.
    """

    pairs: Pairs
    surplus: Float[Array, " Q"]
    weight: Scalar
    count: int = eqx.field(static=True)
    ratio_range: float = eqx.field(static=True, default=0.2)

    def __call__(self, network: ActorCritic, key):
        rows = jax.random.randint(key, (self.count,), 0, self.surplus.shape[0])
        pairs, surplus = self.pairs.take(rows), self.surplus[rows, None]

        def surrogate(segments):
            log_probs, _ = network(segments.observation)
            chosen = jnp.take_along_axis(log_probs, segments.action[..., None], -1)[..., 0]
            ratio = jnp.exp(chosen - segments.log_prob)
            near = jnp.clip(ratio, 1 - self.ratio_range, 1 + self.ratio_range)
            # f is to fall: the larger of both is its pessimistic estimate.
            return jnp.sum(jnp.maximum(ratio * surplus, near * surplus), axis=1)

        total = surrogate(pairs.first) + surrogate(pairs.second)
        return jnp.mean(total) / self.weight


@eqx.filter_jit
def _penalty(state, key, count):
    first, second = jax.random.split(key)
    return PolicyDifference(
        Frames.draw(state.tracker.window, first, count),
        Frames.draw(state.policy.window, second, count),
        state.weight,
        state.normalizer.scale,
    )


@eqx.filter_jit
def _score(state, count):
    pairs, model = state.fresh, state.reward.model
    first = jnp.mean(model.sums(pairs.first), axis=0)
    second = jnp.mean(model.sums(pairs.second), axis=0)
    one = lambda a, b, s, w: bradley_terry_loss(a[None], b[None], Answers(s[None], w[None]))
    loss = jax.vmap(one)(first, second, pairs.answers.second, pairs.answers.weight)
    known = pairs.answers.weight > 0
    mean = jnp.sum(jnp.where(known, loss, 0)) / jnp.maximum(jnp.sum(known), 1)
    # Scaled so that a draw among all rows, empty ones too, averages over the known ones.
    share = known.shape[0] / jnp.maximum(jnp.sum(known), 1)
    return PreferenceScore(pairs, jnp.where(known, (loss - mean) * share, 0), state.weight, count)


@eqx.filter_jit
def _at_least(state, policy, tracker):
    """The tracker, or the policy's network in its place where that one earns more."""
    model = state.reward.model
    behind = mean_reward(model, tracker.window) < mean_reward(model, policy.window)
    network = jax.tree.map(
        lambda a, b: jnp.where(behind, a, b), policy.agent.network, tracker.agent.network
    )
    return eqx.tree_at(lambda t: t.agent.network, tracker, network)
