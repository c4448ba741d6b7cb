"""The derivative of an equilibrium in its game, by the implicit function theorem."""

import jax.numpy as jnp
from jax import lax

from .._game import ZeroSumGame
from .._linear import policy_system
from .._types import Array, Float
from .base import Equilibrium, check_entropic
from .stage import newton_matrix, softmax


def differentiable_equilibrium(
    game: ZeroSumGame, equilibrium: Equilibrium
) -> tuple[Float[Array, "S A1"], Float[Array, "S A2"]]:
    """pi*(game), differentiable in the game by one adjoint solve, given its equilibrium.

    One Newton step from a fixed point does not move it, and has the fixed point's derivative: a
    step on V = T V with the policies held (Danskin: the value of a matrix game moves with its
    payoffs at the equilibrium held fixed), then a step on the logits of player 1 in every state,
    which player 2 answers. Right to first order in the equilibrium's own error: look at its
    ``converged``. Needs entropy and tau > 0.
    """
    check_entropic(game)
    held, fixed = lax.stop_gradient((game, equilibrium))
    (p, q), z, tau = fixed.policy, fixed.logits[0], game.tau
    entropy = game.regularizer.value
    value = jnp.einsum("si,sij,sj->s", p, game.joint_q(fixed.values), q)
    value = value - tau * (entropy(p) - entropy(q))
    joint = game.joint_policy(fixed.policy)
    system = policy_system(held.transition.under(joint), held.discount)
    payoffs = game.joint_q(fixed.values + system.solve(value - fixed.values))

    def answer(p):
        scores = -jnp.einsum("sij,si->sj", payoffs, p)
        return game.regularizer.greedy(scores, tau, game.available[1])

    slope = z - jnp.einsum("sij,sj->si", payoffs, answer(p)) / tau
    slope = slope - jnp.sum(p * slope, -1, keepdims=True)
    if game.available[0] is not None:
        slope = jnp.where(game.available[0], slope, 0)
    matrix = newton_matrix(held.joint_q(fixed.values), held.tau, p, q)
    moved = softmax(z - jnp.linalg.solve(matrix, slope[..., None])[..., 0], game.available[0])
    return moved, answer(moved)
