"""Newton's method with inexact solves: policy iteration for large models."""

import jax.numpy as jnp
from jax import lax

from .._linear import bicgstab, solves_densely, system_matrix
from .._mdp import MDP, greedy_policy
from .._regularizer import Unregularized
from .._types import Array, Float
from .base import AbstractOracle, Response, first_response


class NewtonKrylov(AbstractOracle):
    """Inexact Newton: each policy is evaluated by BiCGSTAB, no further than the step deserves.

    The accuracy follows the progress (Eisenstat and Walker 1996): loose while the policy still
    moves, tighter as the residual falls. With tau = 0 it is modified policy iteration (Puterman and
    Shin 1978) with Krylov steps for sweeps.
    """

    tol: float = 1e-12
    max_steps: int = 500

    def init(self, mdp):
        return first_response(mdp, None)

    def evaluate(self, mdp, response):
        return krylov_step(mdp, response, self.tol)

    def improve(self, mdp, q, response):
        return greedy_policy(mdp, q)


def krylov_step(mdp: MDP, response: Response, tol: float) -> Float[Array, " S"]:
    """V + about (I - discount P_pi)^-1 (T V - V), for the response's policy."""
    if isinstance(mdp.regularizer, Unregularized):
        kernel = mdp.transition.select(jnp.argmax(response.policy, axis=-1))
    else:
        kernel = mdp.transition.under(response.policy)
    delta = response.backup - response.values
    enough = 0.3 * tol * jnp.max(jnp.abs(response.backup)) / response.residual
    forcing = jnp.where(jnp.isfinite(response.rate), 0.9 * response.rate**2, 0)
    forcing = jnp.clip(forcing, enough, 0.1)
    target = forcing * jnp.linalg.norm(delta)
    matvec = lambda v: v - mdp.discount * kernel.apply(v)
    if solves_densely(kernel):
        # No more iterations than a factorisation costs.
        correction, rest = bicgstab(matvec, delta, target, 10 + mdp.num_states // 10)
        exact = lambda: jnp.linalg.solve(system_matrix(kernel, mdp.discount), delta)
        return response.values + lax.cond(
            jnp.linalg.norm(rest) <= target, lambda: correction, exact
        )
    correction, rest = bicgstab(matvec, delta, target, 1000)
    # Where the iteration failed, a sweep: delta itself.
    helped = jnp.linalg.norm(rest) <= jnp.linalg.norm(delta)
    return response.values + jnp.where(helped, correction, delta)
