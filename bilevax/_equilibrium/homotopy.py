"""Equilibria without a regulariser: tau lowered until it no longer matters."""

import equinox as eqx
import jax.numpy as jnp

from .._game import ZeroSumGame
from .._linear import policy_system
from .._regularizer import NegativeEntropy
from .._types import concrete
from .base import AbstractEquilibriumOracle, Equilibrium, first_equilibrium, solve_game
from .newton import ShapleyNewton

_FACTOR = 0.25
_LAST = 1e-6
"""The last tau, relative to the largest return; below it rounding, of that over tau, counts."""


def unregularized_equilibrium(
    game: ZeroSumGame, *, oracle: AbstractEquilibriumOracle = ShapleyNewton()
) -> Equilibrium:
    """An equilibrium of the game without its regularisers, by a homotopy in tau.

    The entropic equilibrium is followed from a tau of max|r| / (1 - discount) down to 1e-6 of it;
    it tends to the equilibrium of largest entropy. ``values`` are those of its policies *without*
    regularisers, whose error is of second order in the last tau; ``duality_gap`` on the game with
    tau = 0 bounds what the policies leave (``residual`` is infinite: unknown). ``converged`` says
    whether every stage was solved. A loop on the host, not to be compiled.
    """
    if not concrete(game):
        raise ValueError("unregularized_equilibrium: call it outside jit; it loops on the host.")
    size = float(jnp.max(jnp.abs(game.reward))) / (1 - float(game.discount))
    size = size if size > 0 else 1.0
    now, converged, tau = first_equilibrium(game), True, size
    while True:
        changed = (jnp.asarray(tau, game.reward.dtype), NegativeEntropy())
        regular = eqx.tree_at(lambda g: (g.tau, g.regularizer), game, changed)
        now = solve_game(regular, oracle, now)
        converged &= bool(now.converged)
        if tau == _LAST * size:
            break
        tau = max(_FACTOR * tau, _LAST * size)
    joint = game.joint_policy(now.policy)
    own = jnp.sum(joint * game.reward.reshape(joint.shape), axis=-1)
    values = policy_system(game.transition.under(joint), game.discount).solve(own)
    known = (values, values, values, jnp.full_like(now.residual, jnp.inf), jnp.asarray(converged))
    return eqx.tree_at(lambda e: (e.values, e.backup, e.trial, e.residual, e.converged), now, known)
