"""What both equilibrium oracles share: the equilibrium, the check and the loop."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from .._game import ZeroSumGame, is_regularized
from .._regularizer import NegativeEntropy
from .._types import Array, Bool, Float, Int, Scalar


class Equilibrium(eqx.Module):
    """An approximate equilibrium, and what the next call can start from.

    Attributes:
        policy: both players' policies, ``[S, A1]`` and ``[S, A2]``.
        logits: of both, up to a constant in each state.
        values: V, player 1's value, shape ``[S]``.
        backup: an approximation of T V, Shapley's operator applied once, shape ``[S]``.
        residual: a bound on max |T V - V|; |V - V*| is at most residual / (1 - discount).
        trial: the values to look at next, shape ``[S]``.
        certain: whether ``trial`` is ``backup``, which brings V closer for certain.
        converged: whether the residual met the oracle's tolerance.
        steps: oracle steps taken by the last call.
    """

    policy: tuple[Float[Array, "S A1"], Float[Array, "S A2"]]
    logits: tuple[Float[Array, "S A1"], Float[Array, "S A2"]]
    values: Float[Array, " S"]
    backup: Float[Array, " S"]
    residual: Scalar
    trial: Float[Array, " S"]
    certain: Bool[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


class AbstractEquilibriumOracle(eqx.Module):
    """A way to solve a regularised zero-sum Markov game.

    Attributes:
        tol: the largest residual accepted, relative to max|V| + max|r| + tau (and never below
            rounding).
        max_steps: a limit; an equilibrium that meets it says ``converged = False``.
    """

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def step(self, game: ZeroSumGame, before: Equilibrium) -> Equilibrium:
        """Looks at ``before.trial``, takes it or not, and says what to try next."""


@eqx.filter_jit
def solve_game(
    game: ZeroSumGame, oracle: AbstractEquilibriumOracle, warm: Equilibrium | None = None
) -> Equilibrium:
    """The oracle's equilibrium of a game with tau > 0, from a warm start or from V = 0."""
    check_entropic(game)
    start = first_equilibrium(game) if warm is None else _restart(warm)
    eps = 64 * jnp.finfo(start.values.dtype).eps

    def scale(now):
        return jnp.max(jnp.abs(now.values)) + jnp.max(jnp.abs(game.reward)) + game.tau

    def cond(carry):
        now, before, k = carry
        # Down to rounding, where the residual no longer halves, it has met its floor.
        stalled = (now.residual <= eps * scale(now)) & ~(now.residual < 0.5 * before)
        return (now.residual > oracle.tol * scale(now)) & ~stalled & (k < oracle.max_steps)

    def body(carry):
        now, _, k = carry
        return oracle.step(game, now), now.residual, k + 1

    end, _, steps = lax.while_loop(cond, body, (start, start.residual, 0))
    # No tolerance below rounding can be met: in float32 the floor decides.
    converged = end.residual <= jnp.maximum(oracle.tol, eps) * scale(end)
    return eqx.tree_at(lambda e: (e.converged, e.steps), end, (converged, jnp.asarray(steps)))


def first_equilibrium(game: ZeroSumGame) -> Equilibrium:
    """V = 0 and uniform policies, not yet looked at: residual infinite."""
    policy = game.uniform_policy()
    zero = jnp.zeros_like(game.initial)
    return Equilibrium(
        policy=policy,
        logits=(jnp.zeros_like(policy[0]), jnp.zeros_like(policy[1])),
        values=zero,
        backup=zero,
        residual=jnp.asarray(jnp.inf, zero.dtype),
        trial=zero,
        certain=jnp.asarray(False),
        converged=jnp.asarray(False),
        steps=jnp.asarray(0),
    )


def _restart(warm):
    """The warm start with what another game left behind forgotten: its values are to be tried."""
    unknown, no = jnp.full_like(warm.residual, jnp.inf), jnp.zeros_like(warm.certain)
    changed = (unknown, warm.values, no)
    return eqx.tree_at(lambda e: (e.residual, e.trial, e.certain), warm, changed)


def check_entropic(game: ZeroSumGame) -> None:
    """``ValueError`` where the game's equilibrium is not that of an entropy with tau > 0."""
    if not is_regularized(game):
        raise ValueError(
            "equilibrium: tau is 0, where policies need not be unique; give the game a positive "
            "tau, or call unregularized_equilibrium."
        )
    if not isinstance(game.regularizer, NegativeEntropy):
        raise ValueError(
            f"equilibrium: the regularizer is {type(game.regularizer).__name__}; equilibria are "
            "computed for NegativeEntropy."
        )
