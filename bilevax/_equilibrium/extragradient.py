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
    1 - eta tau in a matrix game for eta <= 1 / (2 (max|Q| + tau)) (Cen, Wei and Chi 2021), and in a
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

    def step(self, game, before):
        payoffs = game.joint_q(before.trial)
        tau, entropy = game.tau, game.regularizer.value
        p, q = before.policy
        scores = self._scores(payoffs, p, q)
        # T V lies between what the two policies guarantee in every state's game.
        best, worst = (
            game.regularizer.conjugate(s, tau, mask)
            for s, mask in zip(scores, game.available, strict=True)
        )
        off = jnp.stack([best + tau * entropy(q), -worst - tau * entropy(p)]) - before.trial
        eta = self.step_size / (2 * (jnp.max(jnp.abs(payoffs)) + tau))

        def moved(scores):
            logits = tuple(
                _centred((1 - eta * tau) * z + eta * s)
                for z, s in zip(before.logits, scores, strict=True)
            )
            return logits, (
                softmax(logits[0], game.available[0]),
                softmax(logits[1], game.available[1]),
            )

        _, (p, q) = moved(scores)
        values = jnp.einsum("si,sij,sj->s", p, payoffs, q) - tau * (entropy(p) - entropy(q))
        logits, policy = moved(self._scores(payoffs, p, q))
        return Equilibrium(
            policy=policy,
            logits=logits,
            values=before.trial,
            backup=values,
            residual=jnp.max(jnp.abs(off)),
            trial=values,
            certain=before.certain,
            converged=before.converged,
            steps=before.steps,
        )

    @staticmethod
    def _scores(payoffs, p, q):
        """Each player's expected payoffs of its actions: Q q and -Q' p."""
        return jnp.einsum("sij,sj->si", payoffs, q), -jnp.einsum("sij,si->sj", payoffs, p)


def _centred(z):
    """Only differences matter; without the constant they stay small."""
    return z - jnp.max(z, axis=-1, keepdims=True)
