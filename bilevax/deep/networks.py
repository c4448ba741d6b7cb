"""Layers that networks of this package share. Weights are drawn as in He et al. (2015)."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Float, Key, Shaped


class Linear(eqx.Module):
    """``x @ weight + bias`` on the last axis, for any leading axes."""

    weight: Float[Array, "I O"]
    bias: Float[Array, " O"]

    @classmethod
    def create(cls, key: Key, inputs: int, outputs: int, *, scale: float = 2**0.5) -> "Linear":
        """Normal weights of standard deviation ``scale / sqrt(inputs)`` and a bias of zero."""
        weight = scale * jax.random.normal(key, (inputs, outputs)) / inputs**0.5
        return cls(weight, jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """The outputs."""
        return x @ self.weight + self.bias


def im2col(image: Shaped[Array, "*B H W C"], size: int = 3) -> Shaped[Array, "*B H W K"]:
    """The ``size x size`` patch around every position, zeros outside: K = size^2 C.

    ``im2col(image) @ weight`` is a convolution written as one matrix product, which on a CPU runs
    at full speed inside a loop where XLA's own convolution does not.
    """
    height, width = image.shape[-3:-1]
    reach = size // 2
    margin = [(0, 0)] * (image.ndim - 3) + [(reach, size - 1 - reach)] * 2 + [(0, 0)]
    padded = jnp.pad(image, margin)
    shifted = [
        padded[..., row : row + height, column : column + width, :]
        for row in range(size)
        for column in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)
