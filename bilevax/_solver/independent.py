"""Independent gradients: both levels ascend their own objective, ignoring each other."""

import jax.numpy as jnp
import optax

from .._oracle import PolicyIteration
from .base import AbstractSolver, first_policy, first_state, next_state, progress_of, step_key
from .update import AbstractUpdate, SoftmaxLogits


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
        def gradient(policy, memory):
            return estimator.independent_gradient(state.x, policy, memory, step_key(state))

        moved = self.update(estimator, gradient, state.x, state.policy, state.memory, state.update)
        return next_state(
            state,
            x=moved.x,
            policy=moved.policy,
            update=moved.state,
            memory=moved.memory,
            progress=progress_of(moved.terms, state.weight, moved.norm),
        )

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        return state.x, state.policy
