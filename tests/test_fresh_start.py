"""Policies that no answer speaks for."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rlhf import ALGORITHM, SETUP

from bilevax.deep.rlhf import DRLHF
from bilevax.deep.rlhf.fresh_start import started_again, unguided
from bilevax.deep.rlhf.outcome import labelled_pairs
from bilevax.deep.rlhf.run import run_rlhf
from bilevax.deep.teacher import Answers, ScriptedTeacher


def answers(*, equal, preferring, skipped=0):
    """So many of each."""
    second = [0.5] * equal + [1.0] * preferring + [0.0] * skipped
    weight = [1.0] * (equal + preferring) + [0.0] * skipped
    return Answers(jnp.asarray(second, jnp.float32), jnp.asarray(weight, jnp.float32))


@pytest.mark.parametrize(
    ("fresh", "known", "expected"),
    [
        (dict(equal=5, preferring=0), dict(equal=39, preferring=1), True),
        (dict(equal=5, preferring=0, skipped=3), dict(equal=39, preferring=1), True),
        (dict(equal=4, preferring=1), dict(equal=39, preferring=1), False),
        (dict(equal=0, preferring=0, skipped=5), dict(equal=39, preferring=1), False),
        (dict(equal=5, preferring=0), dict(equal=19, preferring=1), False),
        (dict(equal=5, preferring=0), dict(equal=19, preferring=1, skipped=30), False),
        (dict(equal=5, preferring=0), dict(equal=40, preferring=0), False),
    ],
)
def test_a_round_of_equal_answers_after_hardly_any_other_guides_no_policy(fresh, known, expected):
    assert bool(unguided(answers(**fresh), answers(**known))) is expected


@pytest.mark.slow
def test_policies_start_again_where_they_stand():
    with jax.enable_x64(False):
        state = ALGORITHM.init(jax.random.key(0))
        fresh = started_again(ALGORITHM, state, jax.random.key(1))
        other = started_again(ALGORITHM, state, jax.random.key(2))
    agents = lambda state: (state.policy.agent, state.tracker.agent)
    back = eqx.tree_at(agents, fresh, agents(state))
    plain = lambda state: eqx.tree_at(lambda s: s.key, state, jax.random.key_data(state.key))
    jax.tree.map(np.testing.assert_array_equal, plain(back), plain(state))
    assert not eqx.tree_equal(fresh.policy.agent.network, fresh.tracker.agent.network)
    for one, before, another in zip(agents(fresh), agents(state), agents(other), strict=True):
        assert not eqx.tree_equal(one.network, before.network)
        assert not eqx.tree_equal(one.network, another.network)


@pytest.mark.slow
def test_a_run_starts_again_while_its_answers_teach_nothing_and_says_so():
    setup = dataclasses.replace(SETUP, capacity=40)
    known = labelled_pairs(run_rlhf(DRLHF(setup), 1, episodes=1))
    rows = jnp.arange(24) % 6
    one = eqx.tree_at(
        lambda pairs: pairs.answers, known.take(rows), answers(equal=23, preferring=1)
    )
    all_equal = ScriptedTeacher.equating(1e9)
    lines = lambda **own: run_rlhf(DRLHF(setup), 1, teacher=all_equal, episodes=1, **own).history
    assert [line["started_again"] for line in lines(known=one)] == [True] * 3
    assert [line["started_again"] for line in lines()] == [False] * 3
