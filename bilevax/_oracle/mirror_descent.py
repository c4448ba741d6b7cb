"""Policy mirror descent with exact evaluation."""

import jax.numpy as jnp

from .._linear import policy_system
from .._mdp import regularization
from .._regularizer import NegativeEntropy, Unregularized
from .base import MOVING, AbstractOracle, first_response

_LARGEST_STEP = 1e9
"""Relative to the rewards: beyond it a step is a step of policy iteration up to rounding."""


class PolicyMirrorDescent(AbstractOracle):
    """pi' = argmax over p of <p, Q_pi> - tau h(p) - D_h(p, pi) / step_size, with Q_pi exact.

    Linear convergence at the rate 1 / (1 + step_size tau) for the entropy (natural policy
    gradient) and the squared norm alike (Cen et al. 2022; Zhan et al. 2023); soft policy iteration
    as ``step_size`` grows. With tau = 0 the geometry is Euclidean and the step doubles every time,
    which makes that case linear too (Xiao 2022). The response's policy is one improvement ahead of
    its values; ``residual`` is the largest regret of the policy before it.
    """

    step_size: float = 10.0
    tol: float = 1e-12
    max_steps: int = 10_000

    def __check_init__(self):
        if not self.step_size > 0:
            raise ValueError(
                f"PolicyMirrorDescent: step_size is {self.step_size}; give a positive number."
            )

    def init(self, mdp):
        return first_response(mdp, None, MOVING)

    def evaluate(self, mdp, response):
        policy = response.policy
        own = jnp.sum(policy * mdp.reward, axis=-1) - regularization(mdp, policy)
        return policy_system(mdp.transition.under(policy), mdp.discount).solve(own), 0.0

    def improve(self, mdp, q, response):
        policy, step = response.policy, self.step_size
        if isinstance(mdp.regularizer, Unregularized):
            step = jnp.minimum(step * 2.0**response.steps, _LARGEST_STEP)
            return mdp.regularizer.mirror_step(policy, -step * q, mdp.available)
        if isinstance(mdp.regularizer, NegativeEntropy):
            # Probabilities that underflowed under another MDP must be able to come back.
            slope = jnp.log(jnp.maximum(policy, jnp.finfo(policy.dtype).tiny))
        else:
            slope = policy
        # The proximal step is greedy for h itself: D_h(p, pi) is h(p) - <grad h(pi), p> + constant.
        return mdp.regularizer.greedy(q + slope / step, mdp.tau + 1 / step, mdp.available)
