"""What the players of a lower level learn in a few steps, differentiable in the lower level."""

from typing import Any

import equinox as eqx
from jax import lax

from ._answer import induced_mdps, over_players
from ._evaluation import q_values
from ._mdp import per_context
from ._oracle import PolicyMirrorDescent
from ._types import PyTree


def learned_policy(lower: Any, policy: PyTree, steps: int, step_size: float) -> PyTree:
    """The policies after ``steps`` steps of mirror ascent from ``policy``.

    In each every player improves its own return against the others as they were, by one step of
    ``PolicyMirrorDescent``.
    """
    oracle = PolicyMirrorDescent(step_size)

    @per_context
    def improve(mdp, q, policy):
        response = eqx.tree_at(lambda r: r.policy, oracle.init(mdp), policy)
        return oracle.improve(mdp, q, response)

    def learn(policy, _):
        mdps = induced_mdps(lower, policy)
        q = over_players(q_values, mdps, policy)
        return over_players(improve, mdps, q, policy), None

    return lax.scan(learn, policy, length=steps)[0]
