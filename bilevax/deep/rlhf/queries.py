"""The queries of a round: which pairs are asked about, and where their answers go."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._types import Array, Int, Key
from ..buffer import Pairs
from ..labeller import AbstractLabeller
from ..segments import Segments
from ..teacher import AbstractTeacher, Answers
from .base import RLHFState, cut
from .setup import Setup


def ask(
    setup: Setup,
    state: RLHFState,
    teacher: AbstractTeacher | AbstractLabeller,
    keys: Array,  # of three keys
    count: int,
    wait: Callable[[AbstractLabeller], None],
) -> RLHFState:
    """The state with this round's answers, to ``count`` pairs; a labeller's may come later.

    ``wait`` is called with a labeller that was asked something, before its answers are collected.
    """
    # Until there are answers of this round there are none.
    state = eqx.tree_at(lambda s: s.fresh.answers.weight, state, replace_fn=jnp.zeros_like)
    if isinstance(teacher, AbstractLabeller):
        if count:
            first, second = choose(setup, state, keys[0])
            teacher.submit(first.take(slice(0, count)), second.take(slice(0, count)))
            wait(teacher)
        for pairs in _batches(teacher.collect(), setup.most_asked):
            state = add_labels(state, pairs, jax.random.fold_in(keys[2], state.labels))
        return state
    if not count:
        return state
    first, second = choose(setup, state, keys[0])
    pairs = _answered(teacher, keys[1], first, second, jnp.asarray(count))
    return add_labels(state, pairs, keys[2])


@eqx.filter_jit
def choose(setup: Setup, state: RLHFState, key: Key) -> tuple[Segments, Segments]:
    """The pairs to ask about, ``setup.most_asked`` of them, the best candidates first."""
    cut_key, choose_key = jax.random.split(key)
    candidates = setup.candidates * setup.most_asked
    segments, _ = cut(setup, state.policy.window, cut_key, 2 * candidates)
    model = state.reward.model
    summary = model.summary(segments.observation, segments.action)
    first = jax.tree.map(lambda leaf: leaf[:candidates], summary)
    second = jax.tree.map(lambda leaf: leaf[candidates:], summary)
    index = setup.selection(
        choose_key,
        model.totals(first),
        model.totals(second),
        model.novelty(first, second),
        setup.most_asked,
    )
    return segments.take(index), segments.take(candidates + index)


@eqx.filter_jit
def add_labels(state: RLHFState, fresh: Pairs, key: Key) -> RLHFState:
    """The state with these answers (weight 0 where there is none)."""
    buffer = state.buffer.add(key, fresh.first, fresh.second, fresh.answers)
    count = jnp.sum(fresh.answers.weight > 0)
    return eqx.tree_at(
        lambda s: (s.buffer, s.fresh, s.labels), state, (buffer, fresh, state.labels + count)
    )


@eqx.filter_jit
def _answered(
    teacher: AbstractTeacher, key: Key, first: Segments, second: Segments, count: Int[Array, ""]
) -> Pairs:
    """The first ``count`` pairs with answers, the rest with weight 0: one shape for all rounds."""
    answers = teacher(key, first.reward, second.reward)
    asked = jnp.arange(answers.weight.shape[0]) < count
    return Pairs(first, second, Answers(answers.second, jnp.where(asked, answers.weight, 0)))


def _batches(answered, most: int):
    """Answers that came in, in rows of one shape."""
    for first, second, answers in answered:
        for start in range(0, answers.second.shape[0], most):
            rows = slice(start, start + most)
            part = Answers(answers.second[rows], answers.weight[rows])
            yield _padded(first.take(rows), second.take(rows), part, most)


def _padded(first: Segments, second: Segments, answers: Answers, count: int) -> Pairs:
    """Pairs in ``count`` rows, those that are missing with weight 0."""
    missing = count - answers.second.shape[0]
    pad = lambda z: jnp.pad(z, [(0, missing)] + [(0, 0)] * (z.ndim - 1))
    return jax.tree.map(pad, Pairs(first, second, answers))
