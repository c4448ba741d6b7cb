"""HPGD: stochastic hypergradients from the followers' trajectories (Thoma et al., NeurIPS 2024)."""

import optax

from .._hypergradient import AbstractAdjoint, ExactAdjoint
from .._oracle import AbstractOracle, PolicyIteration
from .._rollouts import Rollouts
from .._solver.base import AbstractSolver
from .._visit_averages import VisitAverages
from ._method import Method, Request, adam, length, returns, settling_adam
from ._through_response import ThroughResponse


def hpgd(
    optimizer: optax.GradientTransformation = adam(),
    *,
    rollouts: Rollouts | VisitAverages | None = Rollouts(),
    adjoint: AbstractAdjoint | None = None,
    oracle: AbstractOracle = PolicyIteration(),
) -> ThroughResponse:
    """Descends F(x) by an estimate of its gradient from episodes of the answering follower.

        dF/dx = d_x f + E sum_t discount^t G_t / tau d_x A*(s_t, a_t),

    with G_t the leader's (negated) return from t on and A* the follower's soft advantage (Thoma et
    al. 2024, theorem 3). The follower is asked for its answer, which an oracle gives; the leader
    sees episodes of it. Needs tau > 0, and followers that do not play against each other.

    Arguments:
        optimizer: any optax optimiser of x.
        rollouts: the leader's episodes; ``None`` takes d_x f and the weights exactly, as where f is
            no expected return; ``VisitAverages()`` take d_x A* from the same episodes, and both
            advantages as averages over visits, as in the published experiments.
        adjoint: how d_x A* is found: ``ExactAdjoint()`` from the follower's model (the oracle
            variant, and the default), or ``Rollouts()``, a Monte-Carlo estimate from episodes of
            their own.
        oracle: answers for the follower.
    """
    return ThroughResponse(optimizer, oracle, rollouts=rollouts, adjoint=adjoint)


def _build(request: Request) -> AbstractSolver:
    rollouts = Rollouts(32, length(request))
    sampled = returns(request)
    return hpgd(
        settling_adam(request),
        rollouts=rollouts if sampled else None,
        adjoint=ExactAdjoint() if sampled else Rollouts(256, length(request)),
    )


METHOD = Method(
    name="hpgd",
    summary="hypergradient estimated from the answering follower's episodes; needs tau > 0",
    source="Thoma et al. 2024, arXiv 2406.01575",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="best response, 32 episodes, one adjoint solve",
    build=_build,
)
