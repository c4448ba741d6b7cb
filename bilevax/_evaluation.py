"""What a policy is worth in an MDP: its values, its return and its occupancy (spec (M1), (M2))."""

import equinox as eqx
import jax.numpy as jnp

from ._linear import PolicySystem, policy_system
from ._mdp import MDP, action_values, per_context, regularization
from ._types import Array, Float, Scalar


class Evaluation(eqx.Module):
    """A policy's occupancy in an MDP, and whatever values are asked for, from one factorisation.

    ``mdp`` and ``policy`` are what is evaluated. With contexts every array has the leading axis.
    """

    mdp: MDP
    policy: Float[Array, "*N S A"]
    system: PolicySystem
    occupancy: Float[Array, "*N S"]

    @property
    def state_action_occupancy(self) -> Float[Array, "*N S A"]:
        """d(s,a) = E sum_t discount^t 1{s_t = s, a_t = a}, total mass rho(S)/(1-discount)."""
        return self.occupancy[..., None] * self.policy

    def expected_return(self, reward: Float[Array, "*#N S A"] | None = None) -> Scalar:
        """sum over s,a of d(s,a) r(s,a), summed over contexts.

        Without ``reward`` it is the regularised return of the MDP's own reward, V(rho).
        """
        if reward is not None:
            return jnp.sum(self.state_action_occupancy * reward)
        return jnp.sum(self.occupancy * self._own_reward())

    def values(self, reward: Float[Array, "*N S A"] | None = None) -> Float[Array, "*N S"]:
        """V(s) of ``reward`` under the policy; without it, the MDP's own regularised V."""
        if reward is None:
            rewards = self._own_reward()
        else:
            rewards = jnp.sum(self.policy * reward, axis=-1)
        return per_context(lambda _, system, r: system.solve(r))(self.mdp, self.system, rewards)

    def _own_reward(self):
        own = jnp.sum(self.policy * self.mdp.reward, axis=-1)
        return own - regularization(self.mdp, self.policy)


@eqx.filter_jit
def evaluate(
    mdp: MDP, policy: Float[Array, "*N S A"], inverse: Float[Array, "*N S S"] | None = None
) -> Evaluation:
    """The policy's occupancy, d = rho + discount P_pi' d, with the factorisation that gave it.

    ``inverse`` is the inverse of a nearby policy's system (``evaluation.system.inverse`` of an
    earlier call): a preconditioner that replaces the factorisation while it serves.
    """
    if policy.shape != mdp.reward.shape:
        raise ValueError(
            f"evaluate: policy has shape {policy.shape}; with this MDP it is {mdp.reward.shape}."
        )

    def one(mdp, policy, *inverse):
        system = policy_system(mdp.transition.under(policy), mdp.discount, *inverse)
        return system, system.solve_transposed(mdp.initial)

    system, occupancy = per_context(one)(mdp, policy, *([] if inverse is None else [inverse]))
    return Evaluation(mdp, policy, system, occupancy)


@eqx.filter_jit
def state_values(mdp: MDP, policy: Float[Array, "*N S A"]) -> Float[Array, "*N S"]:
    """V_pi(s) = E[sum_t discount^t (r - tau h)], the regularised value (spec (M1)), ``[S]``."""
    return evaluate(mdp, policy).values()


@eqx.filter_jit
def q_values(mdp: MDP, policy: Float[Array, "*N S A"]) -> Float[Array, "*N S A"]:
    """Q_pi(s,a) = r(s,a) + discount E V_pi(s') (spec (M2)), shape ``[S, A]``."""
    return action_values(mdp, state_values(mdp, policy))


@eqx.filter_jit
def expected_return(mdp: MDP, policy: Float[Array, "*N S A"]) -> Scalar:
    """V_pi(rho) = sum_s rho(s) V_pi(s), summed over contexts (spec (M1))."""
    return evaluate(mdp, policy).expected_return()


@eqx.filter_jit
def occupancy(mdp: MDP, policy: Float[Array, "*N S A"]) -> Float[Array, "*N S"]:
    """d_pi(s) = E sum_t discount^t 1{s_t = s} from rho, shape ``[S]``.

    Its total mass is rho(S)/(1-discount) where nothing ends, and less elsewhere.
    """
    return evaluate(mdp, policy).occupancy
