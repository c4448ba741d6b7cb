"""Regularised Markov decision processes, and one step of them.

    V(s)   = <pi(.|s), Q(s,.)> - tau h(pi(.|s))
    Q(s,a) = r(s,a) + discount sum_s' P(s'|s,a) V(s')

(Shen, Yang and Chen 2025; spec (M1), (M2).) Everything here is differentiable in the reward and in
the kernel, and works under ``jit`` and ``vmap``. An ``MDP`` whose arrays carry a leading axis N is
N independent MDPs (contexts, or followers who share a graph); arrays without that axis are shared.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._mdp_from import gymnasium_model, npz_model, unrolled_model
from ._regularizer import AbstractRegularizer, NegativeEntropy, Unregularized
from ._transition import AbstractTransition, as_floats, as_transition
from ._types import Array, Bool, Float, PyTree, ScalarLike, concrete
from ._undiscounted import reason_against_discount_one

_RANK = dict(
    reward=2, array=3, next_state=3, probability=3, discount=0, initial=1, tau=0, available=2
)


class MDP(eqx.Module):
    """A Markov decision process {S, A, r, P, discount, rho, tau h}.

    Arguments:
        reward: r(s,a), shape ``[S, A]``, or ``[N, S, A]`` for N contexts. Integers become floats.
        transition: P(s'|s,a) as an array ``[S, A, S]``, a ``DenseTransition`` or a
            ``SuccessorList``. Rows may sum to less than one: the rest is termination.
        discount: in [0, 1]. 1 is legal where some policy terminates from every state and every
            policy that never does loses (so that the regularised value is finite).
        initial: rho, any nonnegative measure over states (probabilities, or demand), shape ``[S]``
            or ``[N, S]``. Uniform probability by default; N contexts then carry 1/N each. One of
            shape ``[S]`` counts in full for each of N contexts: two equal ones double every return.
            To weigh contexts, give ``[N, S]``, each start distribution times its context's share.
        tau: weight of the regulariser, >= 0. At 0 the MDP is unregularised.
        regularizer: ``NegativeEntropy()`` (default) or ``SquaredNorm()``.
        available: which actions exist, boolean ``[S, A]``; ``None`` means all.

    Raises ``ValueError`` on wrong shapes, and on wrong values where they can be looked at (outside
    ``jit``).
    """

    reward: Float[Array, "*N S A"]
    transition: AbstractTransition
    discount: Float[Array, "*#n"]
    initial: Float[Array, "*M S"]
    regularizer: AbstractRegularizer
    tau: Float[Array, "*#m"]
    available: Bool[Array, "*K S A"] | None

    def __init__(
        self,
        reward,
        transition,
        *,
        discount: ScalarLike | Float[Array, " N"],
        initial=None,
        tau: ScalarLike | Float[Array, " N"] = 0.0,
        regularizer: AbstractRegularizer = NegativeEntropy(),
        available=None,
    ):
        self.reward = as_floats("MDP", "reward", reward)
        dtype = self.reward.dtype
        self.transition = as_transition(transition, dtype)
        if self.reward.ndim not in (2, 3) or self.reward.shape[-2:] != self.transition.shape:
            raise ValueError(
                f"MDP: reward has shape {self.reward.shape} but the transition is over (states, "
                f"actions) = {self.transition.shape}; give reward as [S, A] (or [N, S, A])."
            )
        if initial is None:
            mass = 1 / self.reward[..., 0].size
            initial = jnp.full(self.reward.shape[:-1], mass, dtype)
        self.discount = jnp.asarray(discount, dtype)
        self.initial = jnp.asarray(initial, dtype)
        unregularized = concrete(tau) and not np.any(np.asarray(tau))
        self.regularizer = Unregularized() if unregularized else regularizer
        self.tau = jnp.asarray(tau, dtype)
        self.available = None if available is None else jnp.asarray(available, bool)
        _check_shapes(self)
        if concrete(jax.tree.leaves(self)):
            _check_values(self)

    @classmethod
    def finite_horizon(
        cls,
        reward,
        transition,
        horizon: int,
        *,
        discount: ScalarLike = 1.0,
        initial=None,
        tau: ScalarLike = 0.0,
        regularizer: AbstractRegularizer = NegativeEntropy(),
        available=None,
    ) -> "MDP":
        """The MDP that ends after ``horizon`` steps, on (time, state) pairs numbered t * S + s.

        Policies and values are those of each time: ``values.reshape(horizon, S)``.

        Arguments:
            reward: ``[S, A]``, or ``[T, S, A]`` with T = horizon where it changes with time.
            transition: as in ``MDP``, with a leading axis T where it changes with time. A dense
                array keeps all S successors; give a ``SuccessorList`` where few are possible.
            horizon: the number of steps.
            discount: in [0, 1].
            tau: weight of the regulariser, >= 0.
            regularizer: ``NegativeEntropy()`` or ``SquaredNorm()``.
            initial: rho at time 0, shape ``[S]``; uniform probability by default.
            available: ``[S, A]``, or ``[T, S, A]``.
        """
        model = unrolled_model(reward, transition, horizon, initial, available)
        return cls(**model._asdict(), discount=discount, tau=tau, regularizer=regularizer)

    @classmethod
    def from_gymnasium(
        cls,
        env,
        *,
        discount: ScalarLike,
        tau: ScalarLike = 0.0,
        regularizer: AbstractRegularizer = NegativeEntropy(),
    ) -> "MDP":
        """The exact model of a Gymnasium toy-text environment, such as ``"FrozenLake-v1"``.

        Reads ``env.unwrapped.P`` and ``initial_state_distrib``. A terminated transition collects
        its reward and ends: its probability is missing from the row. Time limits are left out.

        Arguments:
            env: an environment, or the name of one (which needs ``bilevax[gymnasium]``).
            discount: in [0, 1]; see ``MDP`` on 1.
            tau: weight of the regulariser, >= 0.
            regularizer: ``NegativeEntropy()`` or ``SquaredNorm()``.

        Raises ``ValueError`` where the environment carries no model.
        """
        model = gymnasium_model(env)
        return cls(**model._asdict(), discount=discount, tau=tau, regularizer=regularizer)

    @classmethod
    def from_npz(
        cls,
        path: str | Path,
        *,
        discount: ScalarLike | None = None,
        tau: ScalarLike | None = None,
        regularizer: AbstractRegularizer = NegativeEntropy(),
    ) -> "MDP":
        """The MDP in an .npz file of plain arrays, named as the arguments of ``MDP``.

        ``reward``, and either ``transition`` ([S, A, S]) or ``next_state`` and ``probability``
        ([S, A, B]); optionally ``discount``, ``tau``, ``initial`` and ``available``. A discount or
        tau given here comes before the file's; without either tau is 0.
        """
        model, numbers = npz_model(path)
        discount = numbers.get("discount") if discount is None else discount
        tau = numbers.get("tau", 0.0) if tau is None else tau
        if discount is None:
            raise ValueError(
                f"MDP.from_npz: {path} holds no array named discount; save one, or give discount."
            )
        return cls(**model._asdict(), discount=discount, tau=tau, regularizer=regularizer)

    @property
    def num_states(self) -> int:
        return self.reward.shape[-2]

    @property
    def num_actions(self) -> int:
        return self.reward.shape[-1]

    @property
    def stacked(self) -> bool:
        """Whether a leading axis of contexts is present."""
        return self.reward.ndim == 3

    def induced_mdps(self, policy: Float[Array, "*N S A"] | None = None) -> "MDP":
        """The MDP each player faces, the others' policies averaged out: with one player, itself."""
        return self

    def uniform_policy(self) -> Float[Array, "*N S A"]:
        """Every available action with the same probability, shape of ``reward``."""
        if self.available is None:
            return jnp.full_like(self.reward, 1 / self.num_actions)
        mask = jnp.broadcast_to(self.available, self.reward.shape).astype(self.reward.dtype)
        return mask / jnp.sum(mask, axis=-1, keepdims=True)


def per_context(function: Callable) -> Callable:
    """``function(mdp, *trees)`` mapped over the leading axis of a stacked MDP and of each tree.

    An ``MDP`` without that axis is passed through; an array shared by all contexts is not copied.
    On a CPU contexts run one after the other (each stays in cache, and a branch taken by one is not
    paid by all); on an accelerator side by side.
    """

    @functools.wraps(function)
    def mapped(mdp: MDP, *trees: PyTree):
        if not mdp.stacked:
            return function(mdp, *trees)
        paths, structure = jax.tree_util.tree_flatten_with_path(mdp)
        own = [leaf.ndim > _RANK[path[-1].name] for path, leaf in paths]

        def one(arguments):
            rows, trees = arguments
            rows = iter(rows)
            leaves = [
                next(rows) if is_own else leaf for is_own, (_, leaf) in zip(own, paths, strict=True)
            ]
            return function(jax.tree.unflatten(structure, leaves), *trees)

        rows = [leaf for is_own, (_, leaf) in zip(own, paths, strict=True) if is_own]
        sequential = jax.default_backend() == "cpu"
        return (jax.lax.map if sequential else _side_by_side)(one, (rows, trees))

    return mapped


def _side_by_side(function, arguments):
    return jax.vmap(function)(arguments)


@per_context
def action_values(mdp: MDP, values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """r(s,a) + discount sum_s' P(s'|s,a) v(s'): one step ahead of any v, shape ``[S, A]``."""
    return mdp.reward + mdp.discount * mdp.transition.expected_next(values)


def regularization(mdp: MDP, policy: Float[Array, "*N S A"]) -> Float[Array, "*N S"]:
    """tau h(pi(.|s)) in every state, shape ``[S]``: what the policy pays at each step."""
    tau = mdp.tau[..., None] if mdp.tau.ndim else mdp.tau
    return tau * mdp.regularizer.value(policy)


@per_context
def greedy_policy(mdp: MDP, q: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """argmax over pi of <pi, q_s> - tau h(pi) in every state, shape ``[S, A]``."""
    return mdp.regularizer.greedy(q, mdp.tau, mdp.available)


@per_context
def soft_maximum(mdp: MDP, q: Float[Array, "S A"]) -> Float[Array, " S"]:
    """max over pi of <pi, q_s> - tau h(pi): after ``action_values``, the Bellman operator."""
    return mdp.regularizer.conjugate(q, mdp.tau, mdp.available)


def _check_shapes(mdp: MDP) -> None:
    shape = mdp.reward.shape
    contexts = shape[:-2]

    def check(name, array, base):
        if array.shape[-len(base) :] != base or array.shape[: -len(base)] not in ((), contexts):
            raise ValueError(
                f"MDP: {name} has shape {array.shape}; with reward of shape {shape} it is "
                f"{base}" + (f" or {contexts + base}." if contexts else ".")
            )

    check("initial", mdp.initial, shape[-2:-1])
    if mdp.available is not None:
        check("available", mdp.available, shape[-2:])
    for name, scalar in (("discount", mdp.discount), ("tau", mdp.tau)):
        if scalar.shape not in ((), contexts):
            raise ValueError(f"MDP: {name} has shape {scalar.shape}; give one number.")


def _check_values(mdp: MDP) -> None:
    reward, discount, tau, rho = (
        np.asarray(array) for array in (mdp.reward, mdp.discount, mdp.tau, mdp.initial)
    )
    if mdp.available is not None:
        empty = ~np.asarray(mdp.available).any(-1)
        if empty.any():
            where = [int(i) for i in np.argwhere(empty)[0]]
            raise ValueError(
                f"MDP: available has no action in state {where[-1]}; every state needs one."
            )
    if not np.isfinite(reward).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(reward))[0])
        raise ValueError(
            f"MDP: reward{list(where)} is {reward[where]}; give finite rewards "
            "(mask actions that do not exist with available)."
        )
    if not ((discount >= 0) & (discount <= 1)).all():
        raise ValueError(f"MDP: discount is {discount}; it must lie in [0, 1].")
    if not ((tau >= 0) & np.isfinite(tau)).all():
        raise ValueError(f"MDP: tau is {tau}; it must be finite and at least 0.")
    if (tau == 0).any() and not isinstance(mdp.regularizer, Unregularized):
        raise ValueError(
            f"MDP: tau is {tau}; contexts with and without a regulariser need MDPs of their own "
            "(a lower level may be a tuple of them)."
        )
    if not (np.isfinite(rho) & (rho >= 0)).all():
        raise ValueError(
            f"MDP: initial has the entry {rho[~(np.isfinite(rho) & (rho >= 0))][0]}; "
            "a start measure is finite and not negative."
        )
    _check_undiscounted(mdp)


def _context(mdp: MDP, n: int) -> MDP:
    def of(path, leaf):
        return np.asarray(leaf)[n] if leaf.ndim > _RANK[path[-1].name] else leaf

    return jax.tree_util.tree_map_with_path(of, mdp)


def _check_undiscounted(mdp: MDP) -> None:
    discounts = np.atleast_1d(mdp.discount)
    if not (discounts == 1).any():
        return
    for n in range(mdp.reward.shape[0] if mdp.stacked else 1):
        if discounts[n % discounts.size] < 1:
            continue
        own = _context(mdp, n)
        reason = reason_against_discount_one(
            np.asarray(own.reward, float),
            own.transition,
            float(own.tau),
            own.regularizer,
            None if own.available is None else np.asarray(own.available),
        )
        if reason is not None:
            where = f" in context {n}" if mdp.stacked else ""
            raise ValueError(f"MDP: discount is 1{where}, but {reason}.")
