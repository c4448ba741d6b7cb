"""The systems of one policy: values, occupancies and derivatives, by every way of solving."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve as scipy_solve

from bilevax._linear import DENSE_LIMIT, PolicySystem, bicgstab, policy_system, system_matrix
from bilevax._transition import DensePolicyKernel, SparsePolicyKernel, SuccessorList


def random_chain(size, successors, key=0, killing=0.05):
    """Successor lists ``[K, S]`` whose rows lose ``killing`` of their mass."""
    rng = np.random.default_rng(key)
    weight = rng.random((successors, size))
    weight *= (1 - killing) / weight.sum(0)
    return SparsePolicyKernel(
        jnp.asarray(rng.integers(0, size, (successors, size)), jnp.int32), jnp.asarray(weight)
    )


def walk(side, slip=0.3):
    """A drift to the upper left corner of a grid, with ``slip`` spread over all directions."""
    row, column = np.divmod(np.arange(side**2), side)
    moves = [(-1, 0), (0, -1), (1, 0), (0, 1)]
    to = [np.clip(row + i, 0, side - 1) * side + np.clip(column + j, 0, side - 1) for i, j in moves]
    weight = np.full((4, side**2), slip / 4)
    weight[np.where(row > column, 0, 1), np.arange(side**2)] += 1 - slip
    return SparsePolicyKernel(jnp.asarray(np.stack(to), jnp.int32), jnp.asarray(weight))


def scipy_matrix(kernel, discount):
    size = kernel.num_states
    rows = np.broadcast_to(np.arange(size), kernel.weight.shape).ravel()
    entries = (np.asarray(kernel.weight).ravel(), (rows, np.asarray(kernel.next_state).ravel()))
    return sp.eye_array(size).tocsc() - discount * sp.coo_array(entries, (size, size)).tocsc()


@pytest.mark.slow
def test_a_large_slow_chain_is_solved_to_rounding_both_ways():
    kernel, discount = walk(41), 0.9999
    assert kernel.num_states > DENSE_LIMIT
    system = policy_system(kernel, jnp.asarray(discount))
    matrix = scipy_matrix(kernel, discount)
    for b in (np.random.default_rng(1).random(41**2), np.eye(1, 41**2, 700)[0]):
        values = system.solve(jnp.asarray(b))
        np.testing.assert_allclose(
            values, np.asarray(scipy_solve(matrix, b)), rtol=1e-9, atol=1e-12
        )
        mass = system.solve_transposed(jnp.asarray(b))
        np.testing.assert_allclose(
            mass, np.asarray(scipy_solve(matrix.T.tocsc(), b)), rtol=1e-9, atol=1e-12
        )


def test_a_system_without_a_solution_gives_nan_and_not_a_number():
    closed = walk(41)  # nothing ends: at discount 1 the matrix is singular
    system = policy_system(closed, jnp.asarray(1.0))
    assert np.isnan(system.solve(jnp.ones(41**2))).all()


@pytest.mark.slow
def test_an_episodic_chain_is_solved_at_discount_one():
    kernel = random_chain(DENSE_LIMIT + 1, 3)
    b = jnp.asarray(np.random.default_rng(2).random(kernel.num_states))
    values = policy_system(kernel, jnp.asarray(1.0)).solve(b)
    np.testing.assert_allclose(
        values, np.asarray(scipy_solve(scipy_matrix(kernel, 1.0), b)), rtol=1e-10
    )


@pytest.mark.slow
def test_dense_and_sparse_kernels_of_one_policy_are_one_matrix():
    rng = np.random.default_rng(3)
    lists = SuccessorList(rng.integers(0, 6, (6, 3, 2)), rng.dirichlet(np.ones(2), (6, 3)))
    full = np.zeros((6, 3, 6))
    for s, a, b in np.ndindex(6, 3, 2):
        full[s, a, lists.next_state[s, a, b]] += lists.probability[s, a, b]
    policy = rng.dirichlet(np.ones(3), 6)
    actions = rng.integers(0, 3, 6)
    for kernel, expected in (
        (lists.under(jnp.asarray(policy)), np.einsum("sa,sat->st", policy, full)),
        (lists.select(jnp.asarray(actions)), full[np.arange(6), actions]),
    ):
        v = rng.random(6)
        np.testing.assert_allclose(kernel.dense(), expected, atol=1e-15)
        np.testing.assert_allclose(kernel.apply(jnp.asarray(v)), expected @ v, rtol=1e-14)
        np.testing.assert_allclose(
            kernel.apply_transposed(jnp.asarray(v)), v @ expected, rtol=1e-14
        )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["factor", "stale inverse", "krylov"])
def test_derivatives_of_both_solves_match_central_differences(way):
    sparse = random_chain(12, 3)
    inverse = None
    if way == "stale inverse":
        other = random_chain(12, 3).dense() * 0.97
        inverse = jnp.linalg.inv(jnp.eye(12) - 0.9 * other)
    rng = np.random.default_rng(4)
    b, direction = jnp.asarray(rng.random(12)), jnp.asarray(rng.normal(size=12))
    change = jnp.asarray(rng.normal(size=sparse.weight.shape))

    def result(t):
        weight = sparse.weight * (1 + t * change)
        kernel = SparsePolicyKernel(sparse.next_state, weight)
        discount = jnp.asarray(0.9) + 0.1 * t
        if way == "krylov":
            system = PolicySystem(kernel, discount, None, None)
        else:
            system = policy_system(DensePolicyKernel(kernel.dense()), discount, inverse)
        values, mass = system.solve(b + t), system.solve_transposed(b - t)
        return jnp.vdot(direction, values) + jnp.vdot(direction, mass**2)

    slope = jax.jit(jax.value_and_grad(result))
    step = 1e-5
    difference = (slope(step)[0] - slope(-step)[0]) / (2 * step)
    np.testing.assert_allclose(slope(0.0)[1], difference, rtol=1e-7)


def test_bicgstab_gives_the_residual_it_claims_and_stops_at_its_limit():
    kernel = walk(12)
    matvec = lambda v: v - 0.99 * kernel.apply(v)
    b = jnp.asarray(np.random.default_rng(5).random(144))
    v, r = bicgstab(matvec, b, jnp.asarray(1e-6), 1000)
    np.testing.assert_allclose(b - matvec(v), r, atol=1e-10)
    assert jnp.linalg.norm(r) <= 1e-6
    assert jnp.linalg.norm(bicgstab(matvec, b, jnp.asarray(1e-6), 3)[1]) > 1e-6
    np.testing.assert_array_equal(bicgstab(matvec, 0 * b, jnp.asarray(0.0), 1000)[0], 0)


def test_contexts_side_by_side_are_solved_as_each_alone():
    chains = [random_chain(30, 3, key) for key in range(3)]
    systems = [PolicySystem(chain, jnp.asarray(0.95), None, None) for chain in chains]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *systems)
    b = jnp.ones(30)
    solve = jax.jit(lambda system: system.solve(b))
    together = jax.jit(jax.vmap(solve))(stacked)
    for system, chain, v in zip(systems, chains, together, strict=True):
        np.testing.assert_allclose(v, solve(system), rtol=1e-12)
        matrix = system_matrix(chain, jnp.asarray(0.95))
        np.testing.assert_allclose(matrix @ v, b, rtol=1e-12)
