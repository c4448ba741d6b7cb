"""AMD: adaptive model design as a method to compare with (Chen et al. 2022)."""

import optax

from .._oracle import AbstractOracle, PolicyIteration
from .._solver import ImplicitGradient
from .._solver.base import AbstractSolver
from ._method import Method, Request


def amd(
    rate: float = 0.5, clip: float = 1.0, *, oracle: AbstractOracle = PolicyIteration()
) -> ImplicitGradient:
    """Exact hypergradient descent by SGD, its gradient clipped to a norm of ``clip``.

    Adaptive model design (Chen et al. 2022) unrolls the follower's soft value iteration and
    differentiates it; at its fixed point that is the implicit gradient. Rate and clipping are those
    of Thoma et al. (2024), who ran it beside HPGD.
    """
    for name, value in (("rate", rate), ("clip", clip)):
        if not value > 0:
            raise ValueError(f"amd: {name} is {value}; give a positive number.")
    return ImplicitGradient(optax.chain(optax.clip_by_global_norm(clip), optax.sgd(rate)), oracle)


def _build(request: Request) -> AbstractSolver:
    return amd(request.learning_rate or 0.5)


METHOD = Method(
    name="amd",
    summary="exact hypergradient with clipped SGD; needs tau > 0",
    source="Chen et al. 2022, as run by Thoma et al. 2024",
    model=True,
    follower_reward=True,
    second_order=True,
    cost="best response, one adjoint solve",
    build=_build,
)
