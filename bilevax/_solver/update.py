"""How x and the policy move along a gradient."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._estimator import AbstractEstimator, Curvature, Terms
from .._oracle import AbstractOracle
from .._penalty import AbstractPenalty
from .._types import PyTree, Scalar, kind_of

Gradient: TypeAlias = Callable[[PyTree, PyTree], tuple[Terms, tuple[PyTree, PyTree], PyTree]]
"""The gradient in (x, policy) at the current x and a policy, with the memory renewed."""


class Moved(NamedTuple):
    """Where an update went, and what it saw on the way.

    ``norm`` is that of the gradient in the moved variables, ``terms`` those of the last gradient.
    """

    x: PyTree
    policy: PyTree
    norm: Scalar
    terms: Terms
    memory: PyTree
    state: PyTree


class AbstractUpdate(eqx.Module):
    """How (x, policy) moves along gradients."""

    def __check_init__(self):
        check_parts(self)

    @abc.abstractmethod
    def init(self, x: PyTree, policy: PyTree) -> PyTree:
        """The update's state."""

    @abc.abstractmethod
    def __call__(
        self,
        estimator: AbstractEstimator,
        gradient: Gradient,
        x: PyTree,
        policy: PyTree,
        memory: PyTree,
        state: PyTree,
    ) -> Moved:
        """The new x and policy."""


class Alternating(AbstractUpdate):
    """Minimises in the policy first, by a step of regularised policy iteration; then moves x.

    The policy takes the proximal step ``gradient / curvature`` in its regulariser's geometry. Where
    f is an expected return and ``policy_step`` is 1, that is soft policy iteration (the natural
    policy gradient at its Newton step) on the penalised objective: quadratically convergent, so the
    policy keeps up with x at any penalty weight and temperature, and x sees the gradient of
    ``min over y of f + weight p``. Two gradients a step. Needs tau > 0.

    Attributes:
        optimizer: any optax optimiser of x.
        policy_step: in (0, 1]; less than 1 damps the policy's step where f is far from linear in
            the occupancy.
    """

    optimizer: optax.GradientTransformation
    policy_step: float = 1.0

    def __check_init__(self):
        if not 0 < self.policy_step <= 1:
            raise ValueError(
                f"Alternating: policy_step is {self.policy_step}; it must lie in (0, 1]."
            )

    def init(self, x, policy):
        return self.optimizer.init(x)

    def __call__(self, estimator, gradient, x, policy, memory, state):
        terms, (_, in_policy), memory = gradient(policy, memory)
        curvature = known_curvature("Alternating", terms)
        step = jax.tree.map(lambda g, c: self.policy_step * c.divide(g), in_policy, curvature)
        policy = estimator.mirror_step(x, policy, step)
        terms, (in_x, _), memory = gradient(policy, memory)
        x, state, norm = move_x(estimator, self.optimizer, x, in_x, state)
        return Moved(x, policy, norm, terms, memory, state)


class SoftmaxLogits(AbstractUpdate):
    """Moves x and the logits of every policy with an optax optimiser, then projects x.

    The gradient in the logits is pi (g - <pi, g>) for a gradient g in the policy. An action to
    which the first policy gives probability 0 keeps it: give every action some to start from.
    """

    optimizer: optax.GradientTransformation

    def init(self, x, policy):
        logits = jax.tree.map(jnp.log, policy)
        return logits, self.optimizer.init((x, logits))

    def __call__(self, estimator, gradient, x, policy, memory, state):
        logits, inner = state
        terms, (in_x, in_policy), memory = gradient(policy, memory)
        in_logits = jax.tree.map(
            lambda pi, g: pi * (g - jnp.sum(pi * g, -1, keepdims=True)), policy, in_policy
        )
        given = (along_constraints(estimator, x, in_x), in_logits)
        moves, inner = self.optimizer.update(given, inner, (x, logits))
        norm = optax.tree.norm((projected_gradient(estimator, x, in_x), in_logits))
        point: Any = optax.apply_updates((x, logits), moves)
        x, logits = point
        policy = jax.tree.map(lambda z: jax.nn.softmax(z, axis=-1), logits)
        return Moved(estimator.project(x), policy, norm, terms, memory, (logits, inner))


class MirrorDescent(AbstractUpdate):
    """The paper's projected gradient step (Shen, Yang and Chen 2025, algorithm 1).

    x moves by ``-step_size * gradient`` and is projected onto X; each policy takes the proximal
    step of its regulariser's geometry: Euclidean projection for the squared norm, a multiplicative
    step (KL) for the entropy, whose gradient is unbounded at the boundary of the simplex.
    The norm reported is the stationarity measure ||(z_k - z_{k+1}) / step_size|| (spec (M10)).
    """

    step_size: float

    def init(self, x, policy):
        return ()

    def __call__(self, estimator, gradient, x, policy, memory, state):
        terms, (in_x, in_policy), memory = gradient(policy, memory)
        step = jax.tree.map(lambda g: self.step_size * g, in_policy)
        moved = jax.tree.map(lambda z, g: z - self.step_size * g, x, in_x)
        x_new, policy_new = estimator.project(moved), estimator.mirror_step(x, policy, step)
        change = jax.tree.map(
            lambda old, new: (old - new) / self.step_size, (x, policy), (x_new, policy_new)
        )
        return Moved(x_new, policy_new, optax.tree.norm(change), terms, memory, state)


def check_parts(owner: Any) -> None:
    """``ValueError`` where a field of a solver or an update is no part of the kind it declares."""
    kinds = {
        optax.GradientTransformation: "an optax optimiser, as optax.adam(0.05)",
        AbstractUpdate: "an update, as Alternating(optax.adam(0.05))",
        AbstractPenalty: "a penalty, as NikaidoIsoda() or BellmanPenalty()",
        AbstractOracle: "an oracle, as PolicyIteration()",
    }
    for field in dataclasses.fields(owner):
        name, kind = field.name, next((kind for kind in kinds if field.type is kind), None)
        part = getattr(owner, name)
        if kind is None or isinstance(part, kind):
            continue
        wanted = kinds[kind]
        found = repr(part) if isinstance(part, int | float | str | None) else kind_of(part)
        raise ValueError(f"{type(owner).__name__}: {name} is {found}; give {wanted}.")


def projected_gradient(estimator: AbstractEstimator, x: PyTree, gradient: PyTree) -> PyTree:
    """x - P(x - gradient): zero just where x is stationary on X, however large the gradient."""
    moved = estimator.project(jax.tree.map(jnp.subtract, x, gradient))
    return jax.tree.map(jnp.subtract, x, moved)


def along_constraints(estimator: AbstractEstimator, x: PyTree, gradient: PyTree) -> PyTree:
    """What an optimiser of x is given: the gradient's part along X where X couples coordinates.

    An optimiser that scales every coordinate by itself, as Adam does, and is then projected stalls
    on a face like x_1 + x_2 = c where nothing is stationary: what leaves the face is taken back.
    With the part along the face, T g, a step D T g with any D > 0 descends, since
    <T g, T D T g> = <T g, D T g> > 0. Where every coordinate is free or at a bound of its own the
    gradient is given as it is.
    """
    largest = lambda tree: jnp.max(jnp.stack([jnp.max(jnp.abs(z)) for z in jax.tree.leaves(tree)]))
    size, eps = largest(gradient), jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).eps
    step = eps ** (1 / 3) * jnp.maximum(largest(x), 1) / jnp.where(size > 0, size, 1)

    def part(direction, step):
        there = jax.tree.map(lambda z, d: z - (step * d).astype(z.dtype), x, direction)
        return jax.tree.map(lambda z, m: (z - m) / step, x, estimator.project(there))

    # At a stationary point T g is 0, as it is at bounds: another direction tells them apart. On a
    # face its part is the same at any short step; at a bound that is merely within reach it is not.
    wave = lambda g: size * 0.5 * jnp.cos(1 + 2.4 * jnp.arange(g.size)).reshape(g.shape)
    probe = jax.tree.map(lambda g: g + wave(g), gradient)
    room = 100 * eps ** (2 / 3) * size

    def is_mixed(d, far, near):
        lost = jnp.minimum(jnp.abs(far), jnp.abs(far - d))
        return jnp.any((lost > room) & (jnp.abs(far - near) <= 0.1 * lost))

    mixed = jax.tree.map(is_mixed, probe, part(probe, step), part(probe, step / 2))
    coupled = jnp.any(jnp.stack(jax.tree.leaves(mixed)))
    along = part(gradient, step)
    return jax.tree.map(lambda a, g: jnp.where(coupled, a, g).astype(g.dtype), along, gradient)


def move_x(
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation,
    x: PyTree,
    gradient: PyTree,
    update: PyTree,
) -> tuple[PyTree, PyTree, Scalar]:
    """x after the optimiser's step, projected; the optimiser's state; ||x - P(x - gradient)||."""
    norm = optax.tree.norm(projected_gradient(estimator, x, gradient))
    moves, update = optimizer.update(along_constraints(estimator, x, gradient), update, x)
    return estimator.project(optax.apply_updates(x, moves)), update, norm


def known_curvature(owner: str, terms: Terms, instead: str = "use SoftmaxLogits") -> PyTree:
    """The curvature in the policies, or a ``ValueError`` that says why there is none."""
    if terms.curvature is None:
        raise ValueError(
            f"{owner}: the policies' step has no curvature to divide by, because tau is 0, the "
            "lower level is a game of n players, or gradients are sampled; give a positive tau, or "
            f"{instead}."
        )
    return terms.curvature


def learning_step(owner: str, terms: Terms, in_policy: PyTree, share: float) -> PyTree:
    """The natural step of policies that learn: what an opponent would answer is not looked at."""
    return jax.tree.map(
        lambda g, known: share * Curvature(known.modulus, None).divide(g),
        in_policy,
        known_curvature(owner, terms, "use PBRL with SoftmaxLogits"),
    )
