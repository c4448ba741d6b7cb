"""Linear systems of one policy: (I - discount P_pi) v = b, and its transpose.

One factorisation serves every value (forward), the occupancy (transposed) and every adjoint. Small
chains use a dense LU, or a *stale inverse*: the inverse of a nearby policy's matrix, used as a
preconditioner and corrected to rounding by iterative refinement. Large sparse chains use BiCGSTAB.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._transition import AbstractPolicyKernel, DensePolicyKernel, SparsePolicyKernel, by_rows
from ._types import Array, Float, Int, Scalar

DENSE_LIMIT = 1500
"""Successor lists with at most this many states are solved as dense matrices."""

_REFINEMENTS = 20
_KRYLOV_STEPS = 1000
_SWEEPS = 1000
_PASSES = 200
_STALE = 0.01
"""A stale inverse is improved where a probe's relative error is above this ..."""
_LOST = 0.5
"""... and computed anew above this."""


class PolicySystem(eqx.Module):
    """The matrix I - discount P_pi, ready to be solved against.

    Both solves are differentiable in the right-hand side, the kernel and the discount, by implicit
    differentiation: one more solve with the same factorisation.
    """

    kernel: AbstractPolicyKernel
    discount: Scalar
    factor: tuple[Array, Array] | None
    inverse: Float[Array, "S S"] | None

    def solve(self, b: Float[Array, " S"]) -> Float[Array, " S"]:
        """v with v - discount P_pi v = b."""
        return lax.custom_linear_solve(self._matvec, b, self._solve, self._solve_transposed)

    def solve_transposed(self, b: Float[Array, " S"]) -> Float[Array, " S"]:
        """m with m - discount P_pi' m = b."""
        return lax.custom_linear_solve(
            self._matvec_transposed, b, self._solve_transposed, self._solve
        )

    def _matvec(self, v):
        return v - self.discount * self.kernel.apply(v)

    def _matvec_transposed(self, m):
        return m - self.discount * self.kernel.apply_transposed(m)

    def _solve(self, _, b):
        held = lax.stop_gradient(self)
        if held.factor is not None:
            return jax.scipy.linalg.lu_solve(held.factor, b)
        if held.inverse is not None:
            # The code that refreshes inverses serves here too: a solve would be compiled anew.
            exact = lambda: inverse_of(held.kernel, held.discount) @ b
            return _refine(held._matvec, lambda r: held.inverse @ r, b, exact)
        return _krylov(held._matvec, b)

    def _solve_transposed(self, _, b):
        held = lax.stop_gradient(self)
        if held.factor is not None:
            return jax.scipy.linalg.lu_solve(held.factor, b, trans=1)
        if held.inverse is not None:
            exact = lambda: b @ inverse_of(held.kernel, held.discount)
            return _refine(held._matvec_transposed, lambda r: r @ held.inverse, b, exact)
        return _krylov(held._matvec_transposed, b)


def policy_system(
    kernel: AbstractPolicyKernel, discount: Scalar, inverse: Float[Array, "S S"] | None = None
) -> PolicySystem:
    """The system of a policy: by stale inverse where one is given, else LU, else Krylov.

    A stale inverse is tested on a probe and replaced where it no longer serves; the one in use
    comes back as ``system.inverse`` for the next, nearby policy.
    """
    if inverse is not None:
        return PolicySystem(kernel, discount, None, refreshed(kernel, discount, inverse))
    if solves_densely(kernel):
        matrix = lax.stop_gradient(system_matrix(kernel, discount))
        return PolicySystem(kernel, discount, jax.scipy.linalg.lu_factor(matrix), None)
    return PolicySystem(kernel, discount, None, None)


def solves_densely(kernel: AbstractPolicyKernel) -> bool:
    """Whether this chain's systems are solved with a dense factorisation; Krylov if not."""
    if isinstance(kernel, DensePolicyKernel):
        return True
    listed = isinstance(kernel, SparsePolicyKernel) and not kernel.matrix_free
    return listed and kernel.num_states <= DENSE_LIMIT


def system_matrix(kernel: AbstractPolicyKernel, discount: Scalar) -> Float[Array, "S S"]:
    """I - discount P_pi as a dense matrix."""
    matrix = kernel.dense()
    return jnp.eye(matrix.shape[0], dtype=matrix.dtype) - discount * matrix


def inverse_of(kernel: AbstractPolicyKernel, discount: Scalar) -> Float[Array, "S S"]:
    """(I - discount P_pi)^-1."""
    # LAPACK works by columns: each product with its result would first copy it.
    return by_rows(jnp.linalg.inv(system_matrix(kernel, discount).T).T)


def refreshed(
    kernel: AbstractPolicyKernel, discount: Scalar, inverse: Float[Array, "S S"]
) -> Float[Array, "S S"]:
    """The inverse given, or a better one where it no longer serves this policy's system."""
    held, rate = lax.stop_gradient((kernel, discount))
    return _renewed(kernel, discount, inverse, lambda: inverse_of(held, rate))


def improved(
    kernel: AbstractPolicyKernel, discount: Scalar, inverse: Float[Array, "S S"]
) -> Float[Array, "S S"]:
    """As ``refreshed``, but an inverse that is past improving comes back as it is."""
    return _renewed(kernel, discount, inverse, lambda: inverse)


def _renewed(kernel, discount, inverse, lost):
    kernel, discount, inverse = lax.stop_gradient((kernel, discount, inverse))
    size = inverse.shape[0]
    # A fixed random sign vector: rewards would do too, but may miss a changed part of the chain.
    # Drawn while tracing: a constant compiles in no time, JAX's generator takes .2 s.
    probe = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size), inverse.dtype)
    guess = inverse @ probe
    error = jnp.max(jnp.abs(probe - (guess - discount * kernel.apply(guess))))

    def newton_schulz():
        # Squares the error for the price of two products, a fraction of a factorisation's.
        product = inverse - discount * (kernel.dense() @ inverse)
        return 2 * inverse - inverse @ product

    def renew(_):
        return jnp.asarray(False), lax.cond(error <= _LOST, newton_schulz, lost)

    # A loop of at most one round: unlike a conditional it leaves the inverse where it lies.
    start = (~(error <= _STALE), inverse)
    return lax.while_loop(lambda carry: carry[0], renew, start)[1]


def _refine(matvec, precondition, b, exact):
    """Iterative refinement to rounding; where it stagnates above that, the exact solve."""
    # Squared Euclidean norms: one product each, where a maximum takes XLA's CPU three passes.
    floor = (8 * jnp.finfo(b.dtype).eps) ** 2 * jnp.vdot(b, b)

    def correct(_, carry):
        v, r = carry
        v = v + precondition(r)
        return v, b - matvec(v)

    def cond(carry):
        _, _, size, previous, k = carry
        return (size > floor) & (size < 0.5 * previous) & (k < _REFINEMENTS)

    def body(carry):
        v, r, size, _, k = carry
        # The norm costs as much as a product: one for every two corrections.
        v, r = lax.fori_loop(0, 2, correct, (v, r))
        return v, r, jnp.vdot(r, r), size, k + 1

    start = (jnp.zeros_like(b), b, jnp.vdot(b, b), jnp.full_like(floor, jnp.inf), 0)
    v, _, size, _, _ = lax.while_loop(cond, body, start)
    # Near the floor rounding in the residual itself ends the descent: that is success, not
    # stagnation.
    return lax.cond(size <= 1e8 * floor, lambda: v, exact)


def _krylov(matvec, b):
    """BiCGSTAB, restarted from the true residual; plain sweeps where it fails; else NaN."""

    def floor(v):
        return 8 * jnp.finfo(b.dtype).eps * (_norm(b) + _norm(v))

    def sweeps(v, r):
        # v <- b + discount P v: slow, and certain for every discount below 1.
        def sweep(_, carry):
            v, r = carry
            v = v + r
            return v, b - matvec(v)

        return lax.fori_loop(0, _SWEEPS, sweep, (v, r))

    def cond(carry):
        v, r, previous, k = carry
        size = _norm(r)
        # Near the floor rounding ends the descent: that is success, not stagnation.
        progress = jnp.where(size > 1e4 * floor(v), 0.95, 0.5)
        return (size > floor(v)) & (size < progress * previous) & (k < _PASSES)

    def body(carry):
        v, r, _, k = carry
        new = v + bicgstab(matvec, r, floor(v), _KRYLOV_STEPS)[0]
        rest = b - matvec(new)
        helped = _norm(rest) < 0.5 * _norm(r)
        new, rest = lax.cond(helped, lambda: (new, rest), lambda: sweeps(v, r))
        return new, rest, _norm(r), k + 1

    start = (jnp.zeros_like(b), b, jnp.full((), jnp.inf, b.dtype), 0)
    v, r, _, _ = lax.while_loop(cond, body, start)
    # A singular system lets v grow until its rounding hides b: no solution either.
    accepted = (_norm(r) <= 1e4 * floor(v)) & (1e3 * floor(v) <= _norm(b))
    return jnp.where(accepted, v, jnp.nan)


def bicgstab(
    matvec: Callable, b: Float[Array, " S"], tolerance: Scalar, max_steps: int | Int[Array, ""]
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """v with ||b - matvec(v)|| <= tolerance, and that residual as the recurrence has it.

    Van der Vorst 1992, starting from zero and starting afresh from the current residual where the
    recurrence breaks down. It stops at ``max_steps`` (two products each), so look at the residual.
    """

    def cond(carry):
        _, r, *_, k = carry
        return (_norm(r) > tolerance) & (k < max_steps)

    def body(carry):
        v, r, p, shadow, rho, k = carry
        ap = matvec(p)
        alpha = rho / jnp.vdot(shadow, ap)
        s = r - alpha * ap
        t = matvec(s)
        tt = jnp.vdot(t, t)
        omega = jnp.where(tt > 0, jnp.vdot(t, s) / tt, 0)
        v = v + alpha * p + omega * s
        r = s - omega * t
        new = jnp.vdot(shadow, r)
        beta = new / rho * (alpha / omega)
        # Where r is orthogonal to the shadow residual the next direction is lost in rounding.
        size = jnp.vdot(r, r)
        lost = ~jnp.isfinite(beta) | (new**2 <= eps**2 * size * jnp.vdot(shadow, shadow))
        p = jnp.where(lost, r, r + beta * (p - omega * ap))
        return v, r, p, jnp.where(lost, r, shadow), jnp.where(lost, size, new), k + 1

    eps = jnp.finfo(b.dtype).eps
    start = (jnp.zeros_like(b), b, b, b, jnp.vdot(b, b), 0)
    v, r, *_ = lax.while_loop(cond, body, start)
    return v, r


def _norm(v):
    return jnp.sqrt(jnp.vdot(v, v))
