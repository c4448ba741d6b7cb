"""When discount 1 is legal: a check on the host, at construction.

At discount 1 the value is a sum without end. It is finite and unique exactly where

(a) from every state some policy terminates, and
(b) every policy that never terminates loses: its mean regularised reward per step is negative on
    each set of states in which it can stay for ever.

(Bertsekas and Tsitsiklis 1991, whose stochastic shortest paths these are.) (b) holds if and only if
some finite U satisfies T U <= U - margin for a margin > 0, T being the Bellman operator. If so, the
mean of r - tau h over a chain that stays for ever is at most -margin, since the mean of P_pi U - U
over its stationary distribution is zero. Conversely the mean loss has a largest value, so rewards
raised by a small margin leave (b) true, and their optimal value is such a U.

For the entropy with deterministic moves (b) says that the matrix of sums of exp(r/tau) over the
moves from s to s' has spectral radius < 1 (Fosgerau, Frejinger and Karlstrom 2013, recursive
logit).

The check looks for U by policy iteration on rewards raised by the margin. It starts at a policy
that terminates; its values rise, so they converge where U exists, and grow without bound elsewhere.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.sparse.linalg import splu

from ._regularizer import AbstractRegularizer
from ._transition import AbstractTransition, SuccessorList

_MARGIN = 1e-8
"""The least mean loss per step that counts as one, relative to the largest reward."""

_MAX_STEPS = 200
"""Newton's method on log-sum-exp rises by at least tau a step, and log(1/margin) tau is enough."""


def reason_against_discount_one(
    reward: np.ndarray,
    transition: AbstractTransition,
    tau: float,
    regularizer: AbstractRegularizer,
    available: np.ndarray | None,
) -> str | None:
    """Why the MDP has no finite value without discounting, in words; ``None`` where it has one.

    Costs a few sparse (or dense, for dense kernels) factorisations.
    """
    states, actions = reward.shape
    kernel, leaks = _rows(transition)
    mask = np.ones(reward.shape, bool) if available is None else available
    stuck = _never_leaves(mask / mask.sum(-1, keepdims=True), kernel, leaks)
    if stuck.size:
        return (
            f"no policy terminates from state {stuck[0]}; let rows on its way sum to less than 1 "
            "(the missing mass is termination), or give a discount below 1"
        )
    if _acyclic(kernel, actions):
        return None
    scale = np.max(np.abs(reward[mask])) + tau * np.log(actions)
    margin = _MARGIN * (scale or 1.0)
    raised = reward + margin
    policy = mask / mask.sum(-1, keepdims=True)
    values = np.zeros(states)
    for _ in range(_MAX_STEPS):
        stuck = _never_leaves(policy, kernel, leaks)
        if stuck.size:
            return _endless(stuck[0])
        own = np.sum(policy * np.where(mask, raised, 0), -1) - tau * _value(regularizer, policy)
        values = _solve(_chain(policy, kernel), own)
        if not np.isfinite(values).all():
            break
        q = raised + (kernel @ values).reshape(reward.shape)
        policy, backup = _greedy(regularizer, q, tau, available)
        if np.max(backup - values) <= margin / 2:
            return None
    return _endless(int(np.argmax(np.nan_to_num(values, nan=np.inf))))


def _endless(state):
    return (
        f"the value is infinite or not determined: from state {state} the agent can go round for "
        "ever at no loss (each step's reward and entropy counted); let steps cost more, lower "
        "tau, or give a discount below 1"
    )


def _rows(transition):
    """The kernel as a sparse matrix ``[S * A, S]``, and which rows terminate at times."""
    states, actions = transition.shape
    if isinstance(transition, SuccessorList):
        probability = np.asarray(transition.probability, float)
        width = probability.shape[-1]
        row = np.repeat(np.arange(states * actions), width)
        place = row, np.asarray(transition.next_state).ravel()
        kernel = sparse.csr_array((probability.ravel(), place), (states * actions, states))
        dtype = transition.probability.dtype
    else:
        (array,) = jax.tree.leaves(transition)
        kernel = sparse.csr_array(np.asarray(array, float).reshape(-1, states))
        width, dtype = states, array.dtype
    kernel.eliminate_zeros()
    # Rows that are stored to rounding are rows that sum to one.
    slack = 64 * np.finfo(dtype).eps * max(1, width**0.5)
    return kernel, (kernel.sum(axis=1) < 1 - slack).reshape(states, actions)


def _chain(policy, kernel):
    states, actions = policy.shape
    start = np.arange(0, states * actions + 1, actions)
    mixture = sparse.csr_array((policy.ravel(), np.arange(policy.size), start))
    return mixture @ kernel


def _never_leaves(policy, kernel, leaks):
    """The states from which a policy never terminates, by search backwards from termination."""
    states = policy.shape[0]
    chain = _chain(policy, kernel)
    chain.eliminate_zeros()
    exits = sparse.csr_array(np.any(leaks & (policy > 0), axis=-1)[None].astype(float))
    backwards = sparse.block_array([[chain.T, None], [exits, np.zeros((1, 1))]], format="csr")
    reached = breadth_first_order(backwards, states, return_predecessors=False)
    return np.setdiff1d(np.arange(states), reached)


def _acyclic(kernel, actions):
    """Whether no state can come back: a finite horizon."""
    states = kernel.shape[1]
    graph = _chain(np.ones((states, actions)), kernel)
    components, _ = connected_components(graph, connection="strong")
    return components == states and not graph.diagonal().any()


def _solve(chain, b):
    """(I - P_pi)^-1 b, infinite where the system is singular to rounding."""
    system = sparse.csc_array(sparse.eye_array(b.size) - chain)
    try:
        if system.nnz > 0.1 * b.size**2:
            return np.linalg.solve(system.toarray(), b)
        return splu(system).solve(b)
    except (np.linalg.LinAlgError, RuntimeError):
        return np.full(b.size, np.inf)


def _value(regularizer, policy):
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(regularizer.value(jnp.asarray(policy)))


def _greedy(regularizer, q, tau, available):
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        mask = None if available is None else jnp.asarray(available)
        arguments = jnp.asarray(q), jnp.asarray(tau), mask
        policy, backup = regularizer.greedy(*arguments), regularizer.conjugate(*arguments)
        return np.asarray(policy), np.asarray(backup)
