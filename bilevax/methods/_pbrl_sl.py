"""PBRL-SL: the single-loop variant of the penalty method (Shen, Yang and Chen 2025)."""

from .._oracle import AbstractOracle, PolicyIteration
from .._penalty import AbstractPenalty, NikaidoIsoda
from .._solver import PBRL, Homotopy, SoftmaxLogits
from .._solver.base import AbstractSolver
from .._solver.update import AbstractUpdate, Alternating
from .._solver.weight import AbstractWeight
from ._method import Method, Request, adam, is_unregularized, penalty_weight


def pbrl_sl(
    update: AbstractUpdate = Alternating(adam()),
    *,
    penalty: AbstractPenalty = NikaidoIsoda(),
    penalty_weight: AbstractWeight | float = Homotopy(1.0, 1e3, 1000),
    oracle: AbstractOracle = PolicyIteration(),
) -> PBRL:
    """PBRL whose best response is tracked by one oracle step per step, never solved for.

    The tracked response must keep up with the policy: where it lags, the penalty pulls x back with
    its whole weight. ``Alternating`` moves the policy by a whole step of soft policy iteration, and
    so does the default oracle the response; with ``SoftmaxLogits`` mirror ascent keeps up too.
    """
    return PBRL(penalty, penalty_weight, update, oracle, single_loop=True)


def _build(request: Request) -> AbstractSolver:
    # Without curvature there is no step to alternate with.
    logits = is_unregularized(request)
    update = SoftmaxLogits(adam(request)) if logits else request.update()
    weight = penalty_weight(request)
    return pbrl_sl(update, penalty=request.zoo.solver.penalty, penalty_weight=weight)


METHOD = Method(
    name="pbrl-sl",
    summary="PBRL in a single loop: the best response is tracked, never solved for",
    source="Shen, Yang and Chen 2025, arXiv 2402.06886",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="one oracle step, one factorisation per policy",
    build=_build,
    penalised=True,
    anneals=True,
)
