"""SoBiRL, with a model and without (Yang, Gao and Yuan 2024, arXiv 2405.19697)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._hypergradient import AdjointSweeps, Rollouts
from .._oracle import AbstractOracle, ValueIteration
from .._solver.base import AbstractSolver, step_key
from ._descent import begin, best_response, descend_through_response, no_measure
from ._method import Method, Request, adam


class MSoBiRL(AbstractSolver):
    """Descends F(x) by an inexact hypergradient: values and adjoint are tracked, never solved.

    Each step takes ``backups`` soft backups of the follower's optimal values from those before, a
    few sweeps of the adjoint equation from its last measure, and moves x once; f itself is
    evaluated by one factorisation. The error of both
    shrinks by the discount with every inner step and grows with the move of x. Needs tau > 0, and
    followers that do not play against each other.

    Attributes:
        optimizer: any optax optimiser of x.
        backups: of the values, per step of x.
        adjoint: the sweeps of the adjoint equation, per step of x.
        oracle: whose single step is a backup.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    backups: int = 5
    adjoint: AdjointSweeps = AdjointSweeps(5)
    oracle: AbstractOracle = ValueIteration()

    def __check_init__(self):
        if self.backups < 1:
            raise ValueError(f"MSoBiRL: backups is {self.backups}; give at least 1.")

    def init(self, estimator, x, policy, key):
        measure = no_measure(estimator, self.oracle, x, key)
        return begin(estimator, self.optimizer, self.oracle, x, policy, key, measure)

    def step(self, estimator, state):
        memory = _tracked(estimator, self.oracle, state, self.backups)
        return descend_through_response(
            estimator, self.optimizer, state, memory, None, self.adjoint
        )

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        return state.x, best_response(estimator, self.oracle, state)


class SoBiRL(AbstractSolver):
    """SoBiRL: the follower's answer is tracked, and the hypergradient estimated from episodes.

    The leader's weights come from episodes of the tracked answer, the derivatives of the follower's
    values from further ones (see ``Rollouts``). Needs tau > 0, one follower (contexts are fine)
    and an upper level that is an expected return.

    Attributes:
        optimizer: any optax optimiser of x.
        backups: of the follower's values, per step of x.
        rollouts: the leader's episodes.
        derivatives: those for the derivatives of the follower's values.
        oracle: whose single step is a backup.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    backups: int = 5
    rollouts: Rollouts = Rollouts()
    derivatives: Rollouts = Rollouts()
    oracle: AbstractOracle = ValueIteration()

    def __check_init__(self):
        if self.backups < 1:
            raise ValueError(f"SoBiRL: backups is {self.backups}; give at least 1.")

    def init(self, estimator, x, policy, key):
        measure = no_measure(estimator, self.oracle, x, key)
        return begin(estimator, self.optimizer, self.oracle, x, policy, key, measure)

    def step(self, estimator, state):
        memory = _tracked(estimator, self.oracle, state, self.backups)
        return descend_through_response(
            estimator, self.optimizer, state, memory, self.rollouts, self.derivatives
        )

    def settled(self, state):
        # A sampled gradient may be small by chance.
        return jnp.asarray(False)

    def answer(self, estimator, state):
        return state.x, best_response(estimator, self.oracle, state)


def _tracked(estimator, oracle, state, backups):
    """The memory after a few steps of the oracle at the state's x."""

    def back(k, memory):
        key = jax.random.fold_in(step_key(state), k + 2)
        return estimator.respond(oracle, state.x, state.policy, memory, key, single_loop=True)

    return lax.fori_loop(0, backups, back, state.memory)


def _build(request: Request) -> AbstractSolver:
    return MSoBiRL(adam(request), backups=10, adjoint=AdjointSweeps(10))


METHOD = Method(
    name="sobirl",
    summary="inexact hypergradient from tracked values and a tracked adjoint; needs tau > 0",
    source="Yang, Gao and Yuan 2024, arXiv 2405.19697",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="10 backups, 10 sweeps, one factorisation",
    build=_build,
)
