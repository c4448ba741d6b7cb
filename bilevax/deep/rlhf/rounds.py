"""One round of a run: ask -> fit -> improve, and the line of history that it leaves.

Between fit and improve, policies that next to no answer speaks for may start again.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..labeller import AbstractLabeller
from ..reward_model import FitMetrics
from ..sampler import Summary
from ..teacher import AbstractTeacher, Answers
from .base import AbstractAlgorithm, RLHFState, agreement, holds_segment
from .fresh_start import started_again, unguided
from .queries import ask


def one_round(
    algorithm: AbstractAlgorithm,
    state: RLHFState,
    teacher: AbstractTeacher | AbstractLabeller,
    wait: Callable[[AbstractLabeller], None] = lambda labeller: None,
) -> tuple[RLHFState, dict[str, Any], str]:
    """The state after the next round, its numbers, and what went wrong (nothing: empty).

    ``wait`` is for ``ask``.

    All that is random follows from the state's key and round, so that a round is the same whether
    or not the run was interrupted before it. With a fault the state is the one before the round.
    """
    number = int(state.round)
    keys = jax.random.split(jax.random.fold_in(state.key, state.round), 7)
    metrics, before, seen, again = None, state, jnp.asarray(jnp.nan), False
    answers = state.fresh.answers
    if algorithm.asks:
        setup = algorithm.setup
        if setup.asked[number] and not bool(holds_segment(setup, state.policy.window)):
            fault = f"no episode is as long as a segment, {setup.segment} steps; give a shorter one"
            return before, {}, fault
        state = ask(setup, state, teacher, keys[:3], setup.asked[number], wait)
        steps = setup.first_fit_steps if number == 0 else setup.fit_steps
        state, metrics = algorithm.fit(state, keys[3], steps)
        if not bool(metrics.finite):
            return before, {}, metrics.fault()
        seen = agreement(setup, state, keys[5])
        answers = state.fresh.answers
        # Before the first round policies are random as they are.
        if number and setup.rare:
            again = bool(unguided(state.buffer, before.buffer.added, setup.rare))
        if again:
            state = started_again(algorithm, state, keys[6])
    state, summary = algorithm.improve(state, keys[4])
    state = eqx.tree_at(lambda s: s.round, state, state.round + 1)
    line = _line(algorithm, state, summary, metrics, seen, answers)
    line |= dict(round=number, started_again=again)
    for name in ("entropy", "predicted_reward"):
        if not math.isfinite(line[name]) and not (name == "predicted_reward" and metrics is None):
            return before, {}, f"the policy's {name.replace('_', ' ')} became NaN or infinite"
    return state, line, ""


def _line(
    algorithm: AbstractAlgorithm,
    state: RLHFState,
    summary: Summary,
    metrics: FitMetrics | None,
    seen,
    answers: Answers,
) -> dict[str, Any]:
    numbers = dict(
        steps=state.steps,
        labels=state.labels,
        episodes=summary.episodes,
        total=summary.episode_return,
        predicted_reward=summary.learned_reward,
        entropy=summary.entropy,
        correlation=seen,
        penalty_weight=state.weight,
    )
    nothing = math.nan
    if metrics is not None:
        given = jnp.sum(answers.weight > 0)
        equal = jnp.sum((answers.weight > 0) & (answers.second == 0.5))
        numbers |= dict(
            reward_accuracy=metrics.held_out_accuracy,
            reward_loss=metrics.loss,
            penalty=metrics.penalty,
            equal_share=jnp.where(given > 0, equal / jnp.maximum(given, 1), jnp.nan),
        )
    values = jax.tree.map(lambda leaf: leaf.item(), jax.device_get(numbers))
    episodes, total = values["episodes"], values.pop("total")
    values["true_return"] = total / episodes if episodes else nothing
    for name in ("reward_accuracy", "reward_loss", "penalty", "equal_share"):
        values.setdefault(name, nothing)
    if metrics is None:
        values["predicted_reward"] = nothing
    if math.isnan(values["penalty_weight"]):
        values["penalty"] = nothing
    return values
