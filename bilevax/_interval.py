"""What is known of a number from samples: an interval and how sure it is."""

import equinox as eqx
import jax.numpy as jnp

from ._solution import readable
from ._types import Array, Bool, Scalar


class Interval(eqx.Module):
    """lower <= the number <= upper, with probability ``confidence`` at least.

    An end that the samples say nothing about is infinite. There is no conversion to a float: a
    number from samples without its uncertainty would pass for a certificate.

    Attributes:
        lower, upper: the ends.
        estimate: the best single guess, between them.
        confidence: in (0, 1).
    """

    lower: Scalar
    upper: Scalar
    estimate: Scalar
    confidence: Scalar

    def __str__(self):
        return readable(self)


def ends(value: Scalar | Interval) -> tuple[Scalar, Scalar]:
    """(lower, upper): both are the number itself where it is known exactly."""
    return (value.lower, value.upper) if isinstance(value, Interval) else (value, value)


def is_known(value: Scalar | Interval) -> Bool[Array, ""]:
    """Whether there is a number at all: it, or the estimate of it, is finite."""
    return jnp.isfinite(value.estimate if isinstance(value, Interval) else value)
