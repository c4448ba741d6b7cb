"""PBRL-SL: the single-loop variant of the penalty method (Shen, Yang and Chen 2025)."""

from .._oracle import PolicyMirrorDescent
from .._penalty import AbstractPenalty, NikaidoIsoda
from .._solver import PBRL, Homotopy, SoftmaxLogits
from .._solver.base import AbstractSolver, AbstractUpdate, Alternating
from .._solver.weight import AbstractWeight
from ._method import Method, Request, adam, penalty_weight, smallest_tau


def pbrl_sl(
    update: AbstractUpdate = Alternating(adam()),
    *,
    penalty: AbstractPenalty = NikaidoIsoda(),
    penalty_weight: AbstractWeight | float = Homotopy(1.0, 1e3, 1000),
    step_size: float = 1.0,
) -> PBRL:
    """PBRL whose best response is tracked by one step of mirror ascent per step, never solved for.

    ``step_size`` is that of ``PolicyMirrorDescent``; 1 / tau goes half of the way in the logits.
    """
    oracle = PolicyMirrorDescent(step_size)
    return PBRL(penalty, penalty_weight, update, oracle, single_loop=True)


def _build(request: Request) -> AbstractSolver:
    tau = smallest_tau(request)
    # Without curvature there is no step to alternate with.
    update = request.update() if tau > 0 else SoftmaxLogits(adam(request))
    return pbrl_sl(
        update,
        penalty=request.zoo.solver.penalty,
        penalty_weight=penalty_weight(request),
        step_size=1 / tau if tau > 0 else 1.0,
    )


METHOD = Method(
    name="pbrl-sl",
    summary="pbrl in a single loop: the best response is tracked, never solved for",
    source="Shen, Yang and Chen 2025, arXiv 2402.06886",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="one mirror step, one factorisation per policy",
    build=_build,
    penalised=True,
    anneals=True,
)
