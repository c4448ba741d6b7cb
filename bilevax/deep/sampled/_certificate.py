"""Certificates from samples: intervals, and what they cover.

The follower's gap V*(rho) - V^y(rho) is bounded from below by a tracked response's gain, which is
an estimate of a return. From above it takes V*, which no return estimates; but any table V with

    T V <= V + c,     T the Bellman operator,      gives  V* <= V + c / (1 - discount)

and T V is a function of the means of r + discount V(s') over next states, one per state and action.
Each is bounded by the empirical Bernstein inequality (Maurer and Pontil 2009, theorem 4), at once
for all pairs and all numbers of visits; of a pair never seen the best conceivable is assumed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._interval import Interval
from ..._types import Array, Bool, Float, Scalar
from ._learner import Transitions
from ._simulator import AbstractDynamics


class Moments(eqx.Module):
    """Visits of every pair, and the sums of y and y^2 over them, y = (r + discount V(s'))."""

    count: Float[Array, "S A"]
    sum: Float[Array, "S A"]
    squares: Float[Array, "S A"]


def moments(
    dynamics: AbstractDynamics, seen: Transitions, values: Float[Array, " S"], center: Scalar
) -> Moments:
    """The moments of a batch of transitions, of y - ``center``."""
    y = seen.reward + dynamics.discount * seen.alive * values[seen.next_state] - center
    actions = dynamics.shape[-1]
    zero = jnp.zeros((values.shape[0], actions), values.dtype)
    total = lambda z: zero.at[seen.state, seen.action].add(seen.active * z)
    return Moments(total(jnp.ones_like(y)), total(y), total(y**2))


def target_range(dynamics: AbstractDynamics, values: Float[Array, " S"]) -> tuple[Scalar, Scalar]:
    """Bounds of r + discount V(s'), with V = 0 where the problem ends."""
    low, high = dynamics.bounds
    lowest, highest = jnp.minimum(jnp.min(values), 0), jnp.maximum(jnp.max(values), 0)
    return low + dynamics.discount * lowest, high + dynamics.discount * highest


def optimality_bound(
    dynamics: AbstractDynamics,
    found: Moments,
    values: Float[Array, " S"],
    center: Scalar,
    risk: float,
    most_visits: int,
) -> Scalar:
    """c / (1 - discount) >= max over s of V*(s) - V(s), with probability 1 - ``risk``."""
    low, high = target_range(dynamics, values)
    n = jnp.maximum(found.count, 2)
    mean = found.sum / n
    variance = jnp.maximum(found.squares - n * mean**2, 0) / (n - 1)
    # Two events (Maurer and Pontil) for each pair and each number of visits that could occur.
    log = jnp.log(2 * found.count.size * most_visits / risk)
    width = jnp.sqrt(2 * variance * log / n) + 7 * (high - low) * log / (3 * (n - 1))
    upper = jnp.where(found.count >= 2, mean + width + center, high)
    q = jnp.minimum(upper, high)
    excess = dynamics.regularizer.conjugate(q, dynamics.tau, dynamics.available) - values
    c = jnp.maximum(jnp.max(excess), 0)
    return jnp.where(c > 0, c / jnp.where(dynamics.discount < 1, 1 - dynamics.discount, 0), 0)


def mean_interval(samples: Float[Array, " M"], confidence: float) -> Interval:
    """A two-sided interval of the mean of independent samples, by the central limit theorem."""
    estimate, half = _mean(samples, (1 - confidence) / 2)
    return Interval(
        estimate - half, estimate + half, estimate, jnp.asarray(confidence, samples.dtype)
    )


def gap_interval(
    gain: Float[Array, " M"],
    room: Float[Array, " M"],
    excess: Scalar,
    confidence: float,
) -> Interval:
    """The interval of V*(rho) - V^y(rho).

    Arguments:
        gain: independent estimates of V^{tracked}(rho) - V^y(rho), a lower bound of the gap.
        room: independent estimates of <rho, V> - V^y(rho).
        excess: a bound of <rho, V* - V> that fails with a third of the risk.
        confidence: of both ends together; the two means take a third of the risk each.
    """
    risk = (1 - confidence) / 3
    estimate, half = _mean(gain, risk)
    upper, slack = _mean(room, risk)
    lower = jnp.maximum(estimate - half, 0)
    upper = jnp.maximum(upper + slack + excess, lower)
    guess = jnp.clip(estimate, lower, upper)
    return Interval(lower, upper, guess, jnp.asarray(confidence, gain.dtype))


def widened(interval: Interval, unknown: Bool[Array, ""]) -> Interval:
    """The interval, or one without ends where nothing is known."""
    lower = jnp.where(unknown, -jnp.inf, interval.lower)
    upper = jnp.where(unknown, jnp.inf, interval.upper)
    return Interval(lower, upper, interval.estimate, interval.confidence)


def _mean(samples, risk):
    """The mean, and how far it is below its upper bound that fails with probability ``risk``."""
    error = jnp.std(samples, ddof=1) / samples.size**0.5
    return jnp.mean(samples), jax.scipy.special.ndtri(1 - risk) * error
