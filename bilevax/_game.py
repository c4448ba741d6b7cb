"""Markov games: every player's best response solves an MDP, the others' policies averaged out.

A joint policy is a tuple with one array ``[S, A_i]`` per player. Moves are simultaneous; sequential
moves are states of their own in which the others have one action.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._mdp import MDP
from ._regularizer import AbstractRegularizer, NegativeEntropy, Unregularized
from ._transition import AbstractTransition, DenseTransition, by_player, check_kernel
from ._types import Array, Bool, Float, ScalarLike, concrete

Policies = tuple[Float[Array, "S _"], ...]
Masks = tuple[Bool[Array, "S _"] | None, ...]


class ZeroSumGame(eqx.Module):
    """A two-player zero-sum Markov game, both players regularised (spec (M11)).

        V^{pi1,pi2} = E sum_t discount^t ( r(s_t, a1_t, a2_t) - tau h(pi1) + tau h(pi2) )

    Player 1 maximises V and player 2 minimises it. With tau > 0 the equilibrium is unique
    (``equilibrium``). The MDP that a player faces carries the *opponent's* regulariser in its
    reward, for it changes which states are worth visiting:

        player 1: E_{pi2} r + tau h(pi2),    player 2: -E_{pi1} r + tau h(pi1),

    each with its own -tau h besides. ``MarkovGame`` with rewards (r, -r), in which each player
    pays for its own regulariser alone, is another game.

    Arguments:
        reward: r(s, a1, a2), shape ``[S, A1, A2]``.
        transition: P(s'|s, a1, a2) as an array ``[S, A1, A2, S]``, or any transition over (S, A1 *
            A2) with joint actions numbered ``a1 * A2 + a2`` (a ``SuccessorList``, say). Rows may
            sum to less than one: the rest is termination.
        discount: in [0, 1).
        initial: rho, any nonnegative measure, shape ``[S]``; uniform probability by default.
        tau: weight of both regularisers, >= 0.
        regularizer: ``NegativeEntropy()`` or ``SquaredNorm()``.
        available: which actions exist: a pair of boolean arrays ``[S, A1]``, ``[S, A2]``, either of
            which may be ``None`` (all).

    Raises ``ValueError`` on wrong shapes, and on wrong values where they can be looked at.
    """

    reward: Float[Array, "S A1 A2"]
    transition: AbstractTransition
    discount: Float[Array, ""]
    initial: Float[Array, " S"]
    regularizer: AbstractRegularizer
    tau: Float[Array, ""]
    available: Masks

    def __init__(
        self,
        reward,
        transition,
        *,
        discount: ScalarLike,
        initial=None,
        tau: ScalarLike = 0.0,
        regularizer: AbstractRegularizer = NegativeEntropy(),
        available=None,
    ):
        self.reward = jnp.asarray(reward)
        if self.reward.ndim != 3:
            raise ValueError(
                f"ZeroSumGame: reward has shape {self.reward.shape}; give [S, actions of player 1, "
                "actions of player 2]."
            )
        _check_finite("ZeroSumGame: reward", self.reward)
        self.available = _checked_masks("ZeroSumGame", available, self.reward.shape)
        self.transition = _checked_transition("ZeroSumGame", transition, self.reward.shape)
        joint = _checked_joint(
            "ZeroSumGame", self.reward, self.transition, discount, initial, tau, regularizer
        )
        self.discount, self.initial, self.tau = joint.discount, joint.initial, joint.tau
        self.regularizer = joint.regularizer

    @property
    def num_actions(self) -> tuple[int, int]:
        """(A1, A2)."""
        return self.reward.shape[1], self.reward.shape[2]

    def uniform_policy(self) -> tuple[Float[Array, "S A1"], Float[Array, "S A2"]]:
        """Every available action with the same probability."""
        first, second = _uniform(self.num_actions, self.available, self.reward)
        return first, second

    def induced_mdps(self, policy: Policies | None = None) -> tuple[MDP, MDP]:
        """The MDP that each player faces while the other keeps its policy (uniform by default).

        Rows of the policies are normalised first: what an opponent's row lacks would end play.
        """
        policies = self.uniform_policy() if policy is None else policy
        _check_policies("ZeroSumGame", policies, self.reward.shape[0], self.num_actions)
        policies = _normalized(policies)
        first = self._against(policies[1], 0, jnp.einsum("sij,sj->si", self.reward, policies[1]))
        second = self._against(policies[0], 1, -jnp.einsum("sij,si->sj", self.reward, policies[0]))
        return first, second

    def joint_q(self, values: Float[Array, " S"]) -> Float[Array, "S A1 A2"]:
        """r(s,a1,a2) + discount E v(s'): the payoffs of every state's matrix game, to player 1."""
        expected = self.transition.expected_next(values).reshape(self.reward.shape)
        return self.reward + self.discount * expected

    def joint_policy(self, policy: Policies) -> Float[Array, "S J"]:
        """pi1(a1|s) pi2(a2|s) over joint actions, in the order of the transition."""
        return (policy[0][:, :, None] * policy[1][:, None, :]).reshape(self.reward.shape[0], -1)

    def _against(self, opponent, player, reward):
        return MDP(
            reward + (self.tau * self.regularizer.value(opponent))[:, None],
            self.transition.averaged(self.num_actions, player, opponent),
            discount=self.discount,
            initial=self.initial,
            tau=self.tau,
            regularizer=self.regularizer,
            available=self.available[player],
        )


class MarkovGame(eqx.Module):
    """A Markov game of n players with rewards of their own, each regularised by itself.

        V_i^pi = E sum_t discount^t ( r_i(s_t, a_t) - tau_i h(pi_i(.|s_t)) )

    Each player maximises its own V_i. Equilibria exist, need not be unique, and no method finds one
    for certain: PBRL minimises the sum of best-response gains, and a certified gap above tolerance
    comes back as ``infeasible``.

    Arguments:
        rewards: r_i(s, a_1, ..., a_n), shape ``[n, S, A_1, ..., A_n]``.
        transition: P(s'|s, a) as an array ``[S, A_1, ..., A_n, S]``, or any transition over joint
            actions numbered in row-major order.
        discount: in [0, 1).
        initial: rho, any nonnegative measure, shape ``[S]``; uniform probability by default.
        tau: weights of the regularisers, >= 0: one number, or one per player (all positive or all
            0).
        regularizer: ``NegativeEntropy()`` or ``SquaredNorm()``.
        available: which actions exist: one boolean array ``[S, A_i]`` per player, or ``None``.

    Raises ``ValueError`` on wrong shapes, and on wrong values where they can be looked at.
    """

    rewards: Float[Array, "n S *actions"]
    transition: AbstractTransition
    discount: Float[Array, ""]
    initial: Float[Array, " S"]
    regularizer: AbstractRegularizer
    tau: Float[Array, " n"]
    available: Masks

    def __init__(
        self,
        rewards,
        transition,
        *,
        discount: ScalarLike,
        initial=None,
        tau: ScalarLike | Sequence[float] | Float[Array, " n"] = 0.0,
        regularizer: AbstractRegularizer = NegativeEntropy(),
        available=None,
    ):
        self.rewards = jnp.asarray(rewards)
        shape = self.rewards.shape
        if len(shape) < 3 or shape[0] != len(shape) - 2:
            raise ValueError(
                f"MarkovGame: rewards has shape {shape}; give [n, S, A_1, ..., A_n] with one axis "
                "of actions for each of the n players."
            )
        _check_finite("MarkovGame: rewards", self.rewards)
        self.available = _checked_masks("MarkovGame", available, shape[1:])
        self.transition = _checked_transition("MarkovGame", transition, shape[1:])
        if np.shape(tau) not in ((), shape[:1]):
            raise ValueError(
                f"MarkovGame: tau has shape {np.shape(tau)}; give one number, or {shape[0]}."
            )
        if concrete(tau) and np.any(np.asarray(tau) == 0) and np.any(np.asarray(tau)):
            raise ValueError(
                f"MarkovGame: tau is {np.asarray(tau).tolist()}; regularise all players or none."
            )
        # A number stays a number, so that a tau of 0 is seen to be 0 where this is compiled.
        weights = (
            np.broadcast_to(np.asarray(tau), shape[:1])
            if concrete(tau)
            else jnp.broadcast_to(jnp.asarray(tau), shape[:1])
        )
        for reward, own in zip(self.rewards, weights, strict=True):
            joint = _checked_joint(
                "MarkovGame", reward, self.transition, discount, initial, own, regularizer
            )
        self.discount, self.initial = joint.discount, joint.initial
        self.regularizer = joint.regularizer
        self.tau = jnp.asarray(weights, self.rewards.dtype)

    @property
    def num_actions(self) -> tuple[int, ...]:
        """(A_1, ..., A_n)."""
        return self.rewards.shape[2:]

    def uniform_policy(self) -> Policies:
        """Every available action with the same probability."""
        return _uniform(self.num_actions, self.available, self.rewards)

    def induced_mdps(self, policy: Policies | None = None) -> tuple[MDP, ...]:
        """The MDP that each player faces while the others keep their policies, normalised."""
        policies = self.uniform_policy() if policy is None else policy
        states, actions = self.rewards.shape[1], self.num_actions
        _check_policies("MarkovGame", policies, states, actions)
        policies = _normalized(policies)

        def of(player):
            weight = _others(policies, player)
            reward = by_player(self.rewards[player].reshape(states, -1), actions, player)
            return MDP(
                jnp.einsum("sam,sm->sa", reward, weight),
                self.transition.averaged(actions, player, weight),
                discount=self.discount,
                initial=self.initial,
                tau=self.tau[player],
                regularizer=self.regularizer,
                available=self.available[player],
            )

        return tuple(of(player) for player in range(len(actions)))


def _others(policies, player):
    """The probability of every combination of the other players' actions, ``[S, M]``."""
    states = policies[player].shape[0]
    weight = jnp.ones((states, 1), policies[player].dtype)
    for other, policy in enumerate(policies):
        if other != player:
            weight = (weight[:, :, None] * policy[:, None, :]).reshape(states, -1)
    return weight


def _normalized(policies):
    return tuple(policy / jnp.sum(policy, axis=-1, keepdims=True) for policy in policies)


def _uniform(actions, available, like):
    states = like.shape[-len(actions) - 1]

    def of(count, mask):
        chosen = jnp.ones((states, count), like.dtype) if mask is None else mask.astype(like.dtype)
        return chosen / jnp.sum(chosen, axis=-1, keepdims=True)

    return tuple(of(count, mask) for count, mask in zip(actions, available, strict=True))


def _checked_masks(owner: str, available, shape: tuple[int, ...]) -> Masks:
    states, actions = shape[0], shape[1:]
    for player, count in enumerate(actions):
        if count == 0:
            raise ValueError(f"{owner}: player {player + 1} has no action; give at least one.")
    masks = (None,) * len(actions) if available is None else tuple(available)
    if len(masks) != len(actions):
        raise ValueError(
            f"{owner}: available has {len(masks)} entries; give one for each of the "
            f"{len(actions)} players (None where all actions exist)."
        )
    masks = tuple(None if mask is None else jnp.asarray(mask, bool) for mask in masks)
    for player, (count, mask) in enumerate(zip(actions, masks, strict=True)):
        if mask is None:
            continue
        if mask.shape != (states, count):
            raise ValueError(
                f"{owner}: available[{player}] has shape {mask.shape}; it is {(states, count)}."
            )
        if concrete(mask) and not np.asarray(mask).any(-1).all():
            state = int(np.argwhere(~np.asarray(mask).any(-1))[0, 0])
            raise ValueError(
                f"{owner}: available[{player}] has no action in state {state}; every state needs "
                "one."
            )
    return masks


def _checked_transition(owner: str, transition, shape: tuple[int, ...]) -> AbstractTransition:
    states, joint = shape[0], int(np.prod(shape[1:]))
    if not isinstance(transition, AbstractTransition):
        array = jnp.asarray(transition)
        if array.shape != (*shape, states):
            raise ValueError(
                f"{owner}: transition has shape {array.shape}; with this reward it is "
                f"{(*shape, states)}."
            )
        check_kernel(owner, "transition", array)
        transition = DenseTransition(array.reshape(states, joint, states))
    if transition.shape != (states, joint):
        raise ValueError(
            f"{owner}: transition is over (states, joint actions) = {transition.shape}; with this "
            f"reward it is {(states, joint)}."
        )
    return transition


def _check_finite(name: str, reward) -> None:
    if concrete(reward) and not np.isfinite(np.asarray(reward)).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(reward)))[0])
        raise ValueError(
            f"{name}{list(where)} is {reward[where]}; give finite rewards (mask actions that do "
            "not exist with available)."
        )


def _checked_joint(owner, reward, transition, discount, initial, tau, regularizer) -> MDP:
    """The MDP of all players acting as one, whose checks name what is wrong."""
    if concrete(discount) and not 0 <= float(discount) < 1:
        raise ValueError(f"{owner}: discount is {discount}; it must lie in [0, 1).")
    flat = reward.reshape(reward.shape[0], -1)
    try:
        return MDP(
            flat,
            transition,
            discount=discount,
            initial=initial,
            tau=tau,
            regularizer=regularizer,
        )
    except ValueError as error:
        raise ValueError(str(error).replace("MDP:", f"{owner}:", 1)) from None


def _check_policies(owner, policies, states, actions):
    shapes = tuple(np.shape(policy) for policy in policies)
    wanted = tuple((states, count) for count in actions)
    if shapes != wanted:
        raise ValueError(f"{owner}: policy has shapes {shapes}; give {wanted}, one per player.")


def is_regularized(game: ZeroSumGame | MarkovGame) -> bool:
    """Whether tau > 0."""
    return not isinstance(game.regularizer, Unregularized)
