"""Newton's method on Shapley's equation V = T V."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._linear import policy_system
from .base import AbstractEquilibriumOracle, Equilibrium
from .stage import stage_equilibria


class ShapleyNewton(AbstractEquilibriumOracle):
    """V <- V + (I - discount P_pi)^-1 (T V - V), pi the equilibria of the matrix games at V.

    T V (s) is the value of the regularised matrix game r + discount P V in state s (Shapley 1953),
    solved to rounding by ``stage_equilibria``. With pi held the step is exact policy evaluation
    (Pollatschek and Avi-Itzhak 1969), quadratically convergent near the equilibrium but not from
    everywhere: where it does not shrink the residual by the discount, the step is V <- T V, which
    does.
    """

    tol: float = 1e-13
    max_steps: int = 200

    def step(self, game, before):
        payoffs = game.joint_q(before.trial)
        stage = stage_equilibria(payoffs, game.tau, game.available, before.logits[0])
        off = jnp.max(jnp.abs(stage.value - before.trial) + jnp.abs(stage.gap))
        residual = jnp.where(stage.converged, off, jnp.inf)
        joint = game.joint_policy(stage.policy)
        system = policy_system(game.transition.under(joint), game.discount)
        seen = Equilibrium(
            policy=stage.policy,
            logits=(stage.logits, -jnp.einsum("sij,si->sj", payoffs, stage.policy[0]) / game.tau),
            values=before.trial,
            backup=stage.value,
            residual=residual,
            trial=before.trial + system.solve(stage.value - before.trial),
            certain=jnp.asarray(False),
            converged=before.converged,
            steps=before.steps,
        )
        sure = eqx.tree_at(
            lambda e: (e.trial, e.certain), before, (before.backup, jnp.asarray(True))
        )
        shrinks = residual <= jnp.maximum(game.discount, 0.5) * before.residual
        taken = shrinks | before.certain
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), seen, sure)
