"""PBRL for RLHF: the reward model and the policy descend one penalised objective together."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._solver.weight import AbstractWeight, as_weight
from ..._types import Array, Float, Int, Key, PyTree, Scalar
from ..buffer import Pairs
from ..policy import ActorCritic
from ..preference_loss import bradley_terry_loss
from ..reward_model import RewardModel
from ..reward_network import AbstractReward
from ..rollout import Rollout
from ..sampler import AbstractExtra
from ..segments import Segments
from ..teacher import Answers
from .base import (
    AbstractAlgorithm,
    PredictedRate,
    first_state,
    fitted,
    improved,
    mean_reward,
)
from .setup import Setup


class PBRL(AbstractAlgorithm):
    """min over x, y of f(x, y) + weight p(x, y)  (Shen, Yang and Chen 2025; spec (M4), (M8)).

    f is minus the expected log-likelihood of labels on pairs drawn from pi_y, p the value penalty
    E_pi_hat[r_x] - E_pi_y[r_x], both per step and in the normalised reward, held fixed over a
    round. A tracker pi_hat follows the best response to r_x:

        x       descends  grad f + weight (E_pi_hat - E_pi_y)[grad r_x]   where that is resolved,
                          by the reward that grad f alone leads to
        y       ascends   grad V_x^{pi_y} - (1/weight) grad_y f
        pi_hat  ascends   grad V_x^{pi_hat}

    grad_y f is the score function of the labels' loss on the segments themselves; how earlier
    steps lead to a segment is left out, as is the discount in the visited states, both as usual
    for deep actor-critics. So is that pairs are chosen among candidates, come from the last
    rollouts rather than from one policy, and have been fitted to. Where the tracker was seen to
    earn less than pi_y, pi_y is the better response, and the tracker starts again from there.
    Steps of both policies count; pi_y is the one that is scored.

    Attributes:
        penalty_weight: a number, or a schedule over rounds such as ``Homotopy``.
        tracker_share: the share of the environments that the tracker acts in.
        frames: steps of each policy that the penalty's expectations are estimated from, at most.
        errors: standard errors by which the tracker has to be ahead before it is penalised.
        scored_steps: steps of fresh segments in each estimate of grad_y f.
    """

    setup: Setup
    penalty_weight: AbstractWeight = eqx.field(converter=as_weight, default=10.0)
    tracker_share: float = eqx.field(static=True, default=0.125)
    frames: int = eqx.field(static=True, default=256)
    errors: float = eqx.field(static=True, default=2.0)
    scored_steps: int = eqx.field(static=True, default=64)

    def __check_init__(self):
        for name in ("frames", "scored_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"PBRL: {name} is {getattr(self, name)}; give at least 1.")
        if not self.errors >= 0:
            raise ValueError(f"PBRL: errors is {self.errors}; give at least 0.")
        if not 0 < self.tracker_share < 1:
            raise ValueError(
                f"PBRL: tracker_share is {self.tracker_share}; give a share between 0 and 1."
            )
        count, tracking = self.setup.sampler.count, self._tracking.count
        if count < 3 or tracking == count:
            raise ValueError(
                f"PBRL: the tracker has {tracking} of {count} environments; give at least 3 in "
                "all, and not all of them to it: chance shows between environments of one policy."
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
        # Unjudged it penalises nothing, and both fits are one compiled program.
        unjudged = _difference(state, frame_key, self.frames, self.errors)
        fresh, metrics = fitted(self.setup, state, fit_key, steps, unjudged)
        difference = unjudged.judged_by(fresh.reward.model, fresh.normalizer.scale)
        if not difference.error > 0:
            return fresh, metrics
        # From the same start: what is noise in the labels is measured there, for both fits.
        return fitted(self.setup, state, fit_key, steps, difference)

    def improve(self, state, key):
        setup = self.setup
        assert state.tracker is not None
        act_key, track_key = jax.random.split(key)
        model = state.reward.model
        rate = PredictedRate(model, state.normalizer)
        score = PreferenceScore.create(model, state.fresh, state.weight, self.scored_steps)
        policy, acted = improved(setup, self._acting, state.policy, rate, act_key, score)
        tracker, tracked = improved(setup, self._tracking, state.tracker, rate, track_key)
        tracker = _at_least(state, policy, tracker)
        steps = state.steps + acted.steps + tracked.steps
        weight = self.penalty_weight.next(state.weight, state.round + 1, jnp.asarray(jnp.nan))
        return eqx.tree_at(
            lambda s: (s.policy, s.tracker, s.steps, s.weight),
            state,
            (policy, tracker, steps, weight),
        ), acted


class PolicyDifference(eqx.Module):
    """weight (E_pi_hat[r] - E_pi_y[r] - errors * error)_+ / scale for a reward network r.

    Both means are over steps of each policy's environments, and ``error`` is the standard error of
    their difference: a fit would otherwise make the reward deny whatever the better of two equal
    policies happened to do. It is that of the reward to which the labels alone lead, and constant:
    the reward shall not become less certain to be penalised less. The positive part sets in
    smoothly, as a square over the first standard error: no curvature bounds a kink.

    Attributes:
        tracker, policy: summaries (``AbstractReward.summary``) of ``steps`` steps of each
            environment of either policy.
        weight, scale: the penalty weight, and the unit of the reward.
        error: the standard error of the difference; 0 penalises nothing.
        errors: how many of them the tracker has to be ahead.
    """

    tracker: PyTree
    policy: PyTree
    weight: Scalar
    scale: Scalar
    error: Scalar
    steps: tuple[int, int] = eqx.field(static=True)
    errors: float = eqx.field(static=True)

    @eqx.filter_jit
    def judged_by(self, model: RewardModel, scale: Scalar) -> "PolicyDifference":
        """With the error under the mean of the members, and 0 where that is no gain beyond it."""
        mean = lambda summary, count: jnp.mean(model.totals(summary), axis=0) / count
        tracker, policy = map(mean, (self.tracker, self.policy), self.steps)
        error = _standard_error(tracker, policy)
        ahead = jnp.mean(tracker) - jnp.mean(policy) > self.errors * error
        judged = scale, jnp.where(ahead, error, 0)
        return eqx.tree_at(lambda d: (d.scale, d.error), self, judged)

    def __call__(self, member: AbstractReward) -> Scalar:
        """The penalty on this network."""
        tracker = jnp.mean(member.total(self.tracker)) / self.steps[0]
        policy = jnp.mean(member.total(self.policy)) / self.steps[1]
        part = positive_part(tracker - policy - self.errors * self.error, self.error)
        return jnp.where(self.error > 0, self.weight * part / self.scale, 0)


def _standard_error(first, second):
    """Of the difference of two means, with the variance pooled; 0 for one value of each."""
    squares = sum(jnp.sum((z - jnp.mean(z)) ** 2) for z in (first, second))
    freedom = max(first.size + second.size - 2, 1)
    return jnp.sqrt(squares / freedom * (1 / first.size + 1 / second.size))


def positive_part(value: Scalar, width: Scalar) -> Scalar:
    """max(value, 0), but a square over the first ``width``, which takes half of it away.

    It is ``value^2 / (2 width)`` up to ``width`` and ``value - width / 2`` from there on.
    """
    square = jnp.clip(value, 0, width) ** 2 / jnp.where(width > 0, 2 * width, 1)
    return square + jnp.maximum(value - width, 0)


class PreferenceScore(AbstractExtra):
    """(1/weight) times a function of the policy whose gradient estimates grad_y f.

    At the policy that drew the pairs its gradient is the mean over answered pairs of (loss - mean
    loss) times the score of their actions. The policy moves on while the pairs stay, so each action
    counts with its probability ratio pi / pi_old, in the form of Schulman et al. (2017): the
    gradient ends once an action is ``ratio_range`` more, or less, likely than when it was drawn.

    Attributes:
        segments: both segments of every pair, cut from the policy's last rollouts.
        surplus: of each segment, the loss of its pair minus the mean loss.
        order: the rows of both, those of answered pairs first.
        answered: how many these are.
        weight: the penalty weight.
        steps: drawn from the answered segments for each estimate.
        ratio_range: how far an action's probability may move.
    """

    segments: Segments
    surplus: Float[Array, " P"]
    order: Int[Array, " P"]
    answered: Int[Array, ""]
    weight: Scalar
    steps: int = eqx.field(static=True)
    ratio_range: float = eqx.field(static=True, default=0.2)

    @classmethod
    @eqx.filter_jit
    def create(
        cls, model: RewardModel, pairs: Pairs, weight: Scalar, steps: int
    ) -> "PreferenceScore":
        """From the pairs of a round, those without an answer at weight 0, and the reward model."""
        first, second = (jnp.mean(model.sums(part), axis=0) for part in (pairs.first, pairs.second))
        one = lambda a, b, s, w: bradley_terry_loss(a[None], b[None], Answers(s[None], w[None]))
        loss = jax.vmap(one)(first, second, pairs.answers.second, pairs.answers.weight)
        known = pairs.answers.weight > 0
        mean = jnp.sum(jnp.where(known, loss, 0)) / jnp.maximum(jnp.sum(known), 1)
        surplus, known = (jnp.tile(z, 2) for z in (jnp.where(known, loss - mean, 0), known))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs.first, pairs.second)
        order = jnp.argsort(~known, stable=True)
        return cls(both, surplus, order, jnp.sum(known), weight, steps)

    def __call__(self, network: ActorCritic, key):
        segment_key, time_key = jax.random.split(key)
        last = jnp.maximum(self.answered, 1)
        row = self.order[jax.random.randint(segment_key, (self.steps,), 0, last)]
        time = jax.random.randint(time_key, (self.steps,), 0, self.segments.length)
        log_probs, _ = network(self.segments.observation[row, time])
        action = self.segments.action[row, time]
        chosen = jnp.take_along_axis(log_probs, action[:, None], -1)[:, 0]
        ratio = jnp.exp(chosen - self.segments.log_prob[row, time])
        near = jnp.clip(ratio, 1 - self.ratio_range, 1 + self.ratio_range)
        # f is to fall: the larger of both is its pessimistic estimate.
        surrogate = jnp.maximum(ratio * self.surplus[row], near * self.surplus[row])
        return 2 * self.segments.length * jnp.mean(surrogate) / self.weight


@eqx.filter_jit
def _difference(state, key, frames, errors):
    """The difference of both policies' last steps, not judged yet: it penalises nothing."""
    model, (first, second) = state.reward.model, jax.random.split(key)
    tracker, ahead = summary_of(model, state.tracker.window, first, frames)
    policy, steps = summary_of(model, state.policy.window, second, frames)
    one = jnp.ones_like(state.weight)
    return PolicyDifference(tracker, policy, state.weight, one, 0 * one, (ahead, steps), errors)


def summary_of(model: RewardModel, window: Rollout, key: Key, frames: int) -> tuple[PyTree, int]:
    """The summary of at most ``frames`` steps, as many from each environment, and that number."""
    length, envs = window.fake.shape
    count = min(length, max(1, frames // envs))
    # In random order, automatic resets last: one is taken only where steps run out.
    order = jnp.argsort(window.fake + jax.random.uniform(key, window.fake.shape), axis=0)
    time = order[:count].T
    env = jnp.arange(envs)[:, None]
    return model.summary(window.observation[time, env], window.action[time, env]), count


@eqx.filter_jit
def _at_least(state, policy, tracker):
    """The tracker, or the policy's network in its place where that one earns more."""
    model = state.reward.model
    behind = mean_reward(model, tracker.window) < mean_reward(model, policy.window)
    network = jax.tree.map(
        lambda a, b: jnp.where(behind, a, b), policy.agent.network, tracker.agent.network
    )
    return eqx.tree_at(lambda t: t.agent.network, tracker, network)
