"""Kernels against NumPy, and what they say about wrong input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevax as bx

S, A, B = 5, 3, 4


def lists_and_dense(seed):
    """Successor lists with repeated successors and missing mass, and the same kernel dense."""
    draw = np.random.default_rng(seed)
    next_state = draw.integers(S, size=(S, A, B))
    probability = draw.dirichlet(np.ones(B), size=(S, A)) * draw.choice([1.0, 0.5], size=(S, A, 1))
    dense = np.zeros((S, A, S))
    for s, a, b in np.ndindex(S, A, B):
        dense[s, a, next_state[s, a, b]] += probability[s, a, b]
    return bx.SuccessorList(next_state, probability), bx.DenseTransition(dense), dense


@pytest.mark.parametrize("seed", range(3))
def test_both_forms_apply_the_same_kernel(seed):
    *transitions, dense = lists_and_dense(seed)
    draw = np.random.default_rng(seed + 10)
    v, mass = jnp.asarray(draw.normal(size=(2, S)))
    policy = draw.dirichlet(np.ones(A), size=S)
    actions = draw.integers(A, size=S)
    chain = np.einsum("sa,sat->st", policy, dense)
    for transition in transitions:
        assert transition.shape == (S, A)
        np.testing.assert_allclose(transition.expected_next(v), dense @ v, rtol=1e-12)
        kernel = transition.under(jnp.asarray(policy))
        np.testing.assert_allclose(kernel.dense(), chain, atol=1e-15)
        np.testing.assert_allclose(kernel.apply(v), chain @ v, rtol=1e-12)
        np.testing.assert_allclose(kernel.apply_transposed(mass), chain.T @ mass, rtol=1e-12)
        chosen = transition.select(jnp.asarray(actions))
        np.testing.assert_allclose(chosen.dense(), dense[np.arange(S), actions], atol=1e-15)


def test_derivatives_of_both_forms_are_those_of_the_matrix():
    lists, dense, array = lists_and_dense(4)
    draw = np.random.default_rng(5)
    v, mass = jnp.asarray(draw.normal(size=(2, S)))
    policy = jnp.asarray(draw.dirichlet(np.ones(A), size=S))

    def forwards(transition, policy):
        return jnp.sum(mass * transition.under(policy).apply(v))

    def backwards(transition, policy):
        return jnp.sum(v * transition.under(policy).apply_transposed(mass))

    expected = mass[:, None] * jnp.asarray(array @ v)
    for transition in (lists, dense):
        for function in (forwards, backwards):
            slope = jax.grad(function, argnums=1)(transition, policy)
            np.testing.assert_allclose(slope, expected, rtol=1e-10)
        gradient = jax.grad(forwards, allow_int=True)(transition, policy)
        (slope,) = (g for g in jax.tree.leaves(gradient) if g.dtype == jnp.float64)
        outer = mass[:, None, None] * policy[:, :, None]
        reached = v[lists.next_state] if transition is lists else v
        np.testing.assert_allclose(slope, outer * reached, rtol=1e-10)


def test_lists_made_of_constants_pass_through_the_compiler():
    lists, _, dense = lists_and_dense(6)
    next_state, probability = lists.next_state, lists.probability

    @jax.jit
    def expected(v):
        return bx.SuccessorList(next_state, probability).expected_next(v)

    np.testing.assert_allclose(expected(jnp.arange(5.0)), dense @ np.arange(5), rtol=1e-12)


def entry(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), r"array has shape \(2, 3\); give \[S, A, S\]"),
        (np.zeros((2, 3, 4)), r"array has shape \(2, 3, 4\)"),
        (np.zeros((2, 1, 2), complex), "array has dtype complex"),
        (np.zeros((0, 1, 0)), r"array has shape \(0, 1, 0\); every axis needs"),
        (entry(np.zeros((2, 1, 2)), (1, 0, 1), -0.1), r"array\[1, 0, 1\] is -0.1"),
        (entry(np.zeros((2, 1, 2)), (0, 0, 1), np.nan), r"array\[0, 0, 1\] is nan"),
        (entry(np.zeros((2, 1, 2)), (1, 0), 0.6), r"of array\[1, 0\] sum to 1.2"),
    ],
)
def test_a_wrong_dense_kernel_says_what_is_wrong(array, message):
    with pytest.raises(ValueError, match=f"DenseTransition: .*{message}"):
        bx.DenseTransition(array)


@pytest.mark.parametrize(
    ("next_state", "probability", "message"),
    [
        (np.zeros((2, 1, 1), int), np.ones((2, 1, 2)), r"next_state has shape \(2, 1, 1\) and"),
        (np.full((2, 1, 1), 2), np.ones((2, 1, 1)), r"next_state\[0, 0, 0\] is 2; .* 0 to 1"),
        (np.full((2, 1, 1), -1), np.ones((2, 1, 1)), r"next_state\[0, 0, 0\] is -1"),
        (np.zeros((2, 1, 1)), np.ones((2, 1, 1)), "next_state has dtype float"),
        (np.zeros((2, 1, 2), int), np.ones((2, 1, 2)), "sum to 2"),
        (np.zeros((2, 1, 1), int), np.full((2, 1, 1), np.inf), "is inf"),
    ],
)
def test_wrong_successor_lists_say_what_is_wrong(next_state, probability, message):
    with pytest.raises(ValueError, match=f"SuccessorList: .*{message}"):
        bx.SuccessorList(next_state, probability)


def test_rows_that_sum_to_one_up_to_rounding_are_accepted():
    bx.DenseTransition(np.full((7, 1, 7), 1 / 7) * (1 + 1e-15))
    bx.DenseTransition(np.full((7, 1, 7), 1 / 7, np.float32) * np.float32(1 + 1e-6))
