"""Hypergradients from episodes of the answering follower.

``Rollouts`` estimates each part by itself, without bias: f's own gradient (``sampled_gradient``)
from episodes that begin where play begins, and <w, d_x Q*> (see ``_hypergradient``) from others
that begin with (s, a) drawn in proportion to w. ``VisitAverages`` takes both from the same
episodes, as averages over the visits to each pair.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._episodes import (
    Episodes,
    Tables,
    draw,
    kernel_cotangent,
    over_states,
    pull_back,
    returns_to_go,
    rollout,
    tables,
    visit_cotangent,
)
from ._evaluation import evaluate
from ._hypergradient import AbstractAdjoint, Lower, greedy_weights, of_temperature
from ._mdp import MDP
from ._oracle import Response
from ._types import Array, Float, Int, Key, PyTree, Scalar

Reward = Callable[[PyTree], Array]


class Rollouts(AbstractAdjoint):
    """Episodes of the follower, drawn from the known kernel and not further looked into.

    As an adjoint: episodes begin with (s, a) drawn in proportion to |w|, and each gives
    sum_k discount^k (d_x r + V(s_{k+1}) (d_x discount + discount d_x log P) - [k > 0] h d_x tau)
    with the sign of w, unbiased up to the episodes' length (Thoma et al. 2024, algorithm 2, with
    all pairs' advantages in one draw).
    For f's own part see ``sampled_gradient``. Both need one MDP (contexts are fine).

    Attributes:
        episodes: M.
        steps: T, after which an episode is cut off.
        critic: whether values of the states met are the exact ones of the policy, the leader's and
            the follower's alike, in place of the return that followed: less noise, more knowledge.
    """

    episodes: int = eqx.field(static=True, default=64)
    steps: int = eqx.field(static=True, default=500)
    critic: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check(self)

    @property
    def environment_steps(self) -> int:
        """Transitions of all episodes, at most: those that end before T take fewer."""
        return self.episodes * self.steps

    def __call__(self, lower, x, responses, in_policy, measure, key):
        mdp = _single(lower(x))
        known, policy = tables(mdp), _flat(responses.policy)
        weight = greedy_weights(lower, x, responses, in_policy)[1].reshape(-1)
        for_starts, for_steps = jax.random.split(key)
        # One start in each of M equal shares of |w|: fewer repetitions than independent ones.
        jitter = jax.random.uniform(for_starts, (self.episodes,), policy.dtype)
        pair = draw(jnp.abs(weight), (jnp.arange(self.episodes) + jitter) / self.episodes)
        state, action = jnp.divmod(pair, policy.shape[-1])
        seen = rollout(known, policy, state, action, for_steps, self.steps)
        share = jnp.sign(weight[pair]) * jnp.sum(jnp.abs(weight)) / self.episodes
        weight = share * seen.weight
        if self.critic:
            values = responses.values.reshape(-1)
            later = known.expected_next(values)[seen.state, seen.action]
            following = _surprise(known, seen, values)
        else:
            following = later = _own_returns(mdp, known, policy, seen)[1:]
        given = jnp.zeros_like(weight).at[0].set(weight[0])
        cotangent = _own_cotangent(mdp, known, policy, seen, weight, given, following, later)
        sampled = pull_back(lambda x: tables(lower(x)).moved(), x, cotangent)
        direct = jax.grad(lambda x: of_temperature(lower(x), mdp, responses, in_policy))(x)
        return jax.tree.map(jnp.add, sampled, direct), measure


class VisitAverages(eqx.Module):
    """Episodes whose visits give both advantages: the leader's, and the follower's derivative.

        dF/dx = d_x f - sum_(s,a) D(s, a) A_U(s, a) d_x A*(s, a) / tau         (with entropy),

    D the discounted visits to a pair, A_U(s, a) the leader's return that followed (s, a), on
    average over the visits to the pair, less that average over the visits to s; d_x A* likewise,
    from the same visits. d_x f is that of ``sampled_gradient``. Less noise than unbiased estimates
    from as many episodes, and a bias where visits are few: a pair that was never tried counts
    nothing, and neither does a state in which one action alone was. Consistent as episodes become
    many. All episodes of a step are of one context, drawn in proportion to rho's mass in it.
    Source: the experiments of Thoma et al. 2024 (arXiv 2406.01575), where a step takes 10,000
    transitions, in episodes of at most 200. Needs one MDP (contexts are fine).

    Attributes:
        episodes: M.
        steps: T, after which an episode is cut off.
    """

    episodes: int = eqx.field(static=True, default=160)
    steps: int = eqx.field(static=True, default=200)

    def __check_init__(self):
        _check(self)

    @property
    def environment_steps(self) -> int:
        """Transitions of all episodes, at most: those that end before T take fewer."""
        return self.episodes * self.steps

    def hypergradient(
        self,
        lower: Lower,
        upper_reward: Reward,
        x: PyTree,
        responses: Response,
        key: Key,
    ) -> tuple[Scalar, PyTree]:
        """f = -E sum_t discount^t upper_reward and the estimate of dF/dx."""
        mdp = _single(lower(x))
        for_context, for_play = jax.random.split(key)
        initial = _one_context(mdp, for_context)
        play = _play(lower, upper_reward, x, responses.policy, initial, self, for_play)
        known, policy, seen = play.known, play.policy, play.seen
        to_go = play.returns_to_go()
        visits = _Visits(known, seen)
        advantage = visits.advantage(to_go[:-1])
        discounted = visits.sum(play.weight)
        tried = visits.pairs > 0
        in_policy = -discounted * advantage / jnp.where(tried, policy, 1)
        in_policy = in_policy.reshape(responses.policy.shape)
        weight = greedy_weights(lower, x, responses, in_policy)[1].reshape(policy.shape)
        given = visits.shared(jnp.where(tried, weight, 0))
        following = _own_returns(mdp, known, policy, seen)[1:]
        carried = _carried(known, seen, given)
        cotangent = _own_cotangent(mdp, known, policy, seen, carried, given, following, following)
        answered = pull_back(lambda x: tables(lower(x)).moved(), x, cotangent)
        moved = jax.grad(lambda x: of_temperature(lower(x), mdp, responses, in_policy))(x)
        direct = play.in_x(lower, upper_reward, x, to_go[1:], to_go[1:], to_go[0])
        return play.upper(), jax.tree.map(lambda *parts: sum(parts), direct, answered, moved)


def sampled_gradient(
    lower: Lower,
    upper_reward: Reward,
    x: PyTree,
    policy: Float[Array, "*N S A"],
    rollouts: Rollouts,
    key: Key,
) -> tuple[Scalar, tuple[PyTree, Float[Array, "*N S A"]]]:
    """f = -E sum_t discount^t upper_reward and its gradient in x and in the policy, from episodes.

    In the policy it is -(d(s) Q(s, a)) with d and Q from what was seen: of a pair its visits times
    the return that followed, over pi(a|s); with a critic every action of a visited state.
    """
    initial = tables(_single(lower(x))).initial
    play = _play(lower, upper_reward, x, policy, initial, rollouts, key)
    known, pi, seen, weight = play.known, play.policy, play.seen, play.weight
    at = seen.state, seen.action
    if rollouts.critic:
        values = evaluate(_single(lower(x)), policy).values(upper_reward(x)).reshape(-1)
        first = values[play.start]
        q = play.gain + known.discount[:, None] * known.expected_next(values)
        in_policy = jnp.zeros_like(pi).at[seen.state].add(-weight[..., None] * q[seen.state])
        following, later = _surprise(known, seen, values), known.expected_next(values)[at]
    else:
        to_go = play.returns_to_go()
        following, first = to_go[1:], to_go[0]
        later = following
        # Rows after an episode's end weigh nothing, whatever stands in them.
        share = jnp.where(weight > 0, weight / jnp.where(weight > 0, pi[at], 1), 0)
        in_policy = jnp.zeros_like(pi).at[at].add(-share * to_go[:-1])
    in_x = play.in_x(lower, upper_reward, x, following, later, first)
    return play.upper(), (in_x, in_policy.reshape(policy.shape))


def upper_reward_of(problem: Any) -> Reward:
    """The problem's ``upper_reward``, or a ``ValueError`` that says what to do without one."""
    if not hasattr(problem, "upper_reward"):
        raise ValueError(
            f"Rollouts: {type(problem).__name__} has no upper_reward(x) whose return is -f, so "
            "f cannot be sampled; give rollouts=None, which takes f's own gradient exactly."
        )
    return problem.upper_reward


class _Play(eqx.Module):
    """Episodes from where play begins, and what the leader earns in them.

    Attributes:
        known, policy, seen: the tables, the follower's policy, and the episodes.
        gain: the leader's reward, ``[G, A]``.
        start: the first states.
        weight: of each step in f: rho's mass over M times discount^t.
    """

    known: Tables
    policy: Float[Array, "G A"]
    gain: Float[Array, "G A"]
    start: Int[Array, " M"]
    seen: Episodes
    weight: Float[Array, "T M"]

    def upper(self) -> Scalar:
        """f, from what was earned."""
        return -jnp.sum(self.weight * self.gain[self.seen.state, self.seen.action])

    def returns_to_go(self) -> Float[Array, "rows M"]:
        """What the leader earned from each of T steps on, and the row of zeros that ends it."""
        gain = self.gain[self.seen.state, self.seen.action]
        return returns_to_go(self.seen, gain, self.known.discount)

    def in_x(
        self,
        lower: Lower,
        upper_reward: Reward,
        x: PyTree,
        following: Float[Array, "T M"],
        later: Float[Array, "T M"],
        first: Float[Array, " M"],
    ) -> PyTree:
        """f's gradient in x, the policy held: by rewards, by scores of what chance did.

        ``following`` goes with the kernel's scores, ``later`` with a discount that moves, ``first``
        with the start's score: the leader's value there, or what stands for it.
        """
        known, seen, weight = self.known, self.seen, self.weight
        kernel = kernel_cotangent(known, seen, -weight * known.discount[seen.state] * following)
        mass = jnp.sum(known.initial) / self.start.shape[0]
        start = -mass * first / known.initial[self.start]
        cotangent = dict(
            reward=jnp.zeros_like(self.gain).at[seen.state, seen.action].add(-weight),
            probability=kernel,
            initial=jnp.zeros_like(known.initial).at[self.start].add(start),
            discount=visit_cotangent(known, seen, -weight * later),
            tau=jnp.zeros_like(known.tau),  # the upper return has no regulariser
        )
        gains = lambda x: _by_state(upper_reward(x), lower(x))
        return pull_back(lambda x: tables(lower(x)).moved() | {"reward": gains(x)}, x, cotangent)


class _Visits(eqx.Module):
    """Averages over the visits to each pair and each state.

    Attributes:
        seen: the episodes.
        pairs: how often each pair was visited, ``[G, A]``.
    """

    seen: Episodes
    pairs: Float[Array, "G A"]

    def __init__(self, known: Tables, seen: Episodes):
        self.seen = seen
        alive = (seen.weight > 0).astype(known.reward.dtype)
        self.pairs = jnp.zeros_like(known.reward).at[seen.state, seen.action].add(alive)

    def sum(self, weight: Float[Array, "T M"]) -> Float[Array, "G A"]:
        """A weight for each step, summed over the visits to each pair."""
        alive = jnp.where(self.seen.weight > 0, weight, 0)
        return jnp.zeros_like(self.pairs).at[self.seen.state, self.seen.action].add(alive)

    def advantage(self, to_go: Float[Array, "T M"]) -> Float[Array, "G A"]:
        """The average over a pair's visits less that over its state's; 0 where never tried."""
        total = self.sum(to_go)
        own = total / jnp.maximum(self.pairs, 1)
        states = jnp.maximum(jnp.sum(self.pairs, axis=-1, keepdims=True), 1)
        return jnp.where(self.pairs > 0, own - jnp.sum(total, axis=-1, keepdims=True) / states, 0)

    def shared(self, weight: Float[Array, "G A"]) -> Float[Array, "T M"]:
        """For each step the factor c with sum c z = sum weight advantage(z), for any z."""
        pair = weight / jnp.maximum(self.pairs, 1)
        states = jnp.maximum(jnp.sum(self.pairs, axis=-1), 1)
        factor = pair - (jnp.sum(weight, axis=-1) / states)[:, None]
        return jnp.where(self.seen.weight > 0, factor[self.seen.state, self.seen.action], 0)


def _play(lower, upper_reward, x, policy, initial, rollouts, key) -> _Play:
    """Episodes that begin in proportion to ``initial``, each with an equal share of rho's mass."""
    mdp = _single(lower(x))
    known, pi = tables(mdp), _flat(policy)
    starts, actions, chances = jax.random.split(key, 3)
    uniform = lambda key: jax.random.uniform(key, (rollouts.episodes,), pi.dtype)
    state = draw(initial, uniform(starts))
    seen = rollout(known, pi, state, draw(pi[state], uniform(actions)), chances, rollouts.steps)
    weight = jnp.sum(known.initial) / rollouts.episodes * seen.weight
    return _Play(known, pi, _by_state(upper_reward(x), mdp), state, seen, weight)


def _one_context(mdp, key):
    """rho(s) in one context, drawn in proportion to its mass, and 0 in the others."""
    initial = tables(mdp).initial.reshape(-1, mdp.num_states)
    mass = jnp.sum(initial, axis=-1)
    context = draw(mass, jax.random.uniform(key, (), mass.dtype))
    return jnp.zeros_like(initial).at[context].set(initial[context]).reshape(-1)


def _own_returns(mdp, known, policy, seen):
    """The follower's returns to go, what it pays for its policy taken off at each step."""
    paid = known.tau * mdp.regularizer.value(policy)
    own = known.reward[seen.state, seen.action] - paid[seen.state]
    return returns_to_go(seen, own, known.discount)


def _own_cotangent(mdp, known, policy, seen, weight, given, following, later):
    """Cotangent of the tables for the follower's returns, each step's reward times ``weight``.

    ``given`` is the part of a step's weight whose action was given: its state pays no regulariser.
    """
    cost = mdp.regularizer.value(policy)[seen.state]
    return dict(
        reward=jnp.zeros_like(known.reward).at[seen.state, seen.action].add(weight),
        probability=kernel_cotangent(known, seen, weight * known.discount[seen.state] * following),
        initial=jnp.zeros_like(known.initial),
        discount=visit_cotangent(known, seen, weight * later),
        tau=visit_cotangent(known, seen, -(weight - given) * cost),
    )


def _carried(known, seen, given):
    """z_k = given_k + discount z_(k-1): the weight of step k in the returns of all steps before."""

    def forth(before, step):
        own, rate = step
        total = own + before
        return rate * total, total

    rate = jnp.where(seen.goes_on, known.discount[seen.state], 0)
    return lax.scan(forth, jnp.zeros_like(given[0]), (given, rate))[1]


def _surprise(known, seen, values):
    """v(next) less what was to be expected, which changes nothing in the mean; 0 after an end."""
    expected = known.expected_next(values)[seen.state, seen.action]
    return jnp.where(seen.goes_on, values[seen.next_state], 0) - expected


def _check(episodes):
    for name in ("episodes", "steps"):
        if getattr(episodes, name) < 1:
            kind = type(episodes).__name__
            raise ValueError(f"{kind}: {name} is {getattr(episodes, name)}; give at least 1.")


def _single(lower):
    if not isinstance(lower, MDP):
        raise ValueError(
            f"Rollouts: the lower level is a {type(lower).__name__}; episodes are drawn of one "
            "MDP (contexts are fine): give rollouts=None and ExactAdjoint()."
        )
    return lax.stop_gradient(lower)


def _by_state(reward, mdp):
    return over_states(reward, mdp.reward.shape[:-2], 2)


def _flat(array):
    return array.reshape(-1, array.shape[-1])
