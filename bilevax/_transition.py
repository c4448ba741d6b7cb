"""Transition kernels P(s'|s,a) behind one interface: dense arrays and successor lists.

A kernel is an operator with a transpose. Rows may sum to less than one: the missing mass is
termination, so terminal states and episodes need no special case.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from ._types import Array, Bool, Float, Int, Shaped, concrete

_KERNEL = "give an array [S, A, S], or a SuccessorList of the few successors of each (s, a)"
_BLOCK = 256
"""States whose successors are summed together."""


class AbstractTransition(eqx.Module):
    """P(s'|s,a): expected next values, and the transpose that moves mass forward."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(number of states, number of actions)."""

    @abc.abstractmethod
    def substochastic(self) -> Bool[Array, ""]:
        """Whether no probability is negative and no row sums above 1, but for rounding."""

    @abc.abstractmethod
    def expected_next(self, values: Float[Array, " S"]) -> Float[Array, "S A"]:
        """sum over s' of P(s'|s,a) v(s'), shape ``[S, A]``."""

    @abc.abstractmethod
    def under(self, policy: Float[Array, "S A"]) -> "AbstractPolicyKernel":
        """P_pi(s'|s) = sum over a of pi(a|s) P(s'|s,a)."""

    @abc.abstractmethod
    def select(self, actions: Int[Array, " S"]) -> "AbstractPolicyKernel":
        """P(s'|s, actions[s]): ``under`` for a deterministic policy, reading only its rows."""

    @abc.abstractmethod
    def averaged(
        self, actions: tuple[int, ...], player: int, weight: Float[Array, "S M"]
    ) -> "AbstractTransition":
        """One player's kernel, from one over joint actions.

        Joint actions are numbered in row-major order of ``actions``, one entry per player. The M
        combinations of the others' actions, in that order, have probability ``weight[s, m]``.
        """


class AbstractPolicyKernel(eqx.Module):
    """P_pi(s'|s), the kernel of a Markov chain."""

    @property
    @abc.abstractmethod
    def num_states(self) -> int:
        """S."""

    @abc.abstractmethod
    def apply(self, values: Float[Array, " S"]) -> Float[Array, " S"]:
        """P_pi v."""

    @abc.abstractmethod
    def apply_transposed(self, mass: Float[Array, " S"]) -> Float[Array, " S"]:
        """P_pi' m."""

    @abc.abstractmethod
    def dense(self) -> Float[Array, "S S"]:
        """The kernel as a matrix."""


class DenseTransition(AbstractTransition):
    """A kernel stored as an array ``[S, A, S]`` (a leading axis N stacks contexts)."""

    array: Float[Array, "*N S A S"]

    def __init__(self, array):
        self.array = as_floats("DenseTransition", "array", array, _KERNEL)
        if self.array.ndim not in (3, 4) or self.array.shape[-1] != self.array.shape[-3]:
            raise ValueError(
                f"DenseTransition: array has shape {self.array.shape}; give [S, A, S] with "
                "the next state on the last axis (one leading axis more for contexts)."
            )
        check_kernel("DenseTransition", "array", self.array)

    @property
    def shape(self):
        return self.array.shape[-3], self.array.shape[-2]

    def substochastic(self):
        return substochastic(self.array)

    def expected_next(self, values):
        return self.array @ values

    def under(self, policy):
        return DensePolicyKernel(jnp.einsum("sa,sat->st", policy, self.array))

    def select(self, actions):
        states = jnp.arange(self.shape[0])
        return DensePolicyKernel(self.array.at[states, actions].get(mode="promise_in_bounds"))

    def averaged(self, actions, player, weight):
        grouped = by_player(self.array, actions, player)
        return DenseTransition(jnp.einsum("sm,samt->sat", weight, grouped))


class SuccessorList(AbstractTransition):
    """A kernel with at most B successors per state and action.

    ``next_state[s, a, b]`` is reached with ``probability[s, a, b]``. Unused entries carry
    probability 0 and any valid state. Either array may carry a leading axis of contexts; the other
    is then shared by all of them.

    Attributes:
        matrix_free: whether systems are solved without any matrix ``[S, S]``, however few the
            states: for contexts so many that one matrix of each would not fit in memory.
    """

    next_state: Int[Array, "*N S A B"]
    probability: Float[Array, "*M S A B"]
    matrix_free: bool = eqx.field(static=True)

    def __init__(self, next_state, probability, *, matrix_free: bool = False):
        self.matrix_free = matrix_free
        if not jnp.issubdtype(jnp.result_type(next_state), jnp.integer):
            raise ValueError(
                f"SuccessorList: next_state has dtype {jnp.result_type(next_state)}; give integers."
            )
        # 32 bits number every state that fits in memory, at half the traffic of 64.
        self.next_state = jnp.asarray(next_state, jnp.int32)
        self.probability = as_floats("SuccessorList", "probability", probability)
        if self.next_state.shape[-3:] != self.probability.shape[-3:]:
            raise ValueError(
                f"SuccessorList: next_state has shape {self.next_state.shape} and probability "
                f"{self.probability.shape}; give both as [S, A, B]."
            )
        check_kernel("SuccessorList", "probability", self.probability)
        if concrete(self.next_state):
            successor = np.asarray(self.next_state)
            wrong = (successor < 0) | (successor >= self.shape[0])
            if wrong.any():
                where = tuple(int(i) for i in np.argwhere(wrong)[0])
                raise ValueError(
                    f"SuccessorList: next_state{list(where)} is {successor[where]}; "
                    f"states are numbered 0 to {self.shape[0] - 1}."
                )

    @property
    def shape(self):
        return self.probability.shape[-3], self.probability.shape[-2]

    def substochastic(self):
        return substochastic(self.probability)

    def expected_next(self, values):
        states, actions, successors = self.probability.shape
        if states <= _BLOCK or jax.default_backend() != "cpu":
            return jnp.sum(self.probability * _gather(values, self.next_state), axis=-1)
        # On a CPU flat blocks that stay in cache take half the time of one sum over the last axis.
        row, ones = actions * successors, jnp.ones(successors, self.probability.dtype)
        next_state, probability = self.next_state.reshape(-1), self.probability.reshape(-1)

        def block(expected, number):
            first = jnp.minimum(number * _BLOCK, states - _BLOCK)
            part = lambda array: lax.dynamic_slice_in_dim(array, first * row, _BLOCK * row)
            terms = part(probability) * _gather(values, part(next_state))
            sums = (terms.reshape(-1, successors) @ ones).reshape(-1, actions)
            return lax.dynamic_update_slice_in_dim(expected, sums, first, axis=0), None

        empty = jnp.zeros((states, actions), ones.dtype)
        return lax.scan(block, empty, jnp.arange(-(-states // _BLOCK)))[0]

    def under(self, policy):
        states = self.shape[0]
        weight = policy[:, :, None] * self.probability
        return SparsePolicyKernel(
            self.next_state.reshape(states, -1).T,
            weight.reshape(states, -1).T,
            self.matrix_free,
        )

    def select(self, actions):
        rows = jnp.arange(self.shape[0]), actions
        next_state, probability = (
            array.at[rows].get(mode="promise_in_bounds").T
            for array in (self.next_state, self.probability)
        )
        return SparsePolicyKernel(next_state, probability, self.matrix_free)

    def averaged(self, actions, player, weight):
        states, own = self.shape[0], actions[player]
        next_state = by_player(self.next_state, actions, player).reshape(states, own, -1)
        probability = weight[:, None, :, None] * by_player(self.probability, actions, player)
        return SuccessorList(
            next_state, probability.reshape(states, own, -1), matrix_free=self.matrix_free
        )


class DensePolicyKernel(AbstractPolicyKernel):
    """P_pi as a matrix ``[S, S]``."""

    matrix: Float[Array, "S S"]

    @property
    def num_states(self):
        return self.matrix.shape[-1]

    def apply(self, values):
        return self.matrix @ values

    def apply_transposed(self, mass):
        return mass @ self.matrix

    def dense(self):
        return self.matrix


class SparsePolicyKernel(AbstractPolicyKernel):
    """P_pi as successor lists: s moves to ``next_state[k, s]`` with probability ``weight[k, s]``.

    The successors come first and products take one of them at a time: on a CPU each pass is then
    one loop over contiguous arrays, twice as fast as a sum over the last axis.
    """

    next_state: Int[Array, "K S"]
    weight: Float[Array, "K S"]
    matrix_free: bool = eqx.field(static=True, default=False)

    @property
    def num_states(self):
        return self.weight.shape[-1]

    def apply(self, values):
        def add(total, successor):
            state, weight = successor
            return total + weight * _gather(values, state), None

        return lax.scan(add, jnp.zeros_like(values), (self.next_state, self.weight))[0]

    def apply_transposed(self, mass):
        def add(total, successor):
            state, weight = successor
            return total.at[state].add(weight * mass, mode="promise_in_bounds"), None

        return lax.scan(add, jnp.zeros_like(mass), (self.next_state, self.weight))[0]

    def dense(self):
        states = self.num_states
        empty = jnp.zeros((states, states), self.weight.dtype)
        return empty.at[jnp.arange(states), self.next_state].add(self.weight)


def substochastic(probability: Float[Array, "*rows K"]) -> Bool[Array, ""]:
    """What ``check_kernel`` looks for, as an array: values are not known under ``jit``."""
    rows = jnp.sum(probability, axis=-1)
    return jnp.all(probability >= 0) & jnp.all(rows <= 1 + _row_slack(probability))


def _row_slack(probability):
    # A sum of n rounded numbers is off by up to about n eps / 2; the rest is slack for stored data.
    return 64 * float(np.finfo(probability.dtype).eps) * max(1, probability.shape[-1] ** 0.5)


def _gather(values, index):
    return values.at[index].get(mode="promise_in_bounds")


def by_player(
    array: Shaped[Array, "S J *rest"], actions: tuple[int, ...], player: int
) -> Shaped[Array, "S A M *rest"]:
    """An array over joint actions with one player's action first and the others' M together."""
    states, rest = array.shape[0], array.shape[2:]
    split = jnp.moveaxis(array.reshape(states, *actions, *rest), player + 1, 1)
    return split.reshape(states, actions[player], -1, *rest)


def by_rows(array: Float[Array, "..."]) -> Float[Array, "..."]:
    """The array itself, in memory with its last axis contiguous.

    Compilers choose the order of the axes. Where a large array feeds several products, stating the
    order spares one copy for each of them.
    """
    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))


def as_transition(transition, dtype=None) -> AbstractTransition:
    """The kernel itself, or a dense one made from an array ``[S, A, S]``, integers as ``dtype``."""
    if isinstance(transition, AbstractTransition):
        return transition
    return DenseTransition(as_floats("MDP", "transition", transition, _KERNEL, dtype))


def as_floats(
    owner: str, name: str, values: Any, wanted: str = "give an array of numbers", dtype=None
) -> Array:
    """An array of floating-point numbers; integers and booleans become ``dtype``.

    ``ValueError`` for what is no array of real numbers, such as a sparse matrix or a ragged list.
    """
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        dtype = getattr(values, "dtype", None)
        found = type(values).__name__ + ("" if dtype is None else f" of dtype {dtype}")
        raise ValueError(
            f"{owner}: {name} is no array of numbers, but {found}; {wanted}."
        ) from error
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{owner}: {name} has dtype {array.dtype}; give real numbers.")
    return array.astype(jnp.result_type(float) if dtype is None else dtype)


def check_kernel(owner: str, name: str, probability: jax.Array) -> None:
    if not jnp.issubdtype(probability.dtype, jnp.floating):
        raise ValueError(
            f"{owner}: {name} has dtype {probability.dtype}; give floating-point numbers."
        )
    if 0 in probability.shape:
        raise ValueError(
            f"{owner}: {name} has shape {probability.shape}; every axis needs at least one entry."
        )
    if not concrete(probability):
        return
    p = np.asarray(probability)
    wrong = ~np.isfinite(p) | (p < 0)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{owner}: {name}{list(where)} is {p[where]}; a probability is finite and at least 0."
        )
    rows = p.sum(-1)
    wrong = rows > 1 + _row_slack(p)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{owner}: the probabilities of {name}{list(where)} sum to {rows[where]}; "
            "a row sums to at most 1 (less than 1 means termination)."
        )
