"""Descent on F(x) through the follower's answer: what HPGD, BC-HG and SoBiRL share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._hypergradient import AbstractAdjoint, ExactAdjoint
from .._oracle import AbstractOracle, PolicyIteration
from .._rollouts import Rollouts
from .._solver.base import (
    AbstractSolver,
    first_policy,
    first_state,
    next_state,
    progress_of,
    step_key,
)
from .._solver.update import move_x
from .._visit_averages import VisitAverages


class ThroughResponse(AbstractSolver):
    """Descends F(x) along d_x f + <d_pi f, d pi*/dx>, each part exact, inexact or from episodes.

    Needs tau > 0, and followers that do not play against each other.

    Attributes:
        optimizer: any optax optimiser of x.
        oracle: answers for the follower.
        backups: steps of the oracle per step of x, which track the answer; ``None`` solves for it.
        rollouts: the episodes that f's own gradient comes from; ``None`` takes it exactly.
        adjoint: how the derivative of the answer is found; ``None`` is ``ExactAdjoint()``, but with
            ``VisitAverages``, which give it themselves.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    oracle: AbstractOracle = PolicyIteration()
    backups: int | None = None
    rollouts: Rollouts | VisitAverages | None = None
    adjoint: AbstractAdjoint | None = None

    def __check_init__(self):
        if self.backups is not None and self.backups < 1:
            raise ValueError(f"ThroughResponse: backups is {self.backups}; give at least 1.")
        if isinstance(self.rollouts, VisitAverages) and self.adjoint is not None:
            raise ValueError(
                "ThroughResponse: rollouts are VisitAverages, which give the derivative of the "
                f"answer too, and adjoint is a {type(self.adjoint).__name__}; leave that out."
            )

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        nowhere = jax.tree.map(lambda pi: jnp.zeros_like(pi[..., 0]), uniform)
        update = (self.optimizer.init(x), nowhere)
        return first_state(x, first_policy(uniform, policy), update, memory, jnp.nan, key)

    def step(self, estimator, state):
        optimizer_state, measure = state.update
        memory = self._answered(estimator, state)
        terms, in_x, policy, measure = estimator.response_hypergradient(
            state.x,
            memory,
            measure,
            jax.random.fold_in(step_key(state), 1),
            rollouts=self.rollouts,
            adjoint=ExactAdjoint() if self.adjoint is None else self.adjoint,
        )
        x, optimizer_state, norm = move_x(estimator, self.optimizer, state.x, in_x, optimizer_state)
        return next_state(
            state,
            x=x,
            policy=policy,
            update=(optimizer_state, measure),
            memory=memory,
            progress=progress_of(terms, state.weight, norm),
        )

    @property
    def environment_steps(self):
        # The leader's episodes and the adjoint's. An episode that ends by itself is shorter.
        return sum(part.environment_steps for part in self._sampled) if self._sampled else None

    def settled(self, state):
        # A sampled gradient may be small by chance.
        return jnp.asarray(not self._sampled)

    def answer(self, estimator, state):
        # The state's own policy answers the x before the last move.
        found = estimator.best_response_value(self.oracle, state.x, state.memory, step_key(state))
        return state.x, found[1]

    @property
    def _sampled(self):
        """The episodes of a step."""
        parts = (self.rollouts, self.adjoint)
        return [part for part in parts if isinstance(part, Rollouts | VisitAverages)]

    def _answered(self, estimator, state):
        """The memory with the follower's answer to the state's x, solved for or tracked."""
        tracked = self.backups is not None

        def respond(k, memory):
            key = jax.random.fold_in(step_key(state), k + 2)
            return estimator.respond(
                self.oracle, state.x, state.policy, memory, key, single_loop=tracked
            )

        return lax.fori_loop(0, self.backups or 1, respond, state.memory)
