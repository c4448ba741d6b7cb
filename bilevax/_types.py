"""Array aliases, and what a value is. The axis letters used in every signature:

S states, A actions (of the agent at hand), B successors of a state-action pair, T time steps,
N contexts or followers stacked along a leading axis (``*N`` where that axis may be absent).
"""

from typing import TypeAlias

import jax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

Scalar: TypeAlias = Float[Array, ""]
ScalarLike: TypeAlias = float | int | Float[Array, ""]
Key: TypeAlias = PRNGKeyArray

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Scalar",
    "ScalarLike",
    "Shaped",
    "concrete",
    "kind_of",
]


def kind_of(value: object) -> str:
    """What a value is, in words: "the class PBRL", or "of type PBRL" for one of its instances."""
    return (
        f"the class {value.__name__}"
        if isinstance(value, type)
        else f"of type {type(value).__name__}"
    )


def concrete(*values: object) -> bool:
    """True where every value can be looked at: false under ``jit``, ``vmap`` or ``grad``."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))
