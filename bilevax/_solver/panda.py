"""PANDA: nested descent and ascent, without best responses."""

import equinox as eqx
import jax
import optax
from jax import lax

from .._oracle import AbstractOracle, PolicyMirrorDescent
from .._penalty import NikaidoIsoda
from .base import AbstractSolver, descended, first_policy, first_state, step_key
from .update import learning_step
from .weight import AbstractWeight, Homotopy, as_weight


class PANDA(AbstractSolver):
    """Descends f + weight psi with auxiliary policies in place of best responses.

    Each step takes ``inner_steps`` times: every auxiliary policy ascends its own return against the
    policies, by one step of mirror descent, then the policies descend f + weight psi, the auxiliary
    ones held, by a damped natural step. Then x moves once. Nothing is solved to a tolerance: the
    penalty seen is the gain of the auxiliary policies, a lower bound of psi. Needs tau > 0. The
    method of Zheng et al. (ICML 2026) with exact values; the steps are our choice.

    Attributes:
        penalty: ``NikaidoIsoda()`` (the value penalty with one follower).
        penalty_weight: as for ``PBRL``.
        optimizer: any optax optimiser of x.
        inner_steps: K, of the policies per step of x.
        policy_step: in (0, 1], the share of a whole step of soft policy iteration.
        oracle: whose single step is an auxiliary policy's ascent; a step size of ``policy_step /
            tau`` moves both alike.
    """

    penalty: NikaidoIsoda = NikaidoIsoda()
    penalty_weight: AbstractWeight = eqx.field(
        converter=as_weight, default=Homotopy(1.0, 1e3, 1000)
    )
    optimizer: optax.GradientTransformation = optax.adam(0.05)
    inner_steps: int = 10
    policy_step: float = 0.1
    oracle: AbstractOracle = PolicyMirrorDescent(step_size=1.0)

    def __check_init__(self):
        if self.inner_steps < 1:
            raise ValueError(f"PANDA: inner_steps is {self.inner_steps}; give at least 1.")
        if not 0 < self.policy_step <= 1:
            raise ValueError(f"PANDA: policy_step is {self.policy_step}; it must lie in (0, 1].")

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        update = self.optimizer.init(x)
        return first_state(x, policy, update, memory, self.penalty_weight.init(), key)

    def step(self, estimator, state):
        x, weight = state.x, state.weight
        last, first = jax.random.split(step_key(state))
        keys = jax.random.split(first, (self.inner_steps, 2))

        def gradient(policy, memory, key):
            return estimator.penalised_gradient(self.penalty, x, policy, weight, memory, key)

        def inner(k, carry):
            policy, memory = carry
            memory = estimator.respond(self.oracle, x, policy, memory, keys[k, 0], single_loop=True)
            terms, (_, in_policy), memory = gradient(policy, memory, keys[k, 1])
            step = learning_step("PANDA", terms, in_policy, self.policy_step)
            return estimator.mirror_step(x, policy, step), memory

        carry = lax.fori_loop(0, self.inner_steps, inner, (state.policy, state.memory))
        policy, memory = carry
        terms, (in_x, _), memory = gradient(policy, memory, last)
        heavier = self.penalty_weight.next(weight, state.step + 1, terms.penalty)
        return descended(
            estimator, self.optimizer, state, in_x, terms, policy, memory, weight=heavier
        )

    def settled(self, state):
        return self.penalty_weight.settled(state.step, state.progress.penalty)

    def answer(self, estimator, state):
        return state.x, state.policy
