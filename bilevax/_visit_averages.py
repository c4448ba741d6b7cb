"""Hypergradients from averages over the visits of episodes, both parts from the same ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._episodes import Episodes, Tables, draw, tables
from ._hypergradient import Lower, greedy_weights
from ._oracle import Response
from ._rollouts import (
    Reward,
    answered,
    by_state,
    check_episodes,
    flat,
    from_start,
    own_cotangent,
    own_returns,
    single,
)
from ._types import Array, Float, Key, PyTree, Scalar


class VisitAverages(eqx.Module):
    """Episodes whose visits give both advantages: the leader's, and the follower's derivative.

        dF/dx = d_x f - sum_(s,a) D(s, a) A_U(s, a) d_x A*(s, a) / tau         (with entropy),

    D the discounted visits to a pair; A_U(s, a) the leader's return that followed (s, a), on
    average over the visits to the pair, less that average over the visits to s; d_x A* likewise,
    from the same visits. d_x f is that of ``sampled_gradient``; where x moves tau, the part of the
    greedy policy that tau moves by itself is exact. With a squared norm the greedy policy's
    derivative takes the place of 1 / tau.

    Biased: both advantages carry the noise of the same returns, which falls as one over the number
    of episodes; a pair that was never tried counts nothing, nor does a state in which one action
    alone was. As episodes become many the limit is the hypergradient if they end before T. Where
    play does not end, a visit shortly before T counts like any other, with the little that it saw
    of what follows: a bias of order 1 / ((1 - discount) T).

    All episodes of a step are of one context, drawn in proportion to rho's mass in it, and f is
    that context's. They are played one after another in a few streams of equal length; the episode
    that a stream's end cuts off counts up to there, as if nothing followed, and rho's mass is
    divided by the number of the others: a bias of order streams over that number. Source: the
    experiments of Thoma et al. 2024 (arXiv 2406.01575), where a step takes five streams of 2,000
    transitions, in episodes of at most 200. Needs one MDP (contexts are fine).

    Attributes:
        episodes: how many are drawn; those that the streams do not hold are left out. Where they
            are too few, the last streams stay empty.
        steps: T, after which an episode is cut off.
        transitions: of all streams together, at most; one stream has T at least.
        streams: how many.
    """

    episodes: int = eqx.field(static=True, default=400)
    steps: int = eqx.field(static=True, default=200)
    transitions: int = eqx.field(static=True, default=10_000)
    streams: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        check_episodes(self, ("episodes", "steps", "transitions", "streams"))
        length = self.transitions // self.streams
        if length < self.steps:
            raise ValueError(
                f"VisitAverages: a stream has {length} transitions and an episode up to "
                f"{self.steps}; give more transitions, fewer streams or fewer steps."
            )

    @property
    def environment_steps(self) -> int:
        """Transitions that count, at most."""
        return min(self.episodes * self.steps, self.transitions)

    def hypergradient(
        self,
        lower: Lower,
        upper_reward: Reward,
        x: PyTree,
        responses: Response,
        key: Key,
    ) -> tuple[Scalar, PyTree]:
        """f = -E sum_t discount^t upper_reward and the estimate of dF/dx."""
        mdp = single(lower(x), "VisitAverages")
        known, policy = tables(mdp), flat(responses.policy)
        for_context, for_play = jax.random.split(key)
        initial = _one_context(known.initial, mdp.num_states, for_context)
        gain = by_state(upper_reward(x), mdp)
        play = from_start(known, policy, gain, initial, self, for_play)
        play = play.in_streams(self.streams, self.transitions // self.streams)
        seen, to_go = play.seen, play.returns_to_go()
        visits = _Visits(known, seen)
        tried, frequency = visits.pairs > 0, visits.pairs / visits.states[:, None]
        in_policy = -visits.sum(play.weight) * visits.advantage(to_go[:-1])
        in_policy /= jnp.where(tried, frequency, 1)
        in_policy = in_policy.reshape(responses.policy.shape)
        weight = greedy_weights(mdp, responses, in_policy).reshape(policy.shape)
        # Frequencies stand for the policy in the pullback as well: what it centres by, the policy's
        # own mean, is then one factor for all visits to a state, which their advantage cancels.
        weight = jnp.where(tried, weight * frequency / jnp.where(tried, policy, 1), 0)
        given = visits.shared(weight)
        following = own_returns(mdp, known, policy, seen)[1:]
        carried = _carried(known, seen, given)
        cotangent = own_cotangent(mdp, known, policy, seen, carried, given, following, following)
        indirect = answered(lower, x, mdp, responses, in_policy, cotangent)
        direct = play.in_x(lower, upper_reward, x, to_go[1:], to_go[1:], to_go[0])
        return play.upper(), jax.tree.map(jnp.add, direct, indirect)


class _Visits(eqx.Module):
    """Averages over the visits to each pair and each state.

    Attributes:
        seen: the episodes.
        pairs: how often each pair was visited, ``[G, A]``.
        states: how often each state was, ``[G]``; 1 where never, to divide by.
    """

    seen: Episodes
    pairs: Float[Array, "G A"]
    states: Float[Array, " G"]

    def __init__(self, known: Tables, seen: Episodes):
        self.seen = seen
        once = seen.taken.astype(known.reward.dtype)
        self.pairs = jnp.zeros_like(known.reward).at[seen.state, seen.action].add(once)
        self.states = jnp.maximum(jnp.sum(self.pairs, axis=-1), 1)

    def sum(self, weight: Float[Array, "T M"]) -> Float[Array, "G A"]:
        """A weight for each step, summed over the visits to each pair."""
        counted = jnp.where(self.seen.taken, weight, 0)
        return jnp.zeros_like(self.pairs).at[self.seen.state, self.seen.action].add(counted)

    def advantage(self, to_go: Float[Array, "T M"]) -> Float[Array, "G A"]:
        """The average over a pair's visits less that over its state's; 0 where never tried."""
        return jnp.where(self.pairs > 0, self.centred(self.sum(to_go)), 0)

    def shared(self, weight: Float[Array, "G A"]) -> Float[Array, "T M"]:
        """For each step the factor c with sum c z = sum weight advantage(z), for any z."""
        factor = self.centred(weight)[self.seen.state, self.seen.action]
        return jnp.where(self.seen.taken, factor, 0)

    def centred(self, total: Float[Array, "G A"]) -> Float[Array, "G A"]:
        """A total for each pair, per visit to the pair, less the state's own per visit to it."""
        mean = jnp.sum(total, axis=-1) / self.states
        return total / jnp.maximum(self.pairs, 1) - mean[:, None]


def _one_context(initial, states, key):
    """rho(s) in one context, drawn in proportion to its mass, and 0 in the others."""
    by_context = initial.reshape(-1, states)
    mass = jnp.sum(by_context, axis=-1)
    context = draw(mass, jax.random.uniform(key, (), mass.dtype))
    return jnp.zeros_like(by_context).at[context].set(by_context[context]).reshape(-1)


def _carried(known, seen, given):
    """z_k = given_k + discount z_(k-1): the weight of step k in the returns from it and before."""

    def forth(before, step):
        own, alive, rate = step
        total = jnp.where(alive, own + before, 0)
        return rate * total, total

    rate = jnp.where(seen.goes_on, known.discount[seen.state], 0)
    return lax.scan(forth, jnp.zeros_like(given[0]), (given, seen.taken, rate))[1]
