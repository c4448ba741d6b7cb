"""What all solvers share: the state, its progress line, and the updates of (x, policy)."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._estimator import AbstractEstimator, Curvature, Terms
from .._types import Array, Bool, Int, Key, PyTree, Scalar


class Progress(eqx.Module):
    """One line of history, about the point at which the last gradient was taken.

    Attributes:
        upper_value: f(x, policy), minimised.
        penalty: p(x, policy) by the solver's own oracle (no certificate; NaN where not computed).
        penalty_weight: lambda (NaN for solvers without one).
        gradient_norm: Euclidean norm of the gradient in the variables that the solver moves; in x
            that of x - P(x - gradient), which is the gradient itself where x is unconstrained.
        converged: whether every oracle met its tolerance.
    """

    upper_value: Scalar
    penalty: Scalar
    penalty_weight: Scalar
    gradient_norm: Scalar
    converged: Bool[Array, ""]


class State(eqx.Module):
    """A solver's state: everything needed to continue bit for bit.

    Attributes:
        x, policy: the current point.
        update: the optimiser's state.
        memory: warm starts.
        weight: the penalty weight of the next step.
        key: what the keys of the next steps are split from; see ``step_key``.
        step: steps taken.
        failed: whether the last step was not finite; (x, policy) are then those before it.
        progress: about the last step taken.
    """

    x: PyTree
    policy: PyTree
    update: PyTree
    memory: PyTree
    weight: Scalar
    key: Key
    step: Int[Array, ""]
    failed: Bool[Array, ""]
    progress: Progress


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

    The gradient in the logits is pi (g - <pi, g>) for a gradient g in the policy.
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
        moves, inner = self.optimizer.update((in_x, in_logits), inner, (x, logits))
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


def projected_gradient(estimator: AbstractEstimator, x: PyTree, gradient: PyTree) -> PyTree:
    """x - P(x - gradient): zero just where x is stationary on X, however large the gradient."""
    moved = estimator.project(jax.tree.map(jnp.subtract, x, gradient))
    return jax.tree.map(jnp.subtract, x, moved)


def move_x(
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation,
    x: PyTree,
    gradient: PyTree,
    update: PyTree,
) -> tuple[PyTree, PyTree, Scalar]:
    """x after the optimiser's step, projected; the optimiser's state; ||x - P(x - gradient)||."""
    norm = optax.tree.norm(projected_gradient(estimator, x, gradient))
    moves, update = optimizer.update(gradient, update, x)
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


class AbstractSolver(eqx.Module):
    """A bilevel method: frozen configuration with pure ``init`` and ``step``."""

    @abc.abstractmethod
    def init(
        self, estimator: AbstractEstimator, x: PyTree, policy: PyTree | None, key: Key
    ) -> State:
        """The state before the first step, ``policy=None`` meaning the uniform one."""

    @abc.abstractmethod
    def step(self, estimator: AbstractEstimator, state: State) -> State:
        """One step."""

    @property
    def environment_steps(self) -> int | None:
        """Transitions that a step draws, at most; ``None`` where it samples no episodes."""
        return None

    @abc.abstractmethod
    def settled(self, state: State) -> Bool[Array, ""]:
        """Whether the solver may stop on a small gradient (its schedule has ended)."""

    @abc.abstractmethod
    def answer(self, estimator: AbstractEstimator, state: State) -> tuple[PyTree, PyTree]:
        """(x, policy): what the solver would answer if it ended here."""


def first_policy(uniform: PyTree, policy: PyTree | None) -> PyTree:
    """The policy to start from: the uniform one, or the one given, in its dtype."""
    if policy is None:
        return uniform
    return jax.tree.map(lambda even, given: jnp.asarray(given, even.dtype), uniform, policy)


def step_key(state: State) -> Key:
    """The key of the step that begins at ``state``; ``next_state`` moves on to the next one."""
    return jax.random.split(state.key)[1]


def first_state(x: PyTree, policy: PyTree, update: PyTree, memory: PyTree, weight, key) -> State:
    """The state before any step, its progress unknown (NaN)."""
    dtype = jnp.result_type(*jax.tree.leaves(policy))
    unknown = jnp.asarray(jnp.nan, dtype)
    return State(
        x=x,
        policy=policy,
        update=update,
        memory=memory,
        weight=jnp.asarray(weight, dtype),
        key=key,
        step=jnp.asarray(0),
        failed=jnp.asarray(False),
        progress=Progress(unknown, unknown, unknown, unknown, jnp.asarray(True)),
    )


def progress_of(terms: Terms, weight: Scalar, norm: Scalar) -> Progress:
    """The progress line of a gradient's terms."""
    return Progress(terms.upper, terms.penalty, weight, norm, terms.converged)


def next_state(
    old: State,
    *,
    x: PyTree,
    policy: PyTree,
    update: PyTree,
    memory: PyTree,
    progress: Progress,
    weight: Scalar | None = None,
) -> State:
    """The state after a step, or the old one marked as failed where the new one is not finite.

    The step is counted and the key is fresh in either case; the weight is the old one by default.
    """
    # The logits of masked actions are -inf for good, so only what is meant to be finite is tested.
    values = (x, policy, progress.upper_value, progress.gradient_norm)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(z)) for z in jax.tree.leaves(values)]))
    x, policy = jax.tree.map(lambda a, b: jnp.where(finite, a, b), (x, policy), (old.x, old.policy))
    return State(
        x=x,
        policy=policy,
        update=update,
        memory=memory,
        weight=old.weight if weight is None else weight,
        key=jax.random.split(old.key)[0],
        step=old.step + 1,
        failed=~finite,
        progress=progress,
    )


def descended(
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation,
    state: State,
    gradient: PyTree,
    terms: Terms,
    policy: PyTree,
    memory: PyTree,
    *,
    weight: Scalar | None = None,
) -> State:
    """The state after x alone has moved, along a gradient whose optimiser is all of the update."""
    x, update, norm = move_x(estimator, optimizer, state.x, gradient, state.update)
    return next_state(
        state,
        x=x,
        policy=policy,
        update=update,
        memory=memory,
        weight=weight,
        progress=progress_of(terms, state.weight, norm),
    )
