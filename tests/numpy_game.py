"""Zero-sum Markov games once more, in NumPy and from their definition: values, gaps, equilibria."""

from dataclasses import dataclass

import numpy as np
import numpy_mdp as reference
from scipy.optimize import root
from scipy.special import logsumexp, softmax, xlogy


@dataclass
class Game:
    """Rewards ``[S, A1, A2]`` to player 1, kernel ``[S, A1, A2, S]``, entropy on both players."""

    reward: np.ndarray
    kernel: np.ndarray
    discount: float
    initial: np.ndarray
    tau: float
    available: tuple[np.ndarray, np.ndarray]


def cost(game: Game, policy: np.ndarray) -> np.ndarray:
    """tau h(pi(.|s))."""
    return game.tau * xlogy(policy, policy).sum(-1)


def chain(game: Game, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """P_{pi1,pi2}(s'|s)."""
    return np.einsum("si,sj,sijt->st", p, q, game.kernel)


def joint_values(game: Game, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """V^{pi1,pi2} = E sum discount^t (r - tau h(pi1) + tau h(pi2))."""
    reward = np.einsum("si,sij,sj->s", p, game.reward, q) - cost(game, p) + cost(game, q)
    return np.linalg.solve(np.eye(len(reward)) - game.discount * chain(game, p, q), reward)


def occupancy(game: Game, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    system = np.eye(len(p)) - game.discount * chain(game, p, q)
    return np.linalg.solve(system.T, game.initial)


def against(game: Game, policy: np.ndarray, player: int) -> reference.Table:
    """The MDP of one player, from the definition of V with the other's policy held."""
    if player == 0:
        reward = np.einsum("sij,sj->si", game.reward, policy) + cost(game, policy)[:, None]
        kernel = np.einsum("sijt,sj->sit", game.kernel, policy)
    else:
        reward = -np.einsum("sij,si->sj", game.reward, policy) + cost(game, policy)[:, None]
        kernel = np.einsum("sijt,si->sjt", game.kernel, policy)
    mask = game.available[player]
    return reference.Table(reward, kernel, game.discount, game.initial, game.tau, True, mask)


def best_values(game: Game, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """max over pi1' of V^{pi1',pi2}, and min over pi2' of V^{pi1,pi2'}."""
    return (
        reference.optimum(against(game, q, 0))[0],
        -reference.optimum(against(game, p, 1))[0],
    )


def duality_gap(game: Game, p: np.ndarray, q: np.ndarray) -> float:
    """psi(pi1, pi2) of spec (M12)."""
    most, least = best_values(game, p, q)
    return float(game.initial @ (most - least))


def equilibrium(game: Game, sweeps: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(V, pi1, pi2) by value iteration, the fixed point of each matrix game by MINPACK."""
    v = np.zeros(len(game.reward))
    logits = [np.zeros(mask.sum()) for mask in game.available[0]]
    for _ in range(sweeps):
        payoffs = game.reward + game.discount * game.kernel @ v
        stages = [_matrix_game(game, payoffs[s], s, logits) for s in range(len(v))]
        new = np.array([value for value, _, _ in stages])
        change, v = np.abs(new - v).max(), new
        if change < 1e-14:
            break
    return v, np.array([p for _, p, _ in stages]), np.array([q for _, _, q in stages])


def _matrix_game(game, payoff, s, logits):
    """(value, p, q) with p = softmax(Q q / tau), q = softmax(-Q' p / tau); logits are updated."""
    tau, (rows, columns) = game.tau, (mask[s] for mask in game.available)
    own = payoff[np.ix_(rows, columns)]

    def answers(z):
        scores = -own.T @ softmax(z) / tau
        return scores, own @ softmax(scores) / tau

    def wrong(z):
        _, z_new = answers(z)
        return z - z_new + z_new.mean()  # the constant is fixed by a mean of 0

    found = root(wrong, logits[s], tol=1e-15)
    assert np.abs(wrong(found.x)).max() < 1e-11
    logits[s] = found.x
    scores, _ = answers(found.x)
    p, q = np.zeros(len(rows)), np.zeros(len(columns))
    p[rows], q[columns] = softmax(found.x), softmax(scores)
    return -tau * xlogy(p, p).sum() - tau * logsumexp(scores), p, q
