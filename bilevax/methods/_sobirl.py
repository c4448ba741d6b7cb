"""SoBiRL, with a model and without (Yang, Gao and Yuan 2024, arXiv 2405.19697)."""

import optax

from .._hypergradient import AdjointSweeps
from .._oracle import AbstractOracle, ValueIteration
from .._rollouts import Rollouts
from .._solver.base import AbstractSolver
from ._method import Method, Request, adam
from ._through_response import ThroughResponse


def m_sobirl(
    optimizer: optax.GradientTransformation = adam(),
    *,
    backups: int = 5,
    adjoint: AdjointSweeps = AdjointSweeps(5),
    oracle: AbstractOracle = ValueIteration(),
) -> ThroughResponse:
    """Descends F(x) by an inexact hypergradient: values and adjoint are tracked, never solved.

    Each step takes ``backups`` soft backups of the follower's optimal values from those before, a
    few sweeps of the adjoint equation from its last measure, and moves x once; f itself is
    evaluated by one factorisation. The error of both shrinks by the discount with every inner step
    and grows with the move of x. Needs tau > 0, and followers that do not play against each other.

    Arguments:
        optimizer: any optax optimiser of x.
        backups: of the values, per step of x.
        adjoint: the sweeps of the adjoint equation, per step of x.
        oracle: whose single step is a backup.
    """
    return ThroughResponse(optimizer, oracle, backups, adjoint=adjoint)


def sobirl(
    optimizer: optax.GradientTransformation = adam(),
    *,
    backups: int = 5,
    rollouts: Rollouts = Rollouts(),
    adjoint: Rollouts = Rollouts(),
    oracle: AbstractOracle = ValueIteration(),
) -> ThroughResponse:
    """SoBiRL: the follower's answer is tracked, and the hypergradient estimated from episodes.

    The leader's weights come from episodes of the tracked answer, the derivatives of the follower's
    values from further ones (see ``Rollouts``). Needs tau > 0, one follower (contexts are fine)
    and an upper level that is an expected return.

    Arguments:
        optimizer: any optax optimiser of x.
        backups: of the follower's values, per step of x.
        rollouts: the leader's episodes.
        adjoint: those for the derivatives of the follower's values.
        oracle: whose single step is a backup.
    """
    return ThroughResponse(optimizer, oracle, backups, rollouts, adjoint)


def _build(request: Request) -> AbstractSolver:
    return m_sobirl(adam(request), backups=10, adjoint=AdjointSweeps(10))


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
