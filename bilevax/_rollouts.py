"""Hypergradients from episodes of the answering follower.

Each part by itself, without bias but for the episodes' length: f's own gradient
(``sampled_gradient``) from episodes that begin where play begins, and <w, d_x Q*> (see
``_hypergradient``) from others that begin with (s, a) drawn in proportion to w (``Rollouts``). Both
from the same episodes: ``_visit_averages``.
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
        check_episodes(self, ("episodes", "steps"))

    @property
    def environment_steps(self) -> int:
        """Transitions of all episodes, at most: those that end before T take fewer."""
        return self.episodes * self.steps

    def __call__(self, lower, x, responses, in_policy, measure, key):
        mdp = single(lower(x), "Rollouts")
        known, policy = tables(mdp), flat(responses.policy)
        weight = greedy_weights(mdp, responses, in_policy).reshape(-1)
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
            following = later = own_returns(mdp, known, policy, seen)[1:]
        given = jnp.zeros_like(weight).at[0].set(weight[0])
        cotangent = own_cotangent(mdp, known, policy, seen, weight, given, following, later)
        return answered(lower, x, mdp, responses, in_policy, cotangent), measure


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
    mdp = single(lower(x), "Rollouts")
    known, pi = tables(mdp), flat(policy)
    play = from_start(known, pi, by_state(upper_reward(x), mdp), known.initial, rollouts, key)
    seen, weight = play.seen, play.weight
    at = seen.state, seen.action
    if rollouts.critic:
        values = evaluate(mdp, policy).values(upper_reward(x)).reshape(-1)
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
            f"rollouts: {type(problem).__name__} has no upper_reward(x) whose return is -f, so "
            "f cannot be sampled; give rollouts=None, which takes f's own gradient exactly."
        )
    return problem.upper_reward


class Play(eqx.Module):
    """Episodes from where play begins, and what the leader earns in them.

    Attributes:
        known: the tables that episodes were drawn from.
        gain: the leader's reward, ``[G, A]``.
        start: the first states.
        seen: the episodes.
        share: of each episode in rho's mass.
    """

    known: Tables
    gain: Float[Array, "G A"]
    start: Int[Array, " M"]
    seen: Episodes
    share: Float[Array, " M"]

    @property
    def weight(self) -> Float[Array, "T M"]:
        """Of each step in f: its episode's share of rho's mass, times discount^t."""
        return self.share * self.seen.weight

    def in_streams(self, streams: int, length: int) -> "Play":
        """One episode after another in each stream, what is left over at its end cut off.

        The share of each is rho's mass over the number of those that were not cut.
        """
        lengths = jnp.sum(self.seen.taken, axis=0)

        def place(carry, steps):
            full, used = carry
            kept = jnp.where(full < streams, jnp.minimum(steps, length - used), 0)
            filled = used + steps >= length
            return (full + filled, jnp.where(filled, 0, used + steps)), kept

        kept = lax.scan(place, (jnp.zeros_like(lengths[0]),) * 2, lengths)[1]
        there = jnp.arange(len(self.seen.weight))[:, None] < kept
        seen = eqx.tree_at(
            lambda seen: (seen.weight, seen.goes_on),
            self.seen,
            (self.seen.weight * there, self.seen.goes_on & there),
        )
        share = jnp.where(kept > 0, jnp.sum(self.share) / jnp.sum(kept == lengths), 0)
        return eqx.tree_at(lambda play: (play.seen, play.share), self, (seen, share))

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
        start = -self.share * first / known.initial[self.start]
        cotangent = dict(
            reward=jnp.zeros_like(self.gain).at[seen.state, seen.action].add(-weight),
            probability=kernel,
            initial=jnp.zeros_like(known.initial).at[self.start].add(start),
            discount=visit_cotangent(known, seen, -weight * later),
            tau=jnp.zeros_like(known.tau),  # the upper return has no regulariser
        )
        gains = lambda x: by_state(upper_reward(x), lower(x))
        return pull_back(lambda x: tables(lower(x)).moved() | {"reward": gains(x)}, x, cotangent)


def from_start(known, policy, gain, initial, rollouts, key) -> Play:
    """Episodes that begin in proportion to ``initial``, each with an equal share of rho's mass."""
    starts, actions, chances = jax.random.split(key, 3)
    uniform = lambda key: jax.random.uniform(key, (rollouts.episodes,), policy.dtype)
    state = draw(initial, uniform(starts))
    action = draw(policy[state], uniform(actions))
    seen = rollout(known, policy, state, action, chances, rollouts.steps)
    share = jnp.full(state.shape, jnp.sum(known.initial) / rollouts.episodes, policy.dtype)
    return Play(known, gain, state, seen, share)


def answered(lower, x, held, responses, in_policy, cotangent):
    """<in_policy, d pi*/dx>, given the cotangent of the tables that it is through Q*."""
    through_values = pull_back(lambda x: tables(lower(x)).moved(), x, cotangent)
    by_itself = jax.grad(lambda x: of_temperature(lower(x), held, responses, in_policy))(x)
    return jax.tree.map(jnp.add, through_values, by_itself)


def own_returns(mdp, known, policy, seen):
    """The follower's returns to go, what it pays for its policy taken off at each step."""
    paid = known.tau * mdp.regularizer.value(policy)
    own = known.reward[seen.state, seen.action] - paid[seen.state]
    return returns_to_go(seen, own, known.discount)


def own_cotangent(mdp, known, policy, seen, weight, given, following, later):
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


def _surprise(known, seen, values):
    """v(next) less what was to be expected, which changes nothing in the mean; 0 after an end."""
    expected = known.expected_next(values)[seen.state, seen.action]
    return jnp.where(seen.goes_on, values[seen.next_state], 0) - expected


def check_episodes(episodes, names):
    """``ValueError`` where a number of ``episodes`` is below 1."""
    for name in names:
        if getattr(episodes, name) < 1:
            kind = type(episodes).__name__
            raise ValueError(f"{kind}: {name} is {getattr(episodes, name)}; give at least 1.")


def single(lower, kind):
    """The lower level, held, or a ``ValueError`` where it is not one MDP."""
    if not isinstance(lower, MDP):
        raise ValueError(
            f"{kind}: the lower level is a {type(lower).__name__}; episodes are drawn of one "
            "MDP (contexts are fine): give rollouts=None, and ExactAdjoint() for the derivative "
            "of its answer."
        )
    return lax.stop_gradient(lower)


def by_state(reward, mdp):
    return over_states(reward, mdp.reward.shape[:-2], 2)


def flat(array):
    return array.reshape(-1, array.shape[-1])
