"""Nested: the gradient through an inner learner that starts afresh at every outer step."""

import optax

from .._solver import MetaGradient
from .._solver.base import AbstractSolver
from ._method import Method, Request, adam, smallest_tau


def nested(
    optimizer: optax.GradientTransformation = adam(),
    *,
    inner_steps: int = 50,
    step_size: float = 1.0,
) -> MetaGradient:
    """Descends f(x, policy_K(x)), policy_K being learned from the uniform policy in K steps.

    Every outer step trains new followers by ``inner_steps`` steps of mirror ascent with exact
    values and differentiates all of them (``MetaGradient`` by itself goes on from the policies
    learned before). With many steps it is the hypergradient of the answer; time and memory grow
    with K.

    Arguments:
        optimizer: any optax optimiser of x.
        inner_steps: K.
        step_size: of the mirror ascent, as of ``PolicyMirrorDescent``.
    """
    return MetaGradient(optimizer, inner_steps, step_size, restarts=True)


def _build(request: Request) -> AbstractSolver:
    tau = smallest_tau(request)
    return nested(adam(request), inner_steps=30, step_size=3 / tau if tau > 0 else 1.0)


METHOD = Method(
    name="nested",
    summary="gradient through a fresh follower's whole learning, from the uniform policy",
    source="unrolled differentiation; baseline of several of the papers here",
    model=True,
    follower_reward=True,
    second_order=True,
    cost="30 factorisations and their adjoints",
    build=_build,
)
