"""PBRL: penalty-based bilevel reinforcement learning."""

import equinox as eqx
import jax
import optax

from .._oracle import AbstractOracle, PolicyIteration
from .._penalty import AbstractPenalty, NikaidoIsoda
from .base import AbstractSolver, first_policy, first_state, next_state, progress_of, step_key
from .update import AbstractUpdate, Alternating
from .weight import AbstractWeight, Homotopy, as_weight


class PBRL(AbstractSolver):
    """Descends f(x, y) + weight p(x, y) in both variables (Shen, Yang and Chen 2025, algorithm 1).

    Each step answers x by the oracle, takes the gradient of the penalised objective with that
    response held fixed (spec (M8), (M9)), and moves x and the policy together.

    Attributes:
        penalty: ``NikaidoIsoda()`` (the value penalty with one follower) or ``BellmanPenalty()``.
        penalty_weight: a number, a function of the step, ``Homotopy`` or ``AutomaticWeight``.
        update: ``Alternating(optimizer)``, which keeps the policy at its minimiser;
            ``SoftmaxLogits(optimizer)``, which moves both at once; or ``MirrorDescent(step_size)``,
            the paper's projected gradient.
        oracle: solves the lower level.
        single_loop: one oracle step per step, tracking the best response, instead of solving to the
            oracle's tolerance.
    """

    penalty: AbstractPenalty = NikaidoIsoda()
    penalty_weight: AbstractWeight = eqx.field(
        converter=as_weight, default=Homotopy(1.0, 1e3, 1000)
    )
    update: AbstractUpdate = Alternating(optax.adam(0.05))
    oracle: AbstractOracle = PolicyIteration()
    single_loop: bool = False

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        update = self.update.init(x, policy)
        return first_state(x, policy, update, memory, self.penalty_weight.init(), key)

    def step(self, estimator, state):
        x, weight = state.x, state.weight
        for_response, for_gradient = jax.random.split(step_key(state))

        def respond(policy, memory):
            return estimator.respond(
                self.oracle, x, policy, memory, for_response, single_loop=self.single_loop
            )

        memory = respond(state.policy, state.memory)

        def gradient(policy, memory):
            if estimator.interactive(x) and policy is not state.policy:
                memory = respond(policy, memory)
            return estimator.penalised_gradient(
                self.penalty, x, policy, weight, memory, for_gradient
            )

        moved = self.update(estimator, gradient, x, state.policy, memory, state.update)
        return next_state(
            state,
            x=moved.x,
            policy=moved.policy,
            update=moved.state,
            memory=moved.memory,
            weight=self.penalty_weight.next(weight, state.step + 1, moved.terms.penalty),
            progress=progress_of(moved.terms, weight, moved.norm),
        )

    def settled(self, state):
        return self.penalty_weight.settled(state.step, state.progress.penalty)

    def answer(self, estimator, state):
        return state.x, state.policy
