"""Models read from elsewhere, or unrolled in time, as the arrays that an ``MDP`` is made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._transition import AbstractTransition, SuccessorList, as_transition


class Model(NamedTuple):
    """Reward, kernel, start measure and mask of an MDP."""

    reward: Any
    transition: AbstractTransition
    initial: Any
    available: Any


def gymnasium_model(env: Any) -> Model:
    """The model that a toy-text environment carries in ``env.unwrapped.P``.

    ``P[s][a]`` is a list of (probability, next state, reward, terminated). A terminated transition
    becomes missing mass, its reward collected.
    """
    env = make_environment(env)
    unwrapped = getattr(env, "unwrapped", env)
    outcomes = getattr(unwrapped, "P", None)
    if outcomes is None:
        raise ValueError(
            f"MDP.from_gymnasium: {type(unwrapped).__name__} carries no model (no attribute P); "
            "the toy-text environments FrozenLake, CliffWalking and Taxi do."
        )
    states, actions = len(outcomes), len(outcomes[0])
    reward = np.zeros((states, actions))
    rows: list[list[dict[int, float]]] = [[{} for _ in range(actions)] for _ in range(states)]
    for s, a in np.ndindex(states, actions):
        for probability, successor, gain, terminated in outcomes[s][a]:
            reward[s, a] += probability * gain
            if not terminated:
                row = rows[s][a]
                row[int(successor)] = row.get(int(successor), 0.0) + probability
    initial = getattr(unwrapped, "initial_state_distrib", None)
    return Model(reward, successor_lists(rows), initial, None)


def make_environment(env: Any) -> Any:
    """The environment itself, or the one that Gymnasium makes of a name."""
    if not isinstance(env, str):
        return env
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"bilevax: making the environment {env!r} needs Gymnasium: "
            "pip install 'bilevax[gymnasium]', or give the environment itself."
        ) from error
    return gymnasium.make(env)


def successor_lists(rows: Sequence[Sequence[dict[int, float]]]) -> SuccessorList:
    """Successor lists padded to the longest, from ``rows[s][a] = {next state: probability}``."""
    width = max(1, max(len(row) for actions in rows for row in actions))
    next_state = np.zeros((len(rows), len(rows[0]), width), int)
    probability = np.zeros(next_state.shape)
    for s, actions in enumerate(rows):
        for a, row in enumerate(actions):
            next_state[s, a, : len(row)] = list(row.keys())
            probability[s, a, : len(row)] = list(row.values())
    return SuccessorList(next_state, probability)


def npz_model(path: str | Path) -> tuple[Model, dict[str, jax.Array]]:
    """The model in an .npz file, and the arrays ``discount`` and ``tau`` where it holds them."""
    with np.load(path) as file:
        arrays = dict(file)
    known = {"reward", "transition", "next_state", "probability", "discount", "initial", "tau"}
    known.add("available")
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise ValueError(
            f"MDP.from_npz: {path} holds {', '.join(unknown)}; the names read are "
            f"{', '.join(sorted(known))}."
        )
    for name in ("reward",) if "transition" in arrays else ("reward", "next_state", "probability"):
        if name not in arrays:
            or_dense = " (or transition as one array [S, A, S])" if name != "reward" else ""
            raise ValueError(
                f"MDP.from_npz: {path} holds no array named {name}{or_dense}; "
                f"it holds {', '.join(sorted(arrays)) or 'nothing'}."
            )
    if "transition" in arrays:
        if "probability" in arrays or "next_state" in arrays:
            raise ValueError(
                f"MDP.from_npz: {path} holds transition as well as next_state or probability; "
                "keep one form of the kernel."
            )
        transition = as_transition(arrays["transition"])
    else:
        transition = SuccessorList(arrays["next_state"], arrays["probability"])
    numbers = {name: jnp.asarray(arrays[name]) for name in ("discount", "tau") if name in arrays}
    model = Model(arrays["reward"], transition, arrays.get("initial"), arrays.get("available"))
    return model, numbers


def unrolled_model(
    reward: Any, transition: Any, horizon: int, initial: Any, available: Any
) -> Model:
    """The model on (time, state), numbered t * S + s, that ends after ``horizon`` steps.

    ``reward`` is ``[S, A]`` or ``[T, S, A]``, the kernel and ``available`` likewise.
    """
    if horizon < 1:
        raise ValueError(f"MDP.finite_horizon: horizon is {horizon}; give at least 1 step.")
    kernel = as_transition(transition)
    states, actions = kernel.shape
    reward = jnp.asarray(reward)
    if reward.shape not in ((states, actions), (horizon, states, actions)):
        raise ValueError(
            f"MDP.finite_horizon: reward has shape {reward.shape}; give {(states, actions)}, or "
            f"{(horizon, states, actions)} for rewards that change with time."
        )
    next_state, probability = _as_lists(kernel)
    if probability.shape[:-3] not in ((), (horizon,)):
        raise ValueError(
            f"MDP.finite_horizon: the kernel is given for {probability.shape[0]} times; give one "
            f"kernel, or one for each of the {horizon} steps."
        )
    shape = (horizon, *probability.shape[-3:])
    later = jnp.arange(1, horizon + 1).reshape(-1, 1, 1, 1)
    last = later == horizon
    # Nothing follows the last step: its entries carry no mass and point at any state.
    to = jnp.where(last, 0, states * later + next_state)
    weight = jnp.where(last, 0, jnp.broadcast_to(probability, shape))
    flat = (horizon * states, actions)
    start = jnp.full(states, 1 / states) if initial is None else jnp.asarray(initial)
    if start.shape != (states,):
        raise ValueError(
            f"MDP.finite_horizon: initial has shape {start.shape}; it is a measure over the "
            f"{states} states at time 0."
        )
    if available is not None:
        available = jnp.broadcast_to(jnp.asarray(available), shape[:-1]).reshape(flat)
    return Model(
        jnp.broadcast_to(reward, shape[:-1]).reshape(flat),
        SuccessorList(to.reshape(*flat, -1), weight.reshape(*flat, -1)),
        jnp.zeros((horizon, states), start.dtype).at[0].set(start).reshape(-1),
        available,
    )


def _as_lists(kernel: AbstractTransition) -> tuple[jax.Array, jax.Array]:
    if isinstance(kernel, SuccessorList):
        return kernel.next_state, kernel.probability
    (probability,) = jax.tree.leaves(kernel)
    everywhere = jnp.arange(probability.shape[-1])
    return jnp.broadcast_to(everywhere, probability.shape), probability
