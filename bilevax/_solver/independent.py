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
    step_key,
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
        def gradient(policy, memory):
            return estimator.independent_gradient(state.x, policy, memory, step_key(state))

        moved = self.update(estimator, gradient, state.x, state.policy, state.memory, state.update)
        terms = moved.terms
        new = State(
            x=moved.x,
            policy=moved.policy,
            update=moved.state,
            memory=moved.memory,
            weight=state.weight,
            key=state.key,
            step=state.step + 1,
            failed=state.failed,
            progress=Progress(
                terms.upper, terms.penalty, state.weight, moved.norm, terms.converged
            ),
        )
        return next_state(state, new)

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        return state.x, state.policy
