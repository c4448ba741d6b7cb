"""Segments against a loop over every step: none crosses an end or holds a fake step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevax.deep.segments import Segments, draw_segments, valid_starts

T, N, LENGTH = 11, 3, 4
starts_of = jax.jit(valid_starts, static_argnums=3)
draw = jax.jit(draw_segments, static_argnums=(6, 7))


def fits(events, start, env, length):
    """The definition, step by step."""
    terminated, truncated, fake = events
    for step in range(start, start + length):
        ends = terminated[step, env] or truncated[step, env]
        if fake[step, env] or (ends and step < start + length - 1):
            return False
    return True


def rollout(seed, share=0.15):
    chance = np.random.default_rng(seed)
    return [jnp.asarray(chance.random((T, N)) < share) for _ in range(3)]


@given(seed=st.integers(0, 10_000), length=st.sampled_from([1, 4, T]))
def test_a_start_is_valid_exactly_where_no_step_but_the_last_ends_and_none_is_fake(seed, length):
    events = [np.asarray(event) for event in rollout(seed)]
    valid = np.asarray(starts_of(*events, length))
    assert valid.shape == (T - length + 1, N)
    for start, env in np.ndindex(valid.shape):
        assert valid[start, env] == fits(events, start, env, length)


@given(seed=st.integers(0, 10_000))
def test_no_segment_drawn_crosses_an_end_and_none_repeats_while_enough_are_valid(seed):
    valid = starts_of(*rollout(seed), LENGTH)
    serial = jnp.arange(T * N).reshape(T, N)
    segments, enough = draw(
        jax.random.key(seed), serial, serial % 5, -1.0 * serial, 2.0 * serial, valid, LENGTH, 6
    )
    assert segments.count == 6 and segments.length == LENGTH
    assert bool(enough) == (int(valid.sum()) >= 6)
    if not valid.any():
        return
    steps = np.asarray(segments.observation)
    time, env = steps // N, steps % N
    assert np.all(np.diff(time, axis=1) == 1) and np.all(env == env[:, :1])
    for start, one in zip(time[:, 0], env[:, 0], strict=True):
        assert valid[start, one]
    np.testing.assert_array_equal(segments.action, steps % 5)
    np.testing.assert_array_equal(segments.log_prob, -steps)
    np.testing.assert_array_equal(segments.reward, 2 * steps)
    assert len(set(steps[:, 0].tolist())) == min(6, int(valid.sum()))


def test_every_valid_start_is_drawn_equally_often():
    events = rollout(3)
    valid = starts_of(*events, LENGTH)
    serial = jnp.arange(T * N).reshape(T, N)
    zeros = jnp.zeros((T, N))
    one = lambda key: draw_segments(key, serial, serial, zeros, zeros, valid, LENGTH, 2)[0]
    draws = 4000
    first = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws)).observation[:, :, 0]
    counts = np.bincount(np.asarray(first).ravel(), minlength=T * N)
    total = int(valid.sum())
    where = np.zeros((T, N), bool)
    where[: valid.shape[0]] = valid
    assert np.all(counts[~where.ravel()] == 0)
    # Each start is in a draw of two with probability 2 / total: five standard deviations.
    share = 2 / total
    slack = 5 * np.sqrt(draws * share * (1 - share))
    np.testing.assert_allclose(counts[where.ravel()], draws * share, atol=slack)


@pytest.mark.slow
def test_the_drawn_observation_keeps_its_dtype_and_shape():
    bits = jnp.ones((T, N, 2, 2, 1), bool)
    events = jnp.zeros((T, N), bool)
    valid = valid_starts(events, events, events, LENGTH)
    whole = jnp.zeros((T, N), int)
    segments, enough = draw_segments(
        jax.random.key(0), bits, whole, 1.0 * whole, 1.0 * whole, valid, LENGTH, 5
    )
    assert enough and segments.observation.dtype == bool
    assert segments.observation.shape == (5, LENGTH, 2, 2, 1)
    two = segments.take(jnp.asarray([4, 0]))
    assert isinstance(two, Segments) and two.count == 2


@pytest.mark.parametrize("length", [0, T + 1])
def test_a_length_that_no_rollout_holds_is_refused(length):
    events = jnp.zeros((T, N), bool)
    with pytest.raises(ValueError, match=f"length is {length} for a rollout of {T} steps"):
        valid_starts(events, events, events, length)


def test_starts_for_another_length_are_refused():
    events = jnp.zeros((T, N), bool)
    valid = valid_starts(events, events, events, 3)
    whole = jnp.zeros((T, N), int)
    with pytest.raises(ValueError, match="9 starts for segments of 4 steps"):
        draw_segments(jax.random.key(0), whole, whole, 1.0 * whole, 1.0 * whole, valid, 4, 1)
