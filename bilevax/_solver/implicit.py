"""Implicit gradient: exact descent on F(x) = f(x, pi*_x)."""

import jax.numpy as jnp
import optax

from .._oracle import AbstractOracle, PolicyIteration
from .base import AbstractSolver, descended, first_policy, first_state, step_key


class ImplicitGradient(AbstractSolver):
    """Descends F(x) = f(x, pi*_x) by its exact hypergradient, one adjoint solve per step.

    The lower level is solved exactly at every step, so its gap stays at rounding; the landscape of
    F is the hard one that penalties smooth. Needs tau > 0.

    Attributes:
        optimizer: any optax optimiser of x.
        oracle: solves the lower level.
    """

    optimizer: optax.GradientTransformation = optax.adam(0.05)
    oracle: AbstractOracle = PolicyIteration()

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        return first_state(x, policy, self.optimizer.init(x), memory, jnp.nan, key)

    def step(self, estimator, state):
        terms, gradient, policy, memory = estimator.hypergradient(
            self.oracle, state.x, state.memory, step_key(state)
        )
        return descended(estimator, self.optimizer, state, gradient, terms, policy, memory)

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        # The state's policy answers the x before the last move; the best response at x is wanted.
        found = estimator.best_response_value(self.oracle, state.x, state.memory, step_key(state))
        return state.x, found[1]
