"""Newton's method on Shapley's equation V = T V."""

import jax.numpy as jnp
from jax import lax

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

    def observe(self, game, values, before):
        payoffs = game.joint_q(values)
        stage = stage_equilibria(payoffs, game.tau, game.available, before.logits[0])
        residual = jnp.max(jnp.abs(stage.value - values) + jnp.abs(stage.gap))
        answer = -jnp.einsum("sij,si->sj", payoffs, stage.policy[0]) / game.tau
        return Equilibrium(
            policy=stage.policy,
            logits=(stage.logits, answer),
            values=values,
            backup=stage.value,
            residual=jnp.where(stage.converged, residual, jnp.inf),
            converged=before.converged,
            steps=before.steps,
        )

    def step(self, game, before):
        p, q = before.policy
        joint = (p[:, :, None] * q[:, None, :]).reshape(p.shape[0], -1)
        system = policy_system(game.transition.under(joint), game.discount)
        moved = before.values + system.solve(before.backup - before.values)
        after = self.observe(game, moved, before)
        good = after.residual <= jnp.maximum(game.discount, 0.5) * before.residual
        return lax.cond(good, lambda: after, lambda: self.observe(game, before.backup, before))
