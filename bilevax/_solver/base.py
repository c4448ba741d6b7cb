"""What all solvers share: their interface, the state and its progress line."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._estimator import AbstractEstimator, Terms
from .._types import Array, Bool, Int, Key, PyTree, Scalar, kind_of
from .update import check_parts, move_x


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


class AbstractSolver(eqx.Module):
    """A bilevel method: frozen configuration with pure ``init`` and ``step``.

    A subclass defines ``init``, ``step``, ``settled`` and ``answer``, and sees the problem through
    the estimator alone (``AbstractEstimator``). All four are compiled: values may be computed with,
    but Python cannot branch on them.
    """

    def __check_init__(self):
        check_parts(self)

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

    @property
    def compares_values(self) -> bool:
        """Whether steps compare values of the objective, which then may not change meanwhile."""
        return False

    @abc.abstractmethod
    def settled(self, state: State) -> Bool[Array, ""]:
        """Whether the solver may stop on a small gradient (its schedule has ended)."""

    @abc.abstractmethod
    def answer(self, estimator: AbstractEstimator, state: State) -> tuple[PyTree, PyTree]:
        """(x, policy): what the solver would answer if it ended here."""


def check_solver(owner: str, solver: Any) -> None:
    """``ValueError`` where the solver is none."""
    if not isinstance(solver, AbstractSolver):
        raise ValueError(f"{owner}: solver is {kind_of(solver)}; give a solver, as PBRL().")


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
