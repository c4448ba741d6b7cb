"""What the leader gets if ties and near-ties of its followers fall against it, or for it."""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._answer import over_players
from ._evaluation import evaluate
from ._gap import best_responses, subsolution, supersolution
from ._mdp import MDP
from ._solution import readable
from ._types import Array, Float, PyTree, Scalar, ScalarLike, concrete

_BISECTIONS = 60
_LARGEST = 1e10
"""Multipliers are sought between this and its inverse, in units of the rewards' sizes."""


class Range(eqx.Module):
    """The leader's return over all near-optimal answers of its followers.

    Attributes:
        pessimistic: no near-optimal answer gives the leader less.
        optimistic: no near-optimal answer gives the leader more.
    """

    pessimistic: Scalar
    optimistic: Scalar

    def __str__(self):
        return readable(self)


@runtime_checkable
class HasUpperReward(Protocol):
    """A problem whose leader collects a reward per state and action of the follower."""

    def lower(self, x: PyTree) -> PyTree[MDP]:
        """The lower level at x."""
        ...

    def upper_reward(self, x: PyTree) -> PyTree[Array]:
        """The leader's reward as the follower's MDP sees it, shape ``[S, A]``."""
        ...


def leader_return_range(problem: HasUpperReward, x: PyTree, *, tolerance: ScalarLike) -> Range:
    """The least and the largest return of the leader at x over all near-optimal followers.

    For a problem whose leader collects ``problem.upper_reward(x)``, such as ``StackelbergGame``;
    see ``upper_value_range``. ``upper`` of such a problem is minus this return.
    """
    if not hasattr(problem, "upper_reward"):
        raise ValueError(
            f"leader_return_range: {type(problem).__name__} has no upper_reward(x), as "
            "StackelbergGame has; give the reward whose return is wanted to upper_value_range."
        )
    return upper_value_range(problem.lower(x), problem.upper_reward(x), tolerance=tolerance)


def upper_value_range(
    mdps: PyTree[MDP],
    upper_reward: PyTree[Float[Array, "*#N S A"]],
    *,
    tolerance: ScalarLike,
) -> Range:
    """min and max of E sum_t discount^t upper_reward over {pi: V_pi(rho) >= V*(rho) - tolerance}.

    V is the followers' regularised return, summed over contexts and followers, so the tolerance
    is shared by all of them. At tolerance 0 and tau = 0 the range is that of all best responses:
    pessimistic and optimistic Stackelberg values.

    Both ends are certified from outside: by weak duality every multiplier eta >= 0 gives

        max_pi V_pi[upper_reward + eta (r - tau h)](rho) - eta (V*(rho) - tolerance),

    the value of a regularised MDP, as an upper bound of the maximum, and its supersolution an upper
    bound of that. The least of them is the maximum, since in occupancies both objective and
    constraint are concave: eta is found by bisection on whether its policy keeps the constraint.
    The ends are exact to about 1e-6 of the upper values' size (1e-12 where tau = 0 or the tolerance
    is not small: where only one policy is left, eta has no finite optimum).

    Arguments:
        mdps: the lower level: an ``MDP``, or a tuple of MDPs of independent followers.
        upper_reward: the leader's reward per state and action of each of them.
        tolerance: the followers' largest loss, >= 0, in units of their return.
    """
    if concrete(tolerance) and not tolerance >= 0:
        raise ValueError(f"upper_value_range: tolerance is {tolerance}; give a loss of at least 0.")
    upper_reward = over_players(_matching_reward, mdps, upper_reward)
    return _range(mdps, upper_reward, jnp.asarray(tolerance))


@eqx.filter_jit
def _range(mdps, upper_reward, tolerance):
    best = best_responses(mdps, tol=_TIGHT)
    worth = over_players(
        lambda mdp, response: _weigh(mdp, subsolution(mdp, response.policy)), mdps, best
    )
    floor = _total(worth) - tolerance
    signed = lambda sign: jax.tree.map(lambda reward: sign * reward, upper_reward)
    ends = lax.map(
        lambda sign: sign * _largest_value(mdps, signed(sign), floor),
        jnp.array([-1.0, 1.0], floor.dtype),
    )
    return Range(*ends)


_TIGHT = 1e-15  # a large multiplier magnifies whatever residual is left


def _largest_value(mdps, upper_reward, floor):
    """The least certified bound of the largest upper value over {V(rho) >= floor}."""
    unit = _size(upper_reward) / _size(over_players(lambda mdp: (mdp.reward, mdp.tau), mdps))
    unit = jnp.where(jnp.isfinite(unit) & (unit > 0), unit, 1)

    def bound(eta):
        mixed = over_players(
            lambda mdp, reward: eqx.tree_at(
                lambda m: (m.reward, m.tau), mdp, (reward + eta * mdp.reward, eta * mdp.tau)
            ),
            mdps,
            upper_reward,
        )
        best = best_responses(mixed, tol=_TIGHT)
        value = over_players(lambda mdp, r: _weigh(mdp, supersolution(mdp, r)), mixed, best)
        worth = over_players(lambda mdp, r: evaluate(mdp, r.policy).expected_return(), mdps, best)
        return _total(value) - eta * floor, _total(worth)

    def body(_, carry):
        low, high, least = carry
        middle = (low + high) / 2
        value, worth = bound(unit * jnp.exp(middle))
        kept = worth >= floor  # a larger multiplier would only waste what the constraint allows
        return (
            jnp.where(kept, low, middle),
            jnp.where(kept, middle, high),
            jnp.fmin(least, value),
        )

    edge = jnp.log(jnp.asarray(_LARGEST, unit.dtype))
    start = (-edge, edge, jnp.full_like(edge, jnp.inf))
    return lax.fori_loop(0, _BISECTIONS, body, start)[2]


def _matching_reward(mdp, reward):
    shape = jnp.shape(reward)
    if shape not in (mdp.reward.shape, mdp.reward.shape[-2:]):
        raise ValueError(
            f"upper_value_range: upper_reward has shape {shape}; the follower's reward has "
            f"{mdp.reward.shape}."
        )
    return jnp.broadcast_to(jnp.asarray(reward, mdp.reward.dtype), mdp.reward.shape)


def _weigh(mdp, values):
    return jnp.sum(jnp.where(mdp.initial > 0, mdp.initial * values, 0))


def _total(tree):
    return jax.tree.reduce(jnp.add, tree)


def _size(tree):
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))
