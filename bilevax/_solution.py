"""What ``solve`` gives back."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._types import Array, PyTree, concrete


class RESULTS(eqx.Enumeration):
    """How a solve ended; each member is the message, and says what to do next."""

    successful = ""
    max_steps_reached = (
        "the gradient norm is still above tol, or the solver's schedule had not ended: raise "
        "max_steps, continue from this solution's state, or loosen tol"
    )
    infeasible = (
        "the certified lower-level gap is above gap_tol: raise the penalty weight (or its final "
        "value), take more steps, or loosen gap_tol"
    )
    undecided = (
        "the samples cannot tell whether the lower-level gap is below gap_tol: certify from more "
        "episodes, or loosen gap_tol"
    )
    no_model = (
        "the lower level at this x is no MDP (a negative probability or tau, a row of a kernel "
        "that sums above 1, a discount outside [0, 1], or a number that is not finite), so nothing "
        "is certified: keep x where it is one, by project"
    )
    nonfinite = (
        "a value or gradient became infinite or NaN; x and policy are the last finite ones: lower "
        "the step size, or check that the lower level's value is finite at this x"
    )


class Solution(eqx.Module):
    """An answer with its certificate: exact, or an ``Interval`` where it comes from samples.

    Attributes:
        x: the upper variable.
        policy: the lower level's policy, in the tree structure of its players.
        upper_value: f(x, policy), minimised.
        best_response_value: F(x) = f(x, pi*_x), f at the exact best response; ``None`` from
            samples, which know no exact best response.
        gap: an upper bound on the lower level's gap at (x, policy): the return that the players
            could still gain, rho-weighted. Never from the solver's own oracle.
        relative_gap: ``gap`` over the scale of the optimal value, sum rho |V*|.
        largest_loss: the largest bound per unit of start mass, over contexts and start states.
            This and ``relative_gap`` are ``None`` from samples.
        result: a member of ``RESULTS``; its message says what to do next.
        stats: ``steps``, ``penalty_weight``, ``penalty``, ``gradient_norm`` at the last step.
        state: the solver's state, from which ``solve(..., state=...)`` continues.
    """

    x: PyTree
    policy: PyTree
    upper_value: Any  # Scalar | Interval
    best_response_value: Any  # Scalar | None
    gap: Any  # Scalar | Interval
    relative_gap: Any  # Scalar | None
    largest_loss: Any  # Scalar | None
    result: RESULTS
    stats: dict[str, Array]
    state: Any

    def __str__(self):
        return readable(self, hidden=("state",))


def readable(record: eqx.Module, hidden: tuple[str, ...] = ()) -> str:
    """A record's fields but the hidden ones: scalars as numbers, arrays by shape."""
    shown = [field.name for field in dataclasses.fields(record) if field.name not in hidden]
    lines = [f"  {name}={_words(getattr(record, name))}," for name in shown]
    return "\n".join([f"{type(record).__name__}(", *lines, ")"])


def _words(value):
    leaves = jax.tree.leaves(value)
    if isinstance(value, RESULTS) and concrete(value) and leaves[0].ndim == 0:
        return RESULTS[value] or "successful"
    return eqx.tree_pformat(jax.tree.map(_number, value)).replace("\n", "\n  ")


def _number(leaf):
    """A scalar that can be looked at as a Python number; a key, an array or a tracer as it is."""
    is_scalar = eqx.is_array(leaf) and leaf.ndim == 0 and concrete(leaf)
    return (
        leaf.item() if is_scalar and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf
    )
