"""Nested: the gradient through an inner learner that starts afresh at every outer step."""

import equinox as eqx
import jax.numpy as jnp
import optax

from .._oracle import PolicyMirrorDescent
from .._solver.base import AbstractSolver, step_key
from ._descent import begin, descend
from ._method import Method, Request, adam, smallest_tau


class Nested(AbstractSolver):
    """Descends f(x, policy_K(x)), policy_K being learned from the uniform policy in K steps.

    Every outer step trains new followers by ``inner_steps`` steps of mirror ascent with exact
    values and differentiates all of them (``MetaGradient`` goes on from the policies learned
    before). With many steps it is the hypergradient of the answer; time and memory grow with K.

    Attributes:
        optimizer: any optax optimiser of x.
        inner_steps: K.
        step_size: of the mirror ascent, as of ``PolicyMirrorDescent``.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    inner_steps: int = 50
    step_size: float = 1.0

    def __check_init__(self):
        if self.inner_steps < 1:
            raise ValueError(f"Nested: inner_steps is {self.inner_steps}; give at least 1.")
        if not self.step_size > 0:
            raise ValueError(f"Nested: step_size is {self.step_size}; give a positive number.")

    def init(self, estimator, x, policy, key):
        return begin(estimator, self.optimizer, PolicyMirrorDescent(), x, policy, key)

    def step(self, estimator, state):
        terms, in_x, policy, memory = self._learned(estimator, state)
        own = state.update[1]
        return descend(estimator, self.optimizer, state, in_x, terms, policy, memory, own)

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        # The state's policies have learned at the x before the last move.
        return state.x, self._learned(estimator, state)[2]

    def _learned(self, estimator, state):
        return estimator.unrolled_gradient(
            state.x,
            state.update[1],
            state.memory,
            step_key(state),
            steps=self.inner_steps,
            step_size=self.step_size,
        )


def _build(request: Request) -> AbstractSolver:
    tau = smallest_tau(request)
    return Nested(adam(request), inner_steps=30, step_size=3 / tau if tau > 0 else 1.0)


METHOD = Method(
    name="nested",
    summary="gradient through a fresh follower's whole learning, from the uniform policy",
    source="unrolled differentiation; baseline of several of the papers here",
    model=True,
    follower_reward=True,
    second_order=True,
    cost="30 factorisations and their adjoints",
    build=_build,
)
