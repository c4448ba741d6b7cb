"""What the methods that descend F(x) share: their first state, and a step along a gradient in x."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._exact import AbstractEstimator, Terms
from .._hypergradient import AbstractAdjoint, Rollouts
from .._oracle import AbstractOracle
from .._solver.base import (
    Progress,
    State,
    first_policy,
    first_state,
    next_state,
    projected_gradient,
    step_key,
)
from .._types import Key, PyTree


def begin(
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation,
    oracle: AbstractOracle,
    x: PyTree,
    policy: PyTree | None,
    key: Key,
    own: Any = None,
) -> State:
    """The state before the first step; ``own`` is what the method itself remembers."""
    uniform, memory = estimator.init(oracle, x, key)
    policy = first_policy(uniform, policy)
    own = uniform if own is None else own
    return first_state(x, policy, (optimizer.init(x), own), memory, jnp.nan, key)


def descend(
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation,
    state: State,
    in_x: PyTree,
    terms: Terms,
    policy: PyTree,
    memory: PyTree,
    own: Any,
) -> State:
    """The state after x has moved along a gradient, and was projected."""
    moves, update = optimizer.update(in_x, state.update[0], state.x)
    norm = optax.tree.norm(projected_gradient(estimator, state.x, in_x))
    new = State(
        x=estimator.project(optax.apply_updates(state.x, moves)),
        policy=policy,
        update=(update, own),
        memory=memory,
        weight=state.weight,
        key=state.key,
        step=state.step + 1,
        failed=state.failed,
        progress=Progress(terms.upper, terms.penalty, state.weight, norm, terms.converged),
    )
    return next_state(state, new)


def descend_through_response(
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation,
    state: State,
    memory: PyTree,
    rollouts: Rollouts | None,
    adjoint: AbstractAdjoint,
) -> State:
    """The state after a step along d_x f + <d_pi f, d pi*/dx> at the responses kept in memory.

    The method's own memory is the adjoint's measure.
    """
    for_upper, for_adjoint = jax.random.split(jax.random.fold_in(step_key(state), 1))
    terms, (direct, in_policy), policy = estimator.response_gradient(
        state.x, memory, for_upper, rollouts=rollouts
    )
    indirect, measure = estimator.response_pullback(
        state.x, memory, in_policy, adjoint, state.update[1], for_adjoint
    )
    in_x = jax.tree.map(jnp.add, direct, indirect)
    return descend(estimator, optimizer, state, in_x, terms, policy, memory, measure)


def no_measure(estimator: AbstractEstimator, oracle: AbstractOracle, x: PyTree, key: Key) -> PyTree:
    """Where an adjoint's measure starts: zero in every state."""
    return jax.tree.map(lambda pi: jnp.zeros_like(pi[..., 0]), estimator.init(oracle, x, key)[0])


def best_response(estimator: AbstractEstimator, oracle: AbstractOracle, state: State) -> PyTree:
    """pi* at the state's x; the state's own policy answers the x before the last move."""
    return estimator.best_response_value(oracle, state.x, state.memory, step_key(state))[1]
