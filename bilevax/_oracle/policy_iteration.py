"""Policy iteration: Newton's method on V = T V."""

import jax.numpy as jnp

from .._linear import policy_system, solves_densely
from .._mdp import greedy_policy
from .base import USUAL_RATE, AbstractOracle, first_response


class PolicyIteration(AbstractOracle):
    """Newton's method on V = T V: soft policy iteration, quadratically convergent.

    Dense chains keep the inverse of an earlier policy's system and refresh it where the residual
    no longer falls fast (a chord method: each step then costs two products).
    """

    tol: float = 1e-12
    max_steps: int = 200

    def init(self, mdp):
        states = mdp.num_states
        dense = solves_densely(mdp.transition.under(mdp.uniform_policy()))
        # NaN: no inverse yet.
        unknown = jnp.full((states, states), jnp.nan, mdp.reward.dtype) if dense else None
        return first_response(mdp, unknown, USUAL_RATE)

    def evaluate(self, mdp, response):
        delta = response.backup - response.values
        if response.inverse is not None:
            return response.values + response.inverse @ delta, 0.0
        system = policy_system(mdp.transition.under(response.policy), mdp.discount)
        return response.values + system.solve(delta), 0.0

    def improve(self, mdp, q, response):
        return greedy_policy(mdp, q)
