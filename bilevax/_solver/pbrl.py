"""PBRL: penalty-based bilevel reinforcement learning."""

import equinox as eqx
import optax

from .._oracle import AbstractOracle, PolicyIteration
from .._penalty import AbstractPenalty, NikaidoIsoda
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
from .weight import AbstractWeight, Homotopy, as_weight


class PBRL(AbstractSolver):
    """Descends f(x, y) + weight p(x, y) in both variables (Shen, Yang and Chen 2025, algorithm 1).

    Each step answers x by the oracle, takes the gradient of the penalised objective with that
    response held fixed (spec (M8), (M9)), and moves x and the policy together.

    Attributes:
        penalty: ``NikaidoIsoda()`` (the value penalty with one follower) or ``BellmanPenalty()``.
        penalty_weight: a number, a function of the step, ``Homotopy`` or ``AutomaticWeight``.
        update: ``SoftmaxLogits(optimizer)`` or ``MirrorDescent(step_size)``, the paper's.
        oracle: solves the lower level.
        single_loop: one oracle step per step, tracking the best response, instead of solving to the
            oracle's tolerance.
    """

    penalty: AbstractPenalty = NikaidoIsoda()
    penalty_weight: AbstractWeight = eqx.field(
        converter=as_weight, default=Homotopy(1.0, 1e3, 1000)
    )
    update: AbstractUpdate = SoftmaxLogits(optax.adam(0.05))
    oracle: AbstractOracle = PolicyIteration()
    single_loop: bool = False

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        update = self.update.init(x, policy)
        return first_state(x, policy, update, memory, self.penalty_weight.init(), key)

    def step(self, estimator, state):
        terms, gradient, memory = estimator.penalised_gradient(
            self.oracle,
            self.penalty,
            state.x,
            state.policy,
            state.weight,
            state.memory,
            state.key,
            single_loop=self.single_loop,
        )
        x, policy, norm, update = self.update(
            estimator, state.x, state.policy, gradient, state.update
        )
        step = state.step + 1
        weight = self.penalty_weight.next(state.weight, step, terms.penalty)
        progress = Progress(terms.upper, terms.penalty, state.weight, norm, terms.converged)
        new = State(x, policy, update, memory, weight, state.key, step, state.failed, progress)
        return next_state(state, new)

    def settled(self, state):
        return self.penalty_weight.settled(state.step, state.progress.penalty)

    def answer(self, estimator, state):
        return state.x, state.policy
