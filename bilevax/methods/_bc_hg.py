"""BC-HG: the hypergradient as a Boltzmann covariance (akimotolab/BC-HG, ICAPS 2026)."""

import optax

from .._hypergradient import AbstractAdjoint, ExactAdjoint
from .._oracle import AbstractOracle, PolicyIteration
from .._rollouts import Rollouts
from .._solver.base import AbstractSolver
from ._method import Method, Request, adam
from ._through_response import ThroughResponse


def bc_hg(
    optimizer: optax.GradientTransformation = adam(),
    *,
    rollouts: Rollouts | None = None,
    adjoint: AbstractAdjoint = ExactAdjoint(),
    oracle: AbstractOracle = PolicyIteration(),
) -> ThroughResponse:
    """Descends F(x) by the Boltzmann-covariance hypergradient.

        dF/dx = d_x f - 1/tau E_{s ~ d} Cov_{a ~ pi*(.|s)} ( Q_leader(s, a), d_x Q_follower(s, a) ),

    d the leader's discounted visits. No derivative passes through the follower's solve: d_x Q is
    that of the follower's values with its policy held. Needs tau > 0, and followers that do not
    play against each other.

    Arguments:
        optimizer: any optax optimiser of x.
        rollouts: ``None`` takes the expectation over states exactly; ``Rollouts(critic=True)``
            over visited states, all actions of each by the leader's critic, as in the paper.
        adjoint: how the covariance with d_x Q is found: ``ExactAdjoint()`` or ``Rollouts()``.
        oracle: answers for the follower.
    """
    return ThroughResponse(optimizer, oracle, rollouts=rollouts, adjoint=adjoint)


def _build(request: Request) -> AbstractSolver:
    return bc_hg(adam(request))


METHOD = Method(
    name="bc-hg",
    summary="hypergradient as a covariance of both players' action values; needs tau > 0",
    source="akimotolab/BC-HG, ICAPS 2026",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="best response, one factorisation, one adjoint solve",
    build=_build,
)
