"""Policies that next to no answer speaks for."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rlhf import ALGORITHM, SETUP

from bilevax.deep.buffer import Pairs, PreferenceBuffer
from bilevax.deep.rlhf.fresh_start import started_again, unguided
from bilevax.deep.rlhf.outcome import labelled_pairs
from bilevax.deep.rlhf.run import run_rlhf
from bilevax.deep.segments import Segments
from bilevax.deep.teacher import Answers, ScriptedTeacher


def answers(*, equal=0, preferring=0, skipped=0):
    """So many of each."""
    second = [0.5] * equal + [1.0] * preferring + [0.0] * skipped
    weight = [1.0] * (equal + preferring) + [0.0] * skipped
    return Answers(jnp.asarray(second, jnp.float32), jnp.asarray(weight, jnp.float32))


def pairs(**own):
    """Pairs of segments of one step with these answers."""
    given = answers(**own)
    blank = jnp.zeros((given.second.size, 1))
    segment = Segments(blank, blank.astype(int), blank, blank)
    return Pairs(segment, segment, given)


PAIR = {kind: pairs(**{kind: 1}) for kind in ("equal", "preferring", "skipped")}


@eqx.filter_jit
def added(buffer, pair):
    """The buffer with this pair: one compiled program, however many pairs come in."""
    return buffer.add(jax.random.key(0), pair.first, pair.second, pair.answers)


@pytest.mark.parametrize(
    ("latest", "earlier", "capacity", "expected"),
    [
        (dict(equal=5), dict(equal=35, preferring=1), 50, True),
        (dict(equal=5, skipped=3), dict(equal=35, preferring=1), 50, True),
        (dict(equal=4, preferring=1), dict(equal=35), 50, False),
        (dict(skipped=5), dict(equal=35, preferring=1), 50, False),
        (dict(equal=5), dict(equal=14, preferring=1), 50, False),
        (dict(equal=5), dict(equal=14, preferring=1, skipped=30), 50, False),
        (dict(equal=5), dict(equal=35), 50, False),
        (dict(equal=30), dict(equal=35, preferring=2), 60, True),
        (dict(equal=30), dict(equal=35, preferring=2), 20, False),  # none of them is left
    ],
)
def test_a_round_of_equal_answers_after_hardly_any_other_guides_no_policy(
    latest, earlier, capacity, expected
):
    buffer = PreferenceBuffer.empty(capacity, PAIR["equal"].first)
    for part in (earlier, latest):
        before = buffer.added
        for kind, count in part.items():
            for _ in range(count):
                buffer = added(buffer, PAIR[kind])
    assert bool(unguided(buffer, before, 0.05)) is expected


@pytest.mark.slow
def test_policies_start_again_where_they_stand():
    with jax.enable_x64(False):
        state = ALGORITHM.init(jax.random.key(0))
        weight = lambda s: s.fresh.answers.weight
        state = eqx.tree_at(weight, state, replace_fn=jnp.ones_like)
        fresh = started_again(ALGORITHM, state, jax.random.key(1))
        other = started_again(ALGORITHM, state, jax.random.key(2))
    agents = lambda state: (state.policy.agent, state.tracker.agent)
    changed = lambda state: (*agents(state), weight(state))
    back = eqx.tree_at(changed, fresh, changed(state))
    assert not jnp.any(weight(fresh))
    plain = lambda state: eqx.tree_at(lambda s: s.key, state, jax.random.key_data(state.key))
    jax.tree.map(np.testing.assert_array_equal, plain(back), plain(state))
    policy, tracker = agents(fresh)
    assert not eqx.tree_equal(policy.network, tracker.network)
    for one, before, another in zip(agents(fresh), agents(state), agents(other), strict=True):
        assert not eqx.tree_equal(one.network, before.network)
        assert not eqx.tree_equal(one.network, another.network)


@pytest.mark.slow
def test_a_run_starts_again_while_its_answers_teach_nothing_and_says_so(tmp_path):
    algorithm = dataclasses.replace(
        ALGORITHM, setup=dataclasses.replace(SETUP, capacity=40, rare=0.05)
    )
    known = labelled_pairs(run_rlhf(ALGORITHM, 1, episodes=1)).take(jnp.arange(24) % 6)
    known = eqx.tree_at(lambda pairs: pairs.answers, known, answers(equal=23, preferring=1))
    own: dict[str, Any] = dict(teacher=ScriptedTeacher.equating(1e9), episodes=1, workers=1)
    run = run_rlhf(algorithm, 1, known=known, **own)
    # The first policy is random as it is.
    assert [line["started_again"] for line in run.history] == [False, True, True]
    none = run_rlhf(algorithm, 1, **own)
    assert [line["started_again"] for line in none.history] == [False] * 3

    def stop(progress):
        if progress.rounds:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rlhf(algorithm, 1, known=known, directory=tmp_path, on_progress=stop, **own)
    resumed = run_rlhf(algorithm, 1, known=known, directory=tmp_path, resume=True, **own)
    np.testing.assert_array_equal(resumed.seeds[0].returns, run.seeds[0].returns)
    assert eqx.tree_equal(resumed.seeds[0].state.policy.agent, run.seeds[0].state.policy.agent)
