"""Annealing: any solver, with a lower level that starts hot and cools to its own temperature."""

import jax.numpy as jnp

from .._types import ScalarLike
from .base import AbstractSolver, check_solver


class Annealed(AbstractSolver):
    """A solver on a lower level whose tau falls geometrically from ``initial`` tau to tau.

    A hot follower answers smoothly, so the upper level first sees a landscape with few local
    optima, and follows one of them down as the follower cools. Steps from ``steps`` on are those of
    the solver itself, and so is the certificate: it always holds at the problem's own tau.

    What is heated is the MDP that ``lower`` returns. That of a ``lagrangian`` got its prices at its
    own tau, and keeps them: the follower's limits do not hold until it has cooled.

    Attributes:
        solver: the solver that takes the steps.
        initial: the first factor on tau, above 1.
        steps: steps until tau is the problem's own.
        final: the last factor on tau: 1, or more to stay hot for another run to cool.
            Given as arrays, the factors can change without another compilation.
    """

    solver: AbstractSolver
    initial: ScalarLike
    steps: int
    final: ScalarLike = 1.0

    def __check_init__(self):
        if not self.initial >= self.final >= 1:
            raise ValueError(
                f"Annealed: initial is {self.initial} and final {self.final}; give factors on tau "
                "with initial >= final >= 1."
            )
        if self.steps < 1:
            raise ValueError(f"Annealed: steps is {self.steps}; give at least 1.")

        check_solver("Annealed", self.solver)
        if self.solver.compares_values:
            raise ValueError(
                f"Annealed: solver is {type(self.solver).__name__}, which compares values of one "
                "objective, and cooling changes it; anneal another solver, and start this one "
                "from its answer."
            )

    def init(self, estimator, x, policy, key):
        return self.solver.init(estimator, x, policy, key)

    def step(self, estimator, state):
        share = jnp.asarray(jnp.minimum(state.step / self.steps, 1), state.weight.dtype)
        factor = self.initial * (self.final / self.initial) ** share
        return self.solver.step(estimator.tempered(factor), state)

    @property
    def environment_steps(self):
        return self.solver.environment_steps

    def settled(self, state):
        return (state.step >= self.steps) & self.solver.settled(state)

    def answer(self, estimator, state):
        return self.solver.answer(estimator, state)
