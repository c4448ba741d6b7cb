"""How a lower level answers x: the best response of an MDP, the equilibrium of a zero-sum game.

A lower level is an ``MDP``, a ``ZeroSumGame``, a ``MarkovGame``, or a tuple of these, independent
of each other. Solvers ask for its players' induced MDPs, for its answer pi*(x) and for that
answer's derivative; what differs between an MDP and a game is said here and nowhere else.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._equilibrium import (
    Equilibrium,
    ShapleyNewton,
    differentiable_equilibrium,
    first_equilibrium,
    solve_game,
)
from ._evaluation import evaluate
from ._game import MarkovGame, ZeroSumGame
from ._mdp import MDP, action_values, greedy_policy, per_context, soft_maximum
from ._oracle import AbstractOracle, Response, respond
from ._penalty import is_mdp
from ._regularizer import NegativeEntropy, Unregularized
from ._types import Array, Bool, PyTree

_ORACLE = ShapleyNewton()


def levels(lower: Any) -> tuple[Any, ...]:
    """The independent lower levels: one, or those of a tuple."""
    return lower if isinstance(lower, tuple) else (lower,)


def induced_mdps(lower: Any, policy: PyTree = None) -> PyTree[MDP]:
    """The MDPs that the players face, the others playing ``policy`` (uniform by default)."""
    if not isinstance(lower, tuple):
        return lower.induced_mdps(policy)
    policies = [None] * len(lower) if policy is None else policy
    return tuple(level.induced_mdps(p) for level, p in zip(lower, policies, strict=True))


def over_players(function, mdps: PyTree[MDP], *trees: PyTree) -> PyTree:
    """``function(mdp, ...)`` for every player, in the tree structure of the players."""
    return jax.tree.map(function, mdps, *trees, is_leaf=is_mdp)


def interactive(lower: Any) -> bool:
    """Whether some player's best response depends on the policies of others."""
    return any(not isinstance(level, MDP) for level in levels(lower))


def has_answer(lower: Any) -> bool:
    """Whether pi* is unique and computed: not for n players, nor for games with tau = 0."""
    return all(_solvable(level) for level in levels(lower))


def _solvable(level):
    if isinstance(level, ZeroSumGame):
        return isinstance(level.regularizer, NegativeEntropy)
    return not isinstance(level, MarkovGame)


def first_equilibria(lower: Any) -> tuple[Equilibrium | None, ...]:
    """Cold starts of the games among the levels; an MDP starts from its response."""
    return tuple(
        first_equilibrium(level) if isinstance(level, ZeroSumGame) and has_answer(level) else None
        for level in levels(lower)
    )


def solve_lower(
    oracle: AbstractOracle,
    lower: Any,
    responses: PyTree[Response],
    equilibria: tuple[Equilibrium | None, ...],
) -> tuple[PyTree[Response], tuple[Equilibrium | None, ...], Bool[Array, ""]]:
    """The answer of every level, from warm starts: responses of MDPs, equilibria of games.

    Also whether all were found to tolerance.
    """
    check_answer(lower)

    def one(level, response):
        return respond(oracle, level, response) if isinstance(level, MDP) else response

    parts = zip(levels(lower), per_level(lower, responses), strict=True)
    solved = tuple(one(*part) for part in parts)
    equilibria, converged = solve_games(lower, equilibria)
    for level, response in zip(levels(lower), solved, strict=True):
        if isinstance(level, MDP):
            converged &= jnp.all(response.converged)
    return as_lower(lower, solved), equilibria, converged


def solve_games(
    lower: Any, equilibria: tuple[Equilibrium | None, ...]
) -> tuple[tuple[Equilibrium | None, ...], Bool[Array, ""]]:
    """The equilibria of the games among the levels, and whether all were found."""
    converged, found = jnp.asarray(True), []
    for level, warm in zip(levels(lower), equilibria, strict=True):
        found.append(None if isinstance(level, MDP) else solve_game(level, _ORACLE, warm))
        if found[-1] is not None:
            converged &= found[-1].converged
    return tuple(found), converged


def answer_policy(
    lower: Any, responses: PyTree[Response], equilibria: tuple[Equilibrium | None, ...]
) -> PyTree:
    """pi* of every level, as ``solve_lower`` found it."""

    def one(level, response, equilibrium):
        return response.policy if isinstance(level, MDP) else equilibrium.policy

    parts = zip(levels(lower), per_level(lower, responses), equilibria, strict=True)
    return as_lower(lower, tuple(one(*part) for part in parts))


def differentiable_answer(
    lower: Any, responses: PyTree[Response], equilibria: tuple[Equilibrium | None, ...]
) -> PyTree:
    """pi* of every level, differentiable in the level, from what ``solve_lower`` found."""

    def one(level, response, equilibrium):
        if isinstance(level, MDP):
            return differentiable_policy(level, response)
        return differentiable_equilibrium(level, equilibrium)

    parts = zip(levels(lower), per_level(lower, responses), equilibria, strict=True)
    return as_lower(lower, tuple(one(*part) for part in parts))


def check_answer(lower: Any) -> None:
    """``ValueError`` where a level's answer is not unique, so that F(x) = f(x, pi*_x) is none."""
    for level in levels(lower):
        if isinstance(level, MarkovGame):
            raise ValueError(
                "hypergradient: the lower level is a MarkovGame, whose equilibria need not be "
                "unique, so pi*_x is no function of x; use PBRL, or a ZeroSumGame."
            )
        if not _solvable(level):
            raise ValueError(
                "hypergradient: the lower level is a ZeroSumGame with tau = 0 or another "
                "regularizer than NegativeEntropy; its equilibrium has no derivative here: use "
                "PBRL, or give it entropy and a positive tau."
            )


def differentiable_policy(mdp: MDP, response: Response) -> Array:
    """pi*(mdp), differentiable in the MDP by one adjoint solve (implicit differentiation).

    V* + (I - discount P_pi*)^-1 (T V* - V*) is one Newton step from the fixed point: it does not
    move the value, and its derivative is that of the fixed point. tau > 0 is needed: the greedy
    policy of an unregularised MDP has no derivative.
    """
    if isinstance(mdp.regularizer, Unregularized):
        raise ValueError(
            "ImplicitGradient: tau is 0, where the best response has no derivative; "
            "give the lower level a positive tau or use the value penalty."
        )

    @per_context
    def one(mdp, response):
        backup = soft_maximum(mdp, action_values(mdp, response.values))
        held = lax.stop_gradient(mdp)
        system = evaluate(held, response.policy, response.inverse).system
        values = response.values + system.solve(backup - response.values)
        return greedy_policy(mdp, action_values(mdp, values))

    return one(mdp, lax.stop_gradient(response))


def per_level(lower: Any, trees: PyTree) -> tuple[PyTree, ...]:
    """A tree over the players as one tree per level."""
    return trees if isinstance(lower, tuple) else (trees,)


def as_lower(lower: Any, parts: tuple[PyTree, ...]) -> PyTree:
    """One tree per level as a tree over the players."""
    return parts if isinstance(lower, tuple) else parts[0]
