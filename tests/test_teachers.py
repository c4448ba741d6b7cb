"""Scripted teachers: what each answers by its definition, and how often it errs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevax.deep.teacher import ScriptedTeacher

KEY = jax.random.key(0)
ask = jax.jit(lambda teacher, key, first, second: teacher(key, first, second))


def rewards(*rows):
    return jnp.asarray(rows, float)


def frequencies(teacher, first, second, count=20_000):
    """How often one pair is answered "second"."""
    repeat = lambda row: jnp.broadcast_to(jnp.asarray(row, float), (count, len(row)))
    answers = ask(teacher, KEY, repeat(first), repeat(second))
    return np.asarray(answers.second)


@given(seed=st.integers(0, 10_000))
def test_the_oracle_prefers_the_larger_return_and_calls_ties_equal(seed):
    chance = np.random.default_rng(seed)
    first, second = chance.integers(-2, 3, (2, 7, 4)) * 0.1
    answers = ask(ScriptedTeacher.oracle(), KEY, jnp.asarray(first), jnp.asarray(second))
    difference = np.round(second.sum(1) - first.sum(1), 9)
    np.testing.assert_array_equal(answers.second, 0.5 + 0.5 * np.sign(difference))
    np.testing.assert_array_equal(answers.weight, 1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_the_noisy_teacher_errs_as_bradley_and_terry_say(beta):
    answers = frequencies(ScriptedTeacher.noisy(beta), [0.0, 0.5], [1.0, 0.0])
    expected = 1 / (1 + math.exp(-beta * 0.5))
    # 99.9 % of a binomial's mean lies within 3.3 standard deviations.
    assert abs(answers.mean() - expected) < 3.3 * math.sqrt(
        expected * (1 - expected) / answers.size
    )
    assert set(np.unique(answers)) == {0.0, 1.0}


def test_the_mistaken_teacher_turns_one_answer_in_ten_round_and_no_tie():
    answers = frequencies(ScriptedTeacher.mistaken(0.1), [0.0, 0.0], [1.0, 0.0])
    assert abs(answers.mean() - 0.9) < 3.3 * math.sqrt(0.09 / answers.size)
    assert np.all(frequencies(ScriptedTeacher.mistaken(0.1), [0.0, 1.0], [1.0, 0.0], 50) == 0.5)


def test_the_skipping_teacher_skips_pairs_in_which_nothing_is_worth_a_look():
    first, second = rewards([0, 0], [0, 2], [1, 1]), rewards([1, 0], [0, 0], [0, 0])
    answers = ask(ScriptedTeacher.skipping(2.0), KEY, first, second)
    np.testing.assert_array_equal(answers.weight, [0, 1, 1])
    np.testing.assert_array_equal(answers.second[1:], [0, 0])


def test_the_equating_teacher_calls_small_differences_equal():
    first, second = rewards([0, 0], [0, 0], [3, 0]), rewards([1, 0], [0, 1.5], [0, 1])
    answers = ask(ScriptedTeacher.equating(1.0), KEY, first, second)
    np.testing.assert_array_equal(answers.second, [0.5, 1, 0])


def test_the_myopic_teacher_minds_the_end_the_most():
    first, second = rewards([2, 0, 0], [4, 0, 0]), rewards([0, 0, 1], [0, 0, 1])
    # At myopia 1/2 the first step counts a quarter: 1/2 against 1, and a tie.
    answers = ask(ScriptedTeacher.myopic(0.5), KEY, first, second)
    np.testing.assert_array_equal(answers.second, [1, 0.5])
    oracle = ask(ScriptedTeacher.oracle(), KEY, first, second)
    np.testing.assert_array_equal(oracle.second, [0, 0])


def test_traits_compose_and_run_under_vmap_with_a_key_each():
    teacher = ScriptedTeacher(beta=1.0, myopia=0.9, skip=1.0, equal=0.5, mistake=0.1)
    first, second = rewards([0, 0], [2, 0]), rewards([0, 0.5], [0, 0])
    keys = jax.random.split(KEY, 300)
    answers = jax.jit(jax.vmap(teacher, (0, None, None)))(keys, first, second)
    np.testing.assert_array_equal(answers.weight, np.tile([0, 1], (300, 1)))
    odds = 1 / (1 + math.exp(0.9 * 2))
    expected = 0.9 * odds + 0.1 * (1 - odds)
    assert abs(answers.second[:, 1].mean() - expected) < 4 * math.sqrt(expected / 300)


@pytest.mark.parametrize(
    ("trait", "value"),
    [("beta", -1.0), ("myopia", 0.0), ("skip", math.nan), ("equal", math.inf), ("mistake", 1.1)],
)
def test_a_trait_out_of_range_is_named(trait, value):
    with pytest.raises(ValueError, match=f"ScriptedTeacher: {trait} is {value}"):
        ScriptedTeacher(**{trait: value})
