"""Value iteration without its slow mode."""

import jax.numpy as jnp

from .._mdp import greedy_policy
from .base import MOVING, AbstractOracle, first_response


class ValueIteration(AbstractOracle):
    """V <- T V with the constant mode removed; soft value iteration where tau > 0.

    A constant error shrinks by the discount only, and shapes that mix shrink faster. So the
    constant alpha that explains the residual on average is added before each sweep,
    sum (T V - V) = alpha sum (1 - discount P_pi 1): for stochastic rows MacQueen's extrapolation
    (1966), and right for rows that lose mass (termination). Where it would not help it is left out.
    """

    tol: float = 1e-12
    max_steps: int = 10_000

    def init(self, mdp):
        return first_response(mdp, None, MOVING)

    def evaluate(self, mdp, response):
        # Constant over a solve: XLA takes it out of the loop.
        mass = mdp.transition.expected_next(jnp.ones_like(response.values))
        kept = mdp.discount * jnp.sum(response.policy * mass, axis=-1)
        delta, loss = response.backup - response.values, 1 - kept
        alpha = jnp.sum(delta) / jnp.sum(loss)
        helps = jnp.max(jnp.abs(delta - alpha * loss)) <= jnp.max(jnp.abs(delta))
        return response.backup + jnp.where(helps, alpha, 0) * kept, 0.0

    def improve(self, mdp, q, response):
        return greedy_policy(mdp, q)
