"""Meta-gradient: descent through a few steps of the lower level's own learning."""

import jax.numpy as jnp
import optax

from .._oracle import PolicyIteration
from .base import AbstractSolver, descended, first_policy, first_state, step_key


class MetaGradient(AbstractSolver):
    """Descends f(x, policy_K(x)), policy_K being what the players learn in K steps.

    From the current policies every player takes K = ``inner_steps`` steps of mirror ascent on its
    own return, all at once and with exact values; the gradient of f at the end passes through all
    of them, and the learned policies are kept. The derivative through so few steps is that of the
    answer only in the limit, and costs K evaluations in memory.

    Attributes:
        optimizer: any optax optimiser of x.
        inner_steps: K.
        step_size: of the mirror ascent, as of ``PolicyMirrorDescent``.
        restarts: whether the players learn from the uniform policy anew at every step.
    """

    optimizer: optax.GradientTransformation = optax.adam(0.05)
    inner_steps: int = 10
    step_size: float = 1.0
    restarts: bool = False

    def __check_init__(self):
        if self.inner_steps < 1:
            raise ValueError(f"MetaGradient: inner_steps is {self.inner_steps}; give at least 1.")
        if not self.step_size > 0:
            raise ValueError(
                f"MetaGradient: step_size is {self.step_size}; give a positive number."
            )

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(PolicyIteration(), x, key)
        policy = first_policy(uniform, policy)
        return first_state(x, policy, self.optimizer.init(x), memory, jnp.nan, key)

    def step(self, estimator, state):
        terms, gradient, policy, memory = self._unrolled(estimator, state)
        return descended(estimator, self.optimizer, state, gradient, terms, policy, memory)

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        # The state's policies have learned at the x before the last move.
        _, _, policy, _ = self._unrolled(estimator, state)
        return state.x, policy

    def _unrolled(self, estimator, state):
        policy = state.policy
        if self.restarts:
            policy, _ = estimator.init(PolicyIteration(), state.x, step_key(state))
        return estimator.unrolled_gradient(
            state.x,
            policy,
            state.memory,
            step_key(state),
            steps=self.inner_steps,
            step_size=self.step_size,
        )
