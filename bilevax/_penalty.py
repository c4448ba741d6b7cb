"""Penalties: how far a policy is from solving the lower level.

Each penalty is a differentiable function of the lower level (hence of x) and of the policy. The
best response enters as a constant: by Danskin's theorem for MDPs (spec (M7)) no derivative passes
through the argmax, and the single ``stop_gradient`` of the method stands in
``AbstractPenalty.__call__``.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from ._evaluation import Evaluation, evaluate
from ._mdp import MDP, action_values, per_context, regularization, soft_maximum
from ._oracle import Response, system_of
from ._regularizer import Unregularized
from ._types import Array, Float, PyTree, Scalar, concrete


class StateWeights(eqx.Module):
    """How much a penalty cares for each state, shape ``[S]``.

    The penalty is a sum of regularised terms over states; tau times the weight is the modulus of
    each in the geometry of h, which is what a natural step divides by.

    Attributes:
        own: in the player's own policy.
        opponents: in the policies of the others, through the player's best response to them.
    """

    own: Float[Array, "*N S"]
    opponents: Float[Array, "*N S"]


class Part(eqx.Module):
    """One player's part of a penalty, and its weights of the states."""

    value: Scalar
    weights: StateWeights


class AbstractPenalty(eqx.Module):
    """p(x, y) >= 0, zero where every player's policy is a best response."""

    @abc.abstractmethod
    def of_player(self, mdp: MDP, evaluation: Evaluation, response: Response) -> "Part":
        """One player's part, the response held fixed."""

    def __call__(
        self, mdps: PyTree[MDP], evaluations: PyTree[Evaluation], responses: PyTree[Response]
    ) -> tuple[Scalar, "PyTree[StateWeights]"]:
        """The sum over players, differentiable in the MDPs and in the evaluated policies.

        Beside it each player's weights of the states, constants.
        """
        responses = jax.lax.stop_gradient(responses)
        parts = jax.tree.map(self.of_player, mdps, evaluations, responses, is_leaf=is_mdp)
        penalties = jax.tree.map(lambda _, part: part.value, mdps, parts, is_leaf=is_mdp)
        weights = jax.tree.map(lambda _, part: part.weights, mdps, parts, is_leaf=is_mdp)
        return jax.tree.reduce(jnp.add, penalties), jax.lax.stop_gradient(weights)


class NikaidoIsoda(AbstractPenalty):
    """max over y' of V^{y'}(rho) - V^{y}(rho), summed over players.

    With one player it is the value penalty (Shen, Yang and Chen 2025; spec (M5), gradients (M8)),
    with two in a zero-sum game the Nikaido-Isoda gap (M12).

    Attributes:
        uniform_weight: share of the start measure spread evenly over all states, in [0, 1). The
            value penalty sees a state as often as the policy visits it; some weight on every state
            keeps the policy honest where it seldom goes. The certificate always uses rho itself.
    """

    uniform_weight: float = 0.0

    def __check_init__(self):
        if not 0 <= self.uniform_weight < 1:
            raise ValueError(
                f"NikaidoIsoda: uniform_weight is {self.uniform_weight}; it must lie in [0, 1)."
            )

    def of_player(self, mdp, evaluation, response):
        start = _spread(mdp, self.uniform_weight)
        if self.uniform_weight:
            spread = eqx.tree_at(lambda m: m.initial, mdp, start)
            inverse = evaluation.system.inverse
            evaluation = evaluate(spread, evaluation.policy, inverse)
        held = jax.lax.stop_gradient(eqx.tree_at(lambda m: m.initial, mdp, start))
        d = _occupancy(held, response)
        # V* (rho) as <rho, V> + <d, T V - V>: exact at the fixed point, and with d and V held its
        # derivative is that of the return at the response held fixed.
        q = action_values(mdp, response.values)
        backup = jnp.sum(response.policy * q, -1) - regularization(mdp, response.policy)
        best = jnp.sum(start * response.values) + jnp.sum(d * (backup - response.values))
        value = best - evaluation.expected_return()
        return Part(value, StateWeights(evaluation.occupancy, d))


class BellmanPenalty(AbstractPenalty):
    """sum_s mu(s) [ max_pi (<pi, Q*_s> - tau h(pi)) - (<y_s, Q*_s> - tau h(y_s)) ].

    The per-state regret under the *optimal* action values (Shen, Yang and Chen 2025; spec (M6),
    gradients (M9)). It needs tau > 0. It is smaller than the value penalty by about 1/(1-discount)
    for the same policy and wants a correspondingly larger weight.

    Attributes:
        state_weights: mu, shape ``[S]``, positive. Uniform by default, with rho's total mass.
    """

    state_weights: Float[Array, " S"] | None = None

    def __check_init__(self):
        weights = self.state_weights
        if weights is not None and concrete(weights) and not jnp.all(weights > 0):
            raise ValueError(
                f"BellmanPenalty: state_weights has the entry {jnp.min(weights)}; every state "
                "needs a positive weight, or the penalty is blind to it."
            )

    def of_player(self, mdp, evaluation, response):
        if isinstance(mdp.regularizer, Unregularized):
            raise ValueError(
                "BellmanPenalty: tau is 0; this penalty needs tau > 0 "
                "(use NikaidoIsoda, the value penalty, or give the MDP a positive tau)."
            )
        mu = _spread(mdp, 1.0) if self.state_weights is None else self.state_weights
        if mu.shape[-1] != mdp.num_states:
            raise ValueError(
                f"BellmanPenalty: state_weights has shape {mu.shape}, but the MDP has "
                f"{mdp.num_states} states."
            )
        q = action_values(mdp, self._values_at(mdp, response))
        current = jnp.sum(evaluation.policy * q, -1) - regularization(mdp, evaluation.policy)
        regret = soft_maximum(mdp, q) - current
        weight = jnp.broadcast_to(mu, regret.shape)
        return Part(jnp.sum(mu * regret), StateWeights(weight, weight))

    @staticmethod
    def _values_at(mdp, response):
        # V* + (I - discount P)^-1 (T V* - V*): V at the response held fixed, as a function of x.
        @per_context
        def one(mdp, response):
            backup = jnp.sum(response.policy * action_values(mdp, response.values), -1)
            backup = backup - regularization(mdp, response.policy)
            system = system_of(jax.lax.stop_gradient(mdp), response)
            return response.values + system.solve(backup - response.values)

        return one(mdp, response)


def is_mdp(node: object) -> bool:
    """Where a tree of players ends."""
    return isinstance(node, MDP)


def _spread(mdp, share):
    """rho with ``share`` of each context's mass spread evenly over its states."""
    mass = jnp.sum(mdp.initial, axis=-1, keepdims=True)
    return (1 - share) * mdp.initial + share * mass / mdp.num_states


@per_context
def _occupancy(mdp, response):
    return system_of(mdp, response).solve_transposed(mdp.initial)
