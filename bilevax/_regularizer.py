"""Regularisers of a policy: strongly convex functions h on the simplex of actions.

Every function works on the last axis, so a leading axis of states or contexts needs no care.
``available`` masks the actions that exist; ``None`` means all of them.

The greedy policy maximises ``<pi, q> - tau h(pi)``; the maximum is the conjugate, and by Danskin's
theorem the conjugate's gradient in ``q`` is the greedy policy.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from ._types import Array, Bool, Float, Scalar

Mask = Bool[Array, "*#S A"] | None


class AbstractRegularizer(eqx.Module):
    """A strongly convex function h on the simplex, with its greedy policy and conjugate."""

    @abc.abstractmethod
    def value(self, policy: Float[Array, "*S A"]) -> Float[Array, "*S"]:
        """h_s(pi(.|s)), shape ``[S]``."""

    @abc.abstractmethod
    def greedy(self, q: Float[Array, "*S A"], tau: Scalar, available: Mask) -> Float[Array, "*S A"]:
        """argmax over pi of ``<pi, q_s> - tau h(pi)``, shape ``[S, A]``."""

    @abc.abstractmethod
    def conjugate(
        self, q: Float[Array, "*S A"], tau: Scalar, available: Mask
    ) -> Float[Array, "*S"]:
        """max over pi of ``<pi, q_s> - tau h(pi)``, shape ``[S]``; its gradient is ``greedy``."""

    @abc.abstractmethod
    def mirror_step(
        self, policy: Float[Array, "*S A"], step: Float[Array, "*S A"], available: Mask
    ) -> Float[Array, "*S A"]:
        """The proximal step ``argmin_p <step, p> + D(p, policy)`` in the geometry of h."""


class NegativeEntropy(AbstractRegularizer):
    """h(pi) = sum_a pi(a) log pi(a). Greedy policy: softmax(q / tau). Mirror step: a product."""

    def value(self, policy):
        return jnp.sum(_plogp(policy), axis=-1)

    def greedy(self, q, tau, available):
        return jax.nn.softmax(_masked(q / tau, available), axis=-1)

    def conjugate(self, q, tau, available):
        return tau * jax.nn.logsumexp(_masked(q / tau, available), axis=-1)

    def mirror_step(self, policy, step, available):
        moved = jax.nn.softmax(_masked(jnp.log(policy) - step, available), axis=-1)
        # The step never reaches the boundary. What underflows stays at the smallest normal number,
        # the point at which the slope of h is taken, and can come back from there.
        inside = jnp.maximum(moved, jnp.finfo(moved.dtype).tiny)
        return inside if available is None else jnp.where(available, inside, 0)


class SquaredNorm(AbstractRegularizer):
    """h(pi) = 1/2 ||pi||^2. Greedy policy: sparsemax(q / tau) (Martins and Astudillo 2016)."""

    def value(self, policy):
        return 0.5 * jnp.sum(policy**2, axis=-1)

    def greedy(self, q, tau, available):
        # Only differences matter, and taken before the division they keep their digits.
        return sparsemax((q - _largest(q, available)) / tau, available)

    def conjugate(self, q, tau, available):
        # Danskin: the maximiser may be held fixed, which keeps the sort out of the gradient.
        pi = jax.lax.stop_gradient(self.greedy(q, tau, available))
        largest = _largest(q, available)
        return largest[..., 0] + jnp.sum(pi * (q - largest), axis=-1) - tau * self.value(pi)

    def mirror_step(self, policy, step, available):
        return sparsemax(policy - step, available)


class Unregularized(AbstractRegularizer):
    """h = 0, the case tau = 0. The greedy policy is deterministic.

    Ties: the first of the best actions is taken. A best response is then one of several, and an
    upper objective that depends on the choice is only one of several; ``upper_value_range`` bounds
    them all.
    """

    def value(self, policy):
        return jnp.zeros(policy.shape[:-1], policy.dtype)

    def greedy(self, q, tau, available):
        best = jnp.argmax(_masked(q, available), axis=-1)
        return jax.nn.one_hot(best, q.shape[-1], dtype=q.dtype)

    def conjugate(self, q, tau, available):
        return jnp.max(_masked(q, available), axis=-1)

    def mirror_step(self, policy, step, available):
        return sparsemax(policy - step, available)


def sparsemax(scores: Float[Array, "*S A"], available: Mask = None) -> Float[Array, "*S A"]:
    """argmin over p in the simplex of ``||p - scores||^2``, by sorting: O(A log A) per state."""
    # Shifted to a largest score of 0, those that count lie in [-1, 0] and sum without cancellation.
    scores = _masked(scores - _largest(scores, available), available)
    descending = -jnp.sort(-scores, axis=-1)
    rank = jnp.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    finite = jnp.where(jnp.isfinite(descending), descending, 0)
    total = jnp.cumsum(finite, axis=-1)
    in_support = 1 + rank * descending > total
    size = jnp.sum(in_support, axis=-1, keepdims=True)
    threshold = (jnp.take_along_axis(total, size - 1, axis=-1) - 1) / size
    return jnp.maximum(scores - threshold, 0)


def _largest(q: Float[Array, "*S A"], available: Mask) -> Float[Array, "*S 1"]:
    """The largest entry of each row, a constant to derivatives (a shift changes no policy)."""
    return jax.lax.stop_gradient(jnp.max(_masked(q, available), axis=-1, keepdims=True))


def _masked(q: Float[Array, "*S A"], available: Mask) -> Float[Array, "*S A"]:
    return q if available is None else jnp.where(available, q, -jnp.inf)


@jax.custom_jvp
def _plogp(p):
    return jax.scipy.special.xlogy(p, p)


@_plogp.defjvp
def _plogp_jvp(primals, tangents):
    # The slope 1 + log p is unbounded at p = 0. A probability that underflowed to an exact zero
    # gets the slope at the smallest normal number: finite, and always multiplied by that zero
    # downstream.
    (p,), (dp,) = primals, tangents
    slope = 1 + jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
    return _plogp(p), slope * dp
