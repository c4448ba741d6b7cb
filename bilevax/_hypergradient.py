"""The two parts of a hypergradient, each exact, inexact or sampled.

    dF/dx = d_x f(x, pi) + <d_pi f, d pi*/dx>                    at pi = pi*_x,

and, with w the cotangent that the greedy policy's derivative makes of d_pi f (with entropy
w(s,a) = pi(a|s) / tau (d_pi f(s,a) - <pi, d_pi f>_s)), the second part is <w, d_x Q*>. By Danskin's
theorem (spec (M7)) d_x Q* is that of Q_pi with pi held, so

    <w, d_x Q*> = <w + pi m, d_x r + discount d_x P V>,    m = discount (P'w + P_pi' m).

The adjoint equation of m is what methods differ in: solved, swept a few times, or never formed,
where episodes that begin with (s, a) drawn in proportion to w take the place of m.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._answer import levels, over_players
from ._episodes import (
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
from ._linear import policy_system
from ._mdp import MDP, action_values, greedy_policy, per_context
from ._oracle import Response
from ._regularizer import Unregularized
from ._types import Array, Float, Key, PyTree, Scalar

Lower = Callable[[PyTree], Any]


class AbstractAdjoint(eqx.Module):
    """How <in_policy, d pi*/dx> is found."""

    @abc.abstractmethod
    def __call__(
        self,
        lower: Lower,
        x: PyTree,
        responses: PyTree[Response],
        in_policy: PyTree,
        measure: PyTree,
        key: Key,
    ) -> tuple[PyTree, PyTree]:
        """<in_policy, d pi*/dx> at the responses, and the measure m for the next call."""


class ExactAdjoint(AbstractAdjoint):
    """m by one solve with the responses' systems."""

    def __call__(self, lower, x, responses, in_policy, measure, key):
        @per_context
        def solved(mdp, response, weight):
            system = policy_system(
                mdp.transition.under(response.policy), mdp.discount, response.inverse
            )
            return system.solve_transposed(_entering(mdp, weight))

        held, weights = _weights(lower, x, responses, in_policy)
        measure = over_players(solved, held, responses, weights)
        return _assembled(lower, x, responses, in_policy, weights, measure), measure


class AdjointSweeps(AbstractAdjoint):
    """m by a few sweeps m <- discount (P'w + P_pi' m) from the one before: no system is solved.

    Attributes:
        sweeps: of each call.
    """

    sweeps: int = 5

    def __check_init__(self):
        if self.sweeps < 1:
            raise ValueError(f"AdjointSweeps: sweeps is {self.sweeps}; give at least 1.")

    def __call__(self, lower, x, responses, in_policy, measure, key):
        @per_context
        def swept(mdp, response, weight, measure):
            entering, chain = _entering(mdp, weight), mdp.transition.under(response.policy)
            sweep = lambda _, m: entering + mdp.discount * chain.apply_transposed(m)
            return lax.fori_loop(0, self.sweeps, sweep, measure)

        held, weights = _weights(lower, x, responses, in_policy)
        measure = over_players(swept, held, responses, weights, measure)
        return _assembled(lower, x, responses, in_policy, weights, measure), measure


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
        for name in ("episodes", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Rollouts: {name} is {getattr(self, name)}; give at least 1.")

    @property
    def environment_steps(self) -> int:
        """Transitions of all episodes, at most: those that end before T take fewer."""
        return self.episodes * self.steps

    def __call__(self, lower, x, responses, in_policy, measure, key):
        mdp = _single(lower(x))
        known, policy = tables(mdp), _flat(responses.policy)
        weight = _weights(lower, x, responses, in_policy)[1].reshape(-1)
        for_starts, for_steps = jax.random.split(key)
        # One start in each of M equal shares of |w|: fewer repetitions than independent ones.
        jitter = jax.random.uniform(for_starts, (self.episodes,), policy.dtype)
        pair = draw(jnp.abs(weight), (jnp.arange(self.episodes) + jitter) / self.episodes)
        state, action = jnp.divmod(pair, policy.shape[-1])
        seen = rollout(known, policy, state, action, for_steps, self.steps)
        share = jnp.sign(weight[pair]) * jnp.sum(jnp.abs(weight)) / self.episodes
        weight = share * seen.weight
        at, cost = (seen.state, seen.action), mdp.regularizer.value(policy)
        if self.critic:
            values = responses.values.reshape(-1)
            following, later = _surprise(known, seen, values), known.expected_next(values)[at]
        else:
            own = known.reward[at] - (known.tau * cost)[seen.state]
            following = later = returns_to_go(seen, own, known.discount)[1:]
        cotangent = dict(
            reward=jnp.zeros_like(known.reward).at[at].add(weight),
            probability=kernel_cotangent(
                known, seen, weight * known.discount[seen.state] * following
            ),
            initial=jnp.zeros_like(known.initial),
            discount=visit_cotangent(known, seen, weight * later),
            # The first action is given: its state pays no regulariser.
            tau=visit_cotangent(known, seen, (-weight * cost[seen.state]).at[0].set(0)),
        )
        sampled = pull_back(lambda x: tables(lower(x)).moved(), x, cotangent)
        direct = jax.grad(lambda x: _of_temperature(lower(x), mdp, responses, in_policy))(x)
        return jax.tree.map(jnp.add, sampled, direct), measure


def sampled_gradient(
    lower: Lower,
    upper_reward: Callable[[PyTree], Array],
    x: PyTree,
    policy: Float[Array, "*N S A"],
    rollouts: Rollouts,
    key: Key,
) -> tuple[Scalar, tuple[PyTree, Float[Array, "*N S A"]]]:
    """f = -E sum_t discount^t upper_reward and its gradient in x and in the policy, from episodes.

    In the policy it is -(d(s) Q(s, a)) with d and Q from what was seen: of a pair its visits times
    the return that followed, over pi(a|s); with a critic every action of a visited state.
    """
    mdp = _single(lower(x))
    known, pi = tables(mdp), _flat(policy)
    contexts = mdp.reward.shape[:-2]
    gains = lambda x: over_states(upper_reward(x), contexts, 2)
    gain, mass = gains(x), jnp.sum(known.initial)
    starts, actions, chances = jax.random.split(key, 3)
    uniform = lambda key: jax.random.uniform(key, (rollouts.episodes,), pi.dtype)
    state = draw(known.initial, uniform(starts))
    seen = rollout(known, pi, state, draw(pi[state], uniform(actions)), chances, rollouts.steps)
    at = seen.state, seen.action
    weight = mass / rollouts.episodes * seen.weight
    if rollouts.critic:
        values = evaluate(mdp, policy).values(upper_reward(x)).reshape(-1)
        first = values[state]
        q = gain + known.discount[:, None] * known.expected_next(values)
        in_policy = jnp.zeros_like(pi).at[seen.state].add(-weight[..., None] * q[seen.state])
        following, later = _surprise(known, seen, values), known.expected_next(values)[at]
    else:
        to_go = returns_to_go(seen, gain[at], known.discount)
        following, first = to_go[1:], to_go[0]
        later = following
        # Rows after an episode's end weigh nothing, whatever stands in them.
        share = jnp.where(weight > 0, weight / jnp.where(weight > 0, pi[at], 1), 0)
        in_policy = jnp.zeros_like(pi).at[at].add(-share * to_go[:-1])
    kernel = kernel_cotangent(known, seen, -weight * known.discount[seen.state] * following)
    start = -mass / rollouts.episodes * first / known.initial[state]
    start = jnp.zeros_like(known.initial).at[state].add(start)
    cotangent = dict(
        reward=jnp.zeros_like(gain).at[at].add(-weight),
        probability=kernel,
        initial=start,
        discount=visit_cotangent(known, seen, -weight * later),
        tau=jnp.zeros_like(known.tau),  # the upper return has no regulariser
    )
    in_x = pull_back(lambda x: tables(lower(x)).moved() | {"reward": gains(x)}, x, cotangent)
    return -jnp.sum(weight * gain[at]), (in_x, in_policy.reshape(policy.shape))


def check_followers(lower: Any) -> None:
    """``ValueError`` where pi* is not the response of MDPs of its own with a derivative."""
    for level in levels(lower):
        if not isinstance(level, MDP):
            raise ValueError(
                f"the hypergradient through best responses: the lower level is a "
                f"{type(level).__name__}, whose players answer each other; use ImplicitGradient "
                "(zero-sum games with entropy), PANDA or PBRL."
            )
        if isinstance(level.regularizer, Unregularized):
            raise ValueError(
                "the hypergradient through best responses: tau is 0, where they have no "
                "derivative; give the lower level a positive tau, or use PBRL or ZeroOrder."
            )


def upper_reward_of(problem: Any) -> Callable[[PyTree], Array]:
    """The problem's ``upper_reward``, or a ``ValueError`` that says what to do without one."""
    if not hasattr(problem, "upper_reward"):
        raise ValueError(
            f"Rollouts: {type(problem).__name__} has no upper_reward(x) whose return is -f, so "
            "f cannot be sampled; give rollouts=None, which takes f's own gradient exactly."
        )
    return problem.upper_reward


def _weights(lower, x, responses, in_policy):
    """The MDPs at x, held, and w: the cotangent of Q* that in_policy is through pi*."""

    def weight(mdp, response, cotangent):
        q = action_values(mdp, response.values)
        return pull_back(lambda q: greedy_policy(mdp, q), q, cotangent)

    held = lax.stop_gradient(lower(x))
    return held, over_players(weight, held, responses, in_policy)


def _entering(mdp, weight):
    """discount P'w, shape ``[S]``."""
    return mdp.discount * mdp.transition.under(weight).apply_transposed(
        jnp.ones(mdp.num_states, weight.dtype)
    )


def _assembled(lower, x, responses, in_policy, weights, measure):
    """The gradient in x of what w, m and in_policy multiply, all else held."""

    def part(mdp, response, in_policy, weight, measure):
        q = action_values(mdp, response.values)
        tau = mdp.tau[..., None] if mdp.tau.ndim else mdp.tau
        paid = tau * mdp.regularizer.value(response.policy)
        backup = jnp.sum(response.policy * q, axis=-1) - paid
        direct = _of_temperature(mdp, mdp, response, in_policy)
        return jnp.sum(weight * q) + jnp.sum(measure * backup) + direct

    def total(x):
        parts = over_players(part, lower(x), responses, in_policy, weights, measure)
        return jax.tree.reduce(jnp.add, parts)

    return jax.grad(total)(x)


def _of_temperature(mdp, held, response, in_policy):
    """<in_policy, greedy policy> at values that are held: it moves where tau moves with x."""
    q = lax.stop_gradient(action_values(held, response.values))
    return jnp.sum(in_policy * greedy_policy(mdp, q))


def _surprise(known, seen, values):
    """v(next) less what was to be expected, which changes nothing in the mean; 0 after an end."""
    expected = known.expected_next(values)[seen.state, seen.action]
    return jnp.where(seen.goes_on, values[seen.next_state], 0) - expected


def _single(lower):
    if not isinstance(lower, MDP):
        raise ValueError(
            f"Rollouts: the lower level is a {type(lower).__name__}; episodes are drawn of one "
            "MDP (contexts are fine): give rollouts=None and ExactAdjoint()."
        )
    return lax.stop_gradient(lower)


def _flat(array):
    return array.reshape(-1, array.shape[-1])
