"""What the core's own solvers say of themselves."""

from dataclasses import replace

from .._oracle import PolicyMirrorDescent
from .._penalty import BellmanPenalty, NikaidoIsoda
from .._solver import (
    PANDA,
    AbstractSolver,
    ImplicitGradient,
    IndependentGradient,
    MetaGradient,
    SoftmaxLogits,
)
from ._method import (
    Method,
    Request,
    adam,
    horizon,
    is_unregularized,
    penalty_weight,
    smallest_tau,
)

_PANDA_STEP = 0.1  # PANDA's own default, of policies and learners alike


def _pbrl(request: Request) -> AbstractSolver:
    return _penalised(request, request.zoo.solver.penalty, 1.0)


def _pbrl_bellman(request: Request) -> AbstractSolver:
    return _penalised(request, BellmanPenalty(), horizon(request))


def _penalised(request, penalty, factor):
    # Without curvature there is no step to alternate with.
    logits = is_unregularized(request)
    update = SoftmaxLogits(adam(request)) if logits else request.update()
    weight = penalty_weight(request, factor)
    return replace(request.zoo.solver, penalty=penalty, penalty_weight=weight, update=update)


def _panda(request: Request) -> AbstractSolver:
    tau = smallest_tau(request)
    if tau == 0:
        raise ValueError("the solver panda: tau is 0; give a positive --tau, or take pbrl.")
    penalty = request.zoo.solver.penalty
    return PANDA(
        penalty if isinstance(penalty, NikaidoIsoda) else NikaidoIsoda(),
        penalty_weight(request),
        adam(request),
        policy_step=_PANDA_STEP,
        oracle=PolicyMirrorDescent(step_size=_PANDA_STEP / tau),
    )


CORE = (
    Method(
        name="pbrl",
        summary="penalty-based descent in both levels, value penalty (the default)",
        source="Shen, Yang and Chen 2025, arXiv 2402.06886",
        model=True,
        follower_reward=True,
        second_order=False,
        cost="best response, one factorisation per policy",
        build=_pbrl,
        penalised=True,
        anneals=True,
    ),
    Method(
        name="pbrl-bellman",
        summary="the same with the Bellman penalty; needs tau > 0",
        source="Shen, Yang and Chen 2025, arXiv 2402.06886",
        model=True,
        follower_reward=True,
        second_order=False,
        cost="best response, one factorisation per policy",
        build=_pbrl_bellman,
        penalised=True,
        anneals=True,
    ),
    Method(
        name="implicit",
        summary="exact gradient through the best response; needs tau > 0",
        source="implicit differentiation",
        model=True,
        follower_reward=True,
        second_order=True,
        cost="best response, one adjoint solve",
        build=lambda request: ImplicitGradient(adam(request)),
    ),
    Method(
        name="panda",
        summary="penalty-based, with policies that learn in place of best responses; needs tau > 0",
        source="Zheng et al., ICML 2026",
        model=True,
        follower_reward=True,
        second_order=False,
        cost="10 learning steps, each one factorisation per policy",
        build=_panda,
        penalised=True,
    ),
    Method(
        name="meta-gradient",
        summary="gradient through a few steps of the lower level's learning",
        source="unrolled differentiation",
        model=True,
        follower_reward=True,
        second_order=True,
        cost="10 learning steps and their adjoints",
        build=lambda request: MetaGradient(adam(request)),
    ),
    Method(
        name="independent",
        summary="each level follows its own gradient: the baseline without bilevel structure",
        source="baseline",
        model=True,
        follower_reward=True,
        second_order=False,
        cost="one factorisation",
        build=lambda request: IndependentGradient(SoftmaxLogits(adam(request))),
    ),
)
