"""The default oracle: policy iteration that evaluates as the model at hand requires."""

import jax.numpy as jnp

from .._linear import DENSE_LIMIT, solves_densely
from .._mdp import greedy_policy
from .._regularizer import Unregularized
from .base import MOVING, USUAL_RATE, AbstractOracle, first_response
from .newton_krylov import krylov_step


class AdaptivePolicyIteration(AbstractOracle):
    """Policy iteration with the cheapest evaluation that does its work, by what it observes.

    Small chains with tau > 0 keep an inverse. It starts as that of a chain that mixes at once:
    where the chain mixes fast, steps are then sweeps without the constant mode. Where the residual
    falls too slowly for that the true inverse is computed, and again where the policy has moved
    too far. Large chains, and tau = 0, where policies jump, are evaluated inexactly by Krylov
    iterations, up to what a factorisation would cost.
    """

    tol: float = 1e-12
    max_steps: int = 500

    def init(self, mdp):
        size, dtype = mdp.num_states, mdp.reward.dtype
        dense = solves_densely(mdp.transition.under(mdp.uniform_policy())) and size <= DENSE_LIMIT
        if isinstance(mdp.regularizer, Unregularized) or not dense:
            return first_response(mdp, None, MOVING)
        # (I - discount 1 1'/S)^-1; infinite at discount 1, which asks for the true inverse.
        mixing = mdp.discount / (1 - mdp.discount) / size
        return first_response(mdp, jnp.eye(size, dtype=dtype) + mixing, USUAL_RATE)

    def evaluate(self, mdp, response):
        if response.inverse is None:
            return krylov_step(mdp, response, self.tol)
        return response.values + response.inverse @ (response.backup - response.values), 0.0

    def improve(self, mdp, q, response):
        return greedy_policy(mdp, q)
