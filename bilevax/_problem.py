"""Bilevel problems: what is minimised, and which lower level answers.

    min over x in X and y of f(x, y)   subject to   y solves the lower level at x      (spec (M3))

Anything with ``upper``, ``lower`` and ``project`` is a problem; there is nothing to subclass.
"""

import abc
import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp

from ._evaluation import Evaluation
from ._mdp import MDP
from ._regularizer import AbstractRegularizer, NegativeEntropy, sparsemax
from ._transition import as_floats, by_rows
from ._types import Array, Float, PyTree, Scalar, ScalarLike


@runtime_checkable
class Problem(Protocol):
    """What a solver needs of a bilevel problem whose model is known."""

    def upper(self, x: PyTree, policy: PyTree, evaluation: PyTree[Evaluation], /) -> Scalar:
        """f(x, policy), minimised."""
        ...

    def lower(self, x: PyTree, /) -> Any:
        """The lower level at x: an ``MDP``, a tuple of them, or a game."""
        ...

    def project(self, x: PyTree, /) -> PyTree:
        """The Euclidean projection onto X."""
        ...


def unconstrained(x: PyTree) -> PyTree:
    """x itself: the projection onto the whole space."""
    return x


class BilevelProblem(eqx.Module):
    """A bilevel problem from two functions.

    Arguments:
        upper: ``upper(x, policy, evaluation) -> scalar``, minimised. ``evaluation`` hands over
            expected returns, values and occupancies of the policy at x from the factorisation that
            the solver already has (see ``Evaluation``).
        lower: ``lower(x) -> MDP`` (or a tuple of MDPs, or a game).
        project: the projection onto X; see ``optax.projections`` for boxes, simplices and balls.

    Keep large arrays out of closures: an ``equinox.Module`` with a ``__call__`` serves as a
    function and hands its arrays to the compiler as arguments rather than as constants.
    """

    upper: Callable[..., Scalar]
    lower: Callable[..., Any]
    project: Callable[[PyTree], PyTree] = unconstrained

    def __check_init__(self):
        for name, takes in (("upper", "x, policy, evaluation"), ("lower", "x"), ("project", "x")):
            if not _takes(getattr(self, name), len(takes.split())):
                raise ValueError(
                    f"BilevelProblem: {name} cannot be called with ({takes}); give a function that "
                    "can (upper comes first, then lower, then project)."
                )


def _takes(function, count):
    try:
        signature = inspect.signature(function)
    except ValueError:  # a few functions written in C have none
        return True
    except TypeError:  # no function at all
        return False
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


class AbstractParameterization(eqx.Module):
    """How a leader's variable x becomes a policy ``[S, A]``."""

    @abc.abstractmethod
    def policy(self, x: Float[Array, "S A"]) -> Float[Array, "S A"]:
        """The policy at x."""

    @abc.abstractmethod
    def project(self, x: Float[Array, "S A"]) -> Float[Array, "S A"]:
        """The projection of x onto where it is meant to be."""


class Softmax(AbstractParameterization):
    """x are logits, unconstrained."""

    def policy(self, x):
        return jax.nn.softmax(x, axis=-1)

    def project(self, x):
        return x


class Simplex(AbstractParameterization):
    """x is the policy itself, projected onto the simplex in every state."""

    def policy(self, x):
        return x

    def project(self, x):
        return sparsemax(x)


class StackelbergGame(eqx.Module):
    """A leader who commits to a policy, and a follower who answers optimally.

    Both act in P(s'|s, a_l, a_f). The upper level minimises -V_leader(rho), unregularised; the
    follower maximises its own regularised return (Shen, Yang and Chen 2025, section 2; spec
    application 1). Build one with ``simultaneous`` (the follower knows the leader's policy) or
    ``sequential`` (the follower also sees the leader's action before it moves; its MDP lives on
    pairs (s, a_l), flattened to S * A_l states, see ``follower_policy``).

    Attributes:
        leader_reward, follower_reward: shape ``[S, L, A]`` (leader's actions L, follower's A).
        kernel: P(s'|s, a_l, a_f), shape ``[S, L, A, S]``; rows may sum to less than one.
        discount, initial, tau, regularizer: as in ``MDP``; tau regularises the follower only.
        sees_action: whether play is sequential.
        parameterization: ``Softmax()`` (x are the leader's logits ``[S, L]``) or ``Simplex()`` (x
            is the leader's policy).
    """

    leader_reward: Float[Array, "S L A"]
    follower_reward: Float[Array, "S L A"]
    kernel: Float[Array, "S L A S"]
    discount: Scalar
    initial: Float[Array, " S"]
    tau: Scalar
    regularizer: AbstractRegularizer
    parameterization: AbstractParameterization
    sees_action: bool = eqx.field(static=True)

    @classmethod
    def simultaneous(cls, leader_reward, follower_reward, kernel, **options) -> "StackelbergGame":
        """Both move at once: the follower averages over the leader's policy."""
        return _stackelberg(cls, leader_reward, follower_reward, kernel, False, **options)

    @classmethod
    def sequential(cls, leader_reward, follower_reward, kernel, **options) -> "StackelbergGame":
        """The follower sees the leader's action before it moves."""
        return _stackelberg(cls, leader_reward, follower_reward, kernel, True, **options)

    def leader_policy(self, x: Float[Array, "S L"]) -> Float[Array, "S L"]:
        """pi_x(a_l|s)."""
        return self.parameterization.policy(x)

    def follower_policy(self, policy: Float[Array, "Z A"]) -> Float[Array, "..."]:
        """pi_y(a_f|s) as ``[S, A]``, or pi_y(a_f|s, a_l) as ``[S, L, A]`` in sequential play."""
        return policy.reshape(self.leader_reward.shape) if self.sees_action else policy

    def lower(self, x: Float[Array, "S L"]) -> MDP:
        """The follower's MDP, the leader's policy averaged into reward and kernel."""
        leader = self.leader_policy(x)
        options: dict[str, Any] = dict(
            discount=self.discount, tau=self.tau, regularizer=self.regularizer
        )
        if not self.sees_action:
            reward = jnp.einsum("sl,sla->sa", leader, self.follower_reward)
            # Flat and by rows: neither this product, its transpose in a gradient, nor what reads
            # the result then copies a kernel.
            states, leads, follows = self.follower_reward.shape
            flat = self.kernel.reshape(states, leads, follows * states)
            kernel = by_rows(jnp.einsum("sl,slk->sk", leader, flat))
            kernel = kernel.reshape(states, follows, states)
            return MDP(reward, kernel, initial=self.initial, **options)
        states, leads, follows = self.follower_reward.shape
        pairs = states * leads
        # (s, a_l) -> (s', a_l'): the leader draws its next action on arrival.
        kernel = self.kernel[..., None] * leader
        return MDP(
            self.follower_reward.reshape(pairs, follows),
            kernel.reshape(pairs, follows, pairs),
            initial=(self.initial[:, None] * leader).reshape(pairs),
            **options,
        )

    def upper_reward(self, x: Float[Array, "S L"]) -> Float[Array, "Z A"]:
        """The leader's reward as the follower's MDP sees it: ``[S, A]`` or ``[S * L, A]``."""
        if self.sees_action:
            return self.leader_reward.reshape(-1, self.leader_reward.shape[-1])
        return jnp.einsum("sl,sla->sa", self.leader_policy(x), self.leader_reward)

    def upper(self, x: Float[Array, "S L"], policy, evaluation: Evaluation) -> Scalar:
        """-V_leader(rho)."""
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x: Float[Array, "S L"]) -> Float[Array, "S L"]:
        """The projection that the parameterisation asks for."""
        return self.parameterization.project(x)


def _stackelberg(
    cls,
    leader_reward,
    follower_reward,
    kernel,
    sees_action: bool,
    *,
    discount: ScalarLike,
    initial=None,
    tau: ScalarLike = 0.0,
    regularizer: AbstractRegularizer = NegativeEntropy(),
    parameterization: AbstractParameterization = Softmax(),
):
    leader_reward = as_floats("StackelbergGame", "leader_reward", leader_reward)
    follower_reward = as_floats("StackelbergGame", "follower_reward", follower_reward)
    kernel = as_floats("StackelbergGame", "kernel", kernel, dtype=follower_reward.dtype)
    if leader_reward.ndim != 3 or follower_reward.shape != leader_reward.shape:
        raise ValueError(
            f"StackelbergGame: leader_reward has shape {leader_reward.shape} and follower_reward "
            f"{follower_reward.shape}; give both as [S, leader actions, follower actions]."
        )
    states, leads, follows = leader_reward.shape
    if kernel.shape != (states, leads, follows, states):
        raise ValueError(
            f"StackelbergGame: kernel has shape {kernel.shape}; with these rewards it is "
            f"{(states, leads, follows, states)}."
        )
    # Construct both players' flattened MDPs once: their checks name a faulty entry.
    flat = kernel.reshape(states, leads * follows, states)
    options: dict[str, Any] = dict(discount=0.0, initial=initial, tau=tau, regularizer=regularizer)
    MDP(leader_reward.reshape(states, -1), flat, **options)
    checked = MDP(follower_reward.reshape(states, -1), flat, **options)
    game = cls(
        leader_reward=leader_reward,
        follower_reward=follower_reward,
        kernel=kernel,
        discount=jnp.asarray(discount, checked.reward.dtype),
        initial=checked.initial,
        tau=checked.tau,
        regularizer=checked.regularizer,
        parameterization=parameterization,
        sees_action=sees_action,
    )
    # The discount is checked where it acts: discount 1 may be legal for one player, not for both.
    game.lower(jnp.full((states, leads), 1 / leads, checked.reward.dtype))
    return game
