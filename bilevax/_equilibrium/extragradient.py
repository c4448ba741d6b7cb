"""The first-order oracle: entropic extragradient with values updated on the way."""

import jax.numpy as jnp

from .._types import ScalarLike
from .base import AbstractEquilibriumOracle, Equilibrium
from .stage import softmax


class Extragradient(AbstractEquilibriumOracle):
    """Entropic extragradient steps on every state's matrix game, V following along.

        p' ~ p^(1 - eta tau) exp(eta Q q),       q' ~ q^(1 - eta tau) exp(-eta Q' p)
        p  ~ p^(1 - eta tau) exp(eta Q q'),      q  ~ q^(1 - eta tau) exp(-eta Q' p')

    with Q = r + discount P V and V <- the value of (p', q') in Q. Linear convergence at the rate
    1 - eta tau in a matrix game for eta <= 1 / (2 max|Q| + tau) (Cen, Wei and Chi 2021), and in a
    Markov game as V settles (Cen et al. 2023). It needs nothing but products with the model.

    Attributes:
        step_size: eta, relative to its largest safe value 1 / (2 (max|Q| + tau)).
    """

    step_size: ScalarLike = 1.0
    tol: float = 1e-10
    max_steps: int = 100_000

    def __check_init__(self):
        if not 0 < self.step_size <= 1:
            raise ValueError(
                f"Extragradient: step_size is {self.step_size}; it must lie in (0, 1]."
            )

    def observe(self, game, values, before):
        """Bounds T V from both sides by what each policy guarantees in its state's game."""
        p, q = before.policy
        scores = self._scores(game.joint_q(values), p, q)
        tau = game.tau
        best = [
            game.regularizer.conjugate(s, tau, mask)
            for s, mask in zip(scores, game.available, strict=True)
        ]
        entropy = game.regularizer.value
        upper, lower = best[0] + tau * entropy(q), -best[1] - tau * entropy(p)
        value = jnp.sum(p * scores[0], -1) - tau * entropy(p) + tau * entropy(q)
        residual = jnp.max(jnp.maximum(jnp.abs(upper - values), jnp.abs(lower - values)))
        return Equilibrium(
            before.policy,
            before.logits,
            values,
            value,
            residual,
            before.converged,
            before.steps,
        )

    def step(self, game, before):
        payoffs = game.joint_q(before.values)
        eta = self.step_size / (2 * (jnp.max(jnp.abs(payoffs)) + game.tau))
        keep = 1 - eta * game.tau

        def moved(policy):
            scores = self._scores(payoffs, *policy)
            z, w = (keep * z + eta * s for z, s in zip(before.logits, scores, strict=True))
            # Only differences matter; without the constant they stay small.
            z, w = z - jnp.max(z, -1, keepdims=True), w - jnp.max(w, -1, keepdims=True)
            return (z, w), (softmax(z, game.available[0]), softmax(w, game.available[1]))

        _, middle = moved(before.policy)
        logits, policy = moved(middle)
        p, q = middle
        entropy = game.regularizer.value
        values = jnp.einsum("si,sij,sj->s", p, payoffs, q)
        values = values - game.tau * (entropy(p) - entropy(q))
        return self.observe(
            game,
            values,
            Equilibrium(
                policy,
                logits,
                values,
                before.backup,
                before.residual,
                before.converged,
                before.steps,
            ),
        )

    @staticmethod
    def _scores(payoffs, p, q):
        """Each player's expected payoffs of its actions: Q q and -Q' p."""
        return jnp.einsum("sij,sj->si", payoffs, q), -jnp.einsum("sij,si->sj", payoffs, p)
