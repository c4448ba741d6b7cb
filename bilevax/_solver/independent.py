"""Independent gradients: both levels ascend their own objective, ignoring each other."""

import jax.numpy as jnp
import optax

from .._oracle import PolicyIteration
from .base import (
    AbstractSolver,
    AbstractUpdate,
    Progress,
    SoftmaxLogits,
    State,
    first_policy,
    first_state,
    next_state,
)


class IndependentGradient(AbstractSolver):
    """x descends grad_x f at the policy held fixed, each policy ascends its own return.

    The baseline without bilevel structure: it aims at an equilibrium of simultaneous learning, not
    at the leader's optimum.

    Attributes:
        update: how both move.
    """

    update: AbstractUpdate = SoftmaxLogits(optax.adam(0.05))

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(PolicyIteration(), x, key)
        policy = first_policy(uniform, policy)
        return first_state(x, policy, self.update.init(x, policy), memory, jnp.nan, key)

    def step(self, estimator, state):
        terms, gradient, memory = estimator.independent_gradient(
            state.x, state.policy, state.memory, state.key
        )
        x, policy, norm, update = self.update(
            estimator, state.x, state.policy, gradient, state.update
        )
        progress = Progress(terms.upper, terms.penalty, state.weight, norm, terms.converged)
        new = State(
            x,
            policy,
            update,
            memory,
            state.weight,
            state.key,
            state.step + 1,
            state.failed,
            progress,
        )
        return next_state(state, new)

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        return state.x, state.policy
