"""The matrix game of every state: its regularised equilibrium, by Newton's method.

    val(Q) = max_p min_q  <p, Q q> - tau h(p) + tau h(q),    p = softmax(Q q / tau),
                                                             q = softmax(-Q' p / tau)

for the entropy. With q eliminated g(p) = -tau h(p) - tau logsumexp(-Q' p / tau) is concave; in the
logits z of p its Newton equation is (I + M C_p / tau^2) u = z - Q q / tau, with M = Q C_q Q' and
C_p = diag(p) - p p'. The product of two positive semidefinite matrices has no negative eigenvalue,
so the system is never singular, and u is a direction of ascent; the step is halved until g rises.
From far away at small tau that can take for ever, so the equilibrium is followed down from a large
tau, each state at its own pace: it falls to a quarter where the gap is below a tenth of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._game import Masks
from .._regularizer import NegativeEntropy
from .._types import Array, Bool, Float, Scalar

_STEPS = 500
_FACTOR = 0.25  # between two tau of the path
_CENTRED = 0.1  # a gap of this share of tau is near enough to go on
_SHORTEST = 2.0**-30
_ENTROPY = NegativeEntropy()


class Stage(NamedTuple):
    """The equilibria of the matrix games of all states.

    ``logits`` are those of player 1; ``value`` is val(Q), and ``gap`` the most that a player could
    gain in its state by deviating.
    """

    policy: tuple[Float[Array, "S A1"], Float[Array, "S A2"]]
    logits: Float[Array, "S A1"]
    value: Float[Array, " S"]
    gap: Float[Array, " S"]
    converged: Bool[Array, ""]


def stage_equilibria(
    payoffs: Float[Array, "S A1 A2"],
    tau: Scalar,
    available: Masks,
    logits: Float[Array, "S A1"],
) -> Stage:
    """Every state's regularised equilibrium, from the logits of player 1 given."""
    eps = jnp.finfo(payoffs.dtype).eps
    size = jnp.max(jnp.abs(payoffs)) + tau
    spread = jnp.max(payoffs, axis=(1, 2)) - jnp.min(payoffs, axis=(1, 2))

    # Rounding in p moves q by size / tau as much, and q's moves p as much again.
    floor = 4 * eps * (size / tau) ** 2

    def rest(t, error, gap):
        """Down to rounding, at the tau asked for."""
        return (t <= tau) & (error <= floor) & (gap <= 64 * eps * size)

    def cond(carry):
        _, t, error, gap, k = carry
        return ~jnp.all(rest(t, error, gap)) & (k < _STEPS)

    def body(carry):
        z, t, error, gap, k = carry
        direction = newton_direction(payoffs, t, available, z)
        moved = _line_search(payoffs, t, available, z, direction)
        # What has converged rests: rounding would only move it about.
        z = jnp.where(rest(t, error, gap)[:, None], z, moved)
        error, gap = _errors(payoffs, t, available, z)
        lower = jnp.where(gap <= _CENTRED * t, jnp.maximum(tau, _FACTOR * t), t)
        # What was seen at another tau says nothing at this one.
        return z, lower, jnp.where(lower < t, jnp.inf, error), gap, k + 1

    # A start that is near the equilibrium stays at tau; any other begins where tau is large.
    _, gap = _errors(payoffs, jnp.broadcast_to(tau, spread.shape), available, logits)
    near = gap <= _CENTRED * tau
    t = jnp.where(near, tau, jnp.maximum(tau, spread / 2))
    z = jnp.where(near[:, None], logits, logits * (tau / t)[:, None])
    z, t, error, gap, _ = lax.while_loop(
        cond, body, (z, t, *_errors(payoffs, t, available, z), jnp.asarray(0))
    )
    return look(payoffs, tau, available, z, jnp.all(rest(t, error, gap)))


def look(payoffs, tau, available, z, converged) -> Stage:
    """Both policies at the logits z, the value, and the gap."""
    tau = jnp.broadcast_to(tau, z.shape[:1])
    p, q, _ = _slope(payoffs, tau, available, z)
    _, gap = _errors(payoffs, tau, available, z)
    return Stage((p, q), z, _objective(payoffs, tau, available, z), gap, converged)


def newton_direction(payoffs, tau, available, z):
    """u of Newton's equation in the logits of player 1, at a tau for every state."""
    p, q, slope = _slope(payoffs, tau, available, z)
    matrix = newton_matrix(payoffs, tau, p, q)
    return jnp.linalg.solve(matrix, slope[..., None])[..., 0]


def newton_matrix(payoffs, tau, p, q) -> Float[Array, "S A A"]:
    """I + Q C_q Q' C_p / tau^2, with C_p = diag(p) - p p'."""
    spread = jnp.einsum("sij,sj->si", payoffs, q)
    centred = payoffs - spread[:, :, None]
    weighted = jnp.einsum("sij,sj,skj,sk->sik", centred / tau[..., None, None] ** 2, q, centred, p)
    weighted = weighted - jnp.sum(weighted, -1, keepdims=True) * p[:, None, :]
    return jnp.eye(p.shape[-1], dtype=p.dtype) + weighted


def softmax(z, mask):
    """Probabilities of the available actions; the others get 0."""
    return jax.nn.softmax(_masked(z, mask), axis=-1)


def _slope(payoffs, tau, available, z):
    """p, q and z - Q q / tau, centred, 0 where an action does not exist."""
    p = softmax(z, available[0])
    q = softmax(_against(payoffs, tau, p), available[1])
    slope = z - jnp.einsum("sij,sj->si", payoffs, q) / tau[:, None]
    slope = slope - jnp.sum(p * slope, -1, keepdims=True)
    return p, q, slope if available[0] is None else jnp.where(available[0], slope, 0)


def _against(payoffs, tau, p):
    """-Q' p / tau, the scores of player 2."""
    return -jnp.einsum("sij,si->sj", payoffs, p) / tau[..., None]


def _errors(payoffs, tau, available, z):
    """How far p is from answering q, in probability (max_i p_i |slope_i|), and the gap."""
    p, q, slope = _slope(payoffs, tau, available, z)
    own = jnp.einsum("sij,sj->si", payoffs, q) / tau[:, None]
    upper = tau * (_logsumexp(own, available[0]) + _ENTROPY.value(q))
    error = jnp.max(p * jnp.abs(slope), axis=-1)
    return error, upper - _objective(payoffs, tau, available, z)


def _objective(payoffs, tau, available, z):
    """g(p) at p = softmax(z), what player 1 has for certain."""
    p = softmax(z, available[0])
    scores = _against(payoffs, tau, p)
    return -tau * (_ENTROPY.value(p) + _logsumexp(scores, available[1]))


def _line_search(payoffs, tau, available, z, direction):
    """z - t u with the largest t = 1, 1/2, ... at which g has not fallen, in every state."""
    before = _objective(payoffs, tau, available, z)
    # Rounding in g, whose terms are of the size of the payoffs.
    slack = 8 * jnp.finfo(z.dtype).eps * (jnp.max(jnp.abs(payoffs), axis=(1, 2)) + tau)

    def failing(t):
        after = _objective(payoffs, tau, available, z - t[:, None] * direction)
        return ~(after >= before - slack)

    def cond(carry):
        t, wrong = carry
        return jnp.any(wrong & (t > _SHORTEST))

    def body(carry):
        t, wrong = carry
        t = jnp.where(wrong, t / 2, t)
        return t, wrong & failing(t)

    one = jnp.ones_like(before)
    t, wrong = lax.while_loop(cond, body, (one, failing(one)))
    moved = z - t[:, None] * direction
    # Only differences matter; without the constant they keep their digits.
    moved = moved - jnp.max(_masked(moved, available[0]), -1, keepdims=True)
    return jnp.where(wrong[:, None], z, moved)


def _masked(scores, mask):
    return scores if mask is None else jnp.where(mask, scores, -jnp.inf)


def _logsumexp(scores, mask):
    return jax.nn.logsumexp(_masked(scores, mask), axis=-1)
