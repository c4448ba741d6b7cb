"""A second, independent implementation of the tabular mathematics, in NumPy with loops.

It follows the definitions of spec (M1), (M2) word by word and shares no code with the library:
tests take values from here, and derivatives from central differences of them.
"""

from dataclasses import dataclass

import numpy as np

from bilevax import MDP, DenseTransition, NegativeEntropy, SuccessorList


@dataclass
class Table:
    """One MDP, without contexts, the kernel dense ``[S, A, S]``."""

    reward: np.ndarray
    kernel: np.ndarray
    discount: float
    initial: np.ndarray
    tau: float
    entropy: bool
    available: np.ndarray


def players(lower) -> tuple[MDP, ...]:
    """The MDPs of a lower level."""
    return lower if isinstance(lower, tuple) else (lower,)


def tables(lower) -> list[Table]:
    """One table for every MDP and context of a lower level."""
    return [table for mdp in players(lower) for table in _contexts(mdp)]


def rows(array) -> list[np.ndarray]:
    """The contexts of an array ``[S, A]`` or ``[N, S, A]``."""
    array = np.asarray(array)
    return [array] if array.ndim == 2 else list(array)


def _contexts(mdp: MDP) -> list[Table]:
    contexts = mdp.reward.shape[0] if mdp.reward.ndim == 3 else 1
    states, actions = mdp.reward.shape[-2:]

    def spread(array, rank):
        array = np.asarray(array)
        shape = array.shape[array.ndim - rank :]
        return np.broadcast_to(array if array.ndim > rank else array[None], (contexts, *shape))

    transition = mdp.transition
    if isinstance(transition, SuccessorList):
        successors = spread(transition.next_state, 3)
        probability = spread(transition.probability, 3)
        kernel = np.zeros((contexts, states, actions, states), probability.dtype)
        for place in np.ndindex(*probability.shape):
            n, s, a, _ = place
            kernel[n, s, a, successors[place]] += probability[place]
    else:
        assert isinstance(transition, DenseTransition)
        kernel = spread(transition.array, 3)
    available = np.ones((states, actions), bool) if mdp.available is None else mdp.available
    columns = (
        spread(mdp.reward, 2),
        kernel,
        spread(mdp.discount, 0),
        spread(mdp.initial, 1),
        spread(mdp.tau, 0),
        [isinstance(mdp.regularizer, NegativeEntropy)] * contexts,
        spread(available, 2),
    )
    return [Table(*row) for row in zip(*columns, strict=True)]


def regularizer(table: Table, policy: np.ndarray) -> np.ndarray:
    """h_s(pi(.|s)), with 0 log 0 = 0."""
    if table.entropy:
        return np.sum(policy * np.log(np.where(policy > 0, policy, 1)), axis=-1)
    return 0.5 * np.sum(policy**2, axis=-1)


def greedy(table: Table, q: np.ndarray) -> np.ndarray:
    """argmax over pi of <pi, q_s> - tau h(pi), state by state."""
    policy = np.zeros_like(q)
    for s, row in enumerate(q):
        actions = np.flatnonzero(table.available[s])
        scores = row[actions]
        if table.tau == 0:
            policy[s, actions[np.argmax(scores)]] = 1
        elif table.entropy:
            weight = np.exp((scores - scores.max()) / table.tau)
            policy[s, actions] = weight / weight.sum()
        else:
            policy[s, actions] = _nearest_on_simplex(scores / table.tau)
    return policy


def _nearest_on_simplex(z: np.ndarray) -> np.ndarray:
    """The projection onto the simplex: of all supports the one that satisfies its conditions."""
    order = np.argsort(-z)
    for size in range(len(z), 0, -1):
        support = order[:size]
        shift = (z[support].sum() - 1) / size
        if z[support[-1]] > shift:
            return np.maximum(z - shift, 0)
    raise AssertionError("no support found")


def own_reward(table: Table, policy: np.ndarray) -> np.ndarray:
    return np.sum(policy * table.reward, axis=-1) - table.tau * regularizer(table, policy)


def _system(table: Table, policy: np.ndarray) -> np.ndarray:
    chain = np.einsum("sa,sat->st", policy, table.kernel)
    return np.eye(len(policy)) - table.discount * chain


def values(table: Table, policy: np.ndarray, reward: np.ndarray | None = None) -> np.ndarray:
    """V of the regularised MDP, or of another reward ``[S, A]`` without regulariser."""
    own = own_reward(table, policy) if reward is None else np.sum(policy * reward, axis=-1)
    return np.linalg.solve(_system(table, policy), own)


def occupancy(table: Table, policy: np.ndarray) -> np.ndarray:
    return np.linalg.solve(_system(table, policy).T, table.initial)


def backup(table: Table, v: np.ndarray) -> np.ndarray:
    """r + discount P v, in the precision of v."""
    reward, kernel = table.reward.astype(v.dtype), table.kernel.astype(v.dtype)
    return reward + v.dtype.type(table.discount) * (kernel @ v)


def optimum(table: Table, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """(V*, pi*) by policy iteration."""
    policy = table.available / table.available.sum(-1, keepdims=True)
    for _ in range(steps):
        new = greedy(table, backup(table, values(table, policy)))
        change = np.abs(new - policy).max()
        policy = new
        if change < 1e-14:
            break
    return values(table, policy), policy


def precise_values(table: Table, policy: np.ndarray | None = None) -> np.ndarray:
    """V of a policy, or V* where none is given, to the 64 bits of a long double's fraction.

    Residuals in long double correct the solution of a double, which is iterative refinement.
    """
    optimal = policy is None
    policy = optimum(table)[1] if policy is None else policy.astype(np.longdouble)
    v = values(table, policy.astype(float)).astype(np.longdouble)
    for _ in range(8):
        q = backup(table, v)
        if optimal:
            policy = greedy(table, q)
        cost = table.tau * regularizer(table, policy)
        residual = np.sum(policy * q, axis=-1) - cost - v
        v = v + np.linalg.solve(_system(table, policy.astype(float)), residual.astype(float))
    return v


def central_jacobian(
    function, point: np.ndarray, step: float = 5e-4, among: np.ndarray | None = None
) -> np.ndarray:
    """d function / d point by fourth-order central differences, shape ``[outputs, inputs]``.

    ``among`` lists the inputs to be moved; the columns of all others are NaN.
    """
    among = np.arange(point.size) if among is None else among
    columns = {}
    for i in among:
        move = np.zeros(point.size)
        move[i] = step
        move = move.reshape(point.shape)
        ahead, behind = function(point + move), function(point - move)
        far_ahead, far_behind = function(point + 2 * move), function(point - 2 * move)
        columns[i] = (8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * step)
    unknown = np.full_like(columns[among[0]], np.nan)
    return np.stack([columns.get(i, unknown) for i in range(point.size)], axis=-1)
