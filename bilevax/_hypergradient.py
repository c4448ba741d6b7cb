"""The two parts of a hypergradient, each exact, inexact or sampled (``_rollouts``).

    dF/dx = d_x f(x, pi) + <d_pi f, d pi*/dx>                    at pi = pi*_x,

and, with w the cotangent that the greedy policy's derivative makes of d_pi f (with entropy
w(s,a) = pi(a|s) / tau (d_pi f(s,a) - <pi, d_pi f>_s)), the second part is <w, d_x Q*>. By Danskin's
theorem (spec (M7)) d_x Q* is that of Q_pi with pi held, so

    <w, d_x Q*> = <w + pi m, d_x r + discount d_x P V>,    m = discount (P'w + P_pi' m).

The adjoint equation of m is what methods differ in: solved, swept a few times, or never formed,
where episodes take the place of m.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._answer import levels, over_players
from ._episodes import pull_back
from ._linear import policy_system
from ._mdp import MDP, action_values, greedy_policy, per_context, regularization
from ._oracle import Response
from ._regularizer import Unregularized
from ._types import Key, PyTree

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

        held = lax.stop_gradient(lower(x))
        weights = greedy_weights(held, responses, in_policy)
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

        held = lax.stop_gradient(lower(x))
        weights = greedy_weights(held, responses, in_policy)
        measure = over_players(swept, held, responses, weights, measure)
        return _assembled(lower, x, responses, in_policy, weights, measure), measure


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


def greedy_weights(held, responses, in_policy):
    """w: the cotangent of the held MDPs' Q* that in_policy is through pi*."""

    def weight(mdp, response, cotangent):
        q = action_values(mdp, response.values)
        return pull_back(lambda q: greedy_policy(mdp, q), q, cotangent)

    return over_players(weight, held, responses, in_policy)


def _entering(mdp, weight):
    """discount P'w, shape ``[S]``."""
    return mdp.discount * mdp.transition.under(weight).apply_transposed(
        jnp.ones(mdp.num_states, weight.dtype)
    )


def _assembled(lower, x, responses, in_policy, weights, measure):
    """The gradient in x of what w, m and in_policy multiply, all else held."""

    def part(mdp, response, in_policy, weight, measure):
        q = action_values(mdp, response.values)
        backup = jnp.sum(response.policy * q, axis=-1) - regularization(mdp, response.policy)
        direct = of_temperature(mdp, mdp, response, in_policy)
        return jnp.sum(weight * q) + jnp.sum(measure * backup) + direct

    def total(x):
        parts = over_players(part, lower(x), responses, in_policy, weights, measure)
        return jax.tree.reduce(jnp.add, parts)

    return jax.grad(total)(x)


def of_temperature(mdp, held, response, in_policy):
    """<in_policy, greedy policy> at values that are held: it moves where tau moves with x."""
    q = lax.stop_gradient(action_values(held, response.values))
    return jnp.sum(in_policy * greedy_policy(mdp, q))
