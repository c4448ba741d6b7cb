"""The kernel of two players who move at once, each between cells of its own.

    P((c', d') | (c, d), a1, a2) = P1(c'|c, a1) P2(d'|d, a2)    while play goes on

A successor list over joint actions would hold every pair of moves and of slips, on a grid 100
entries per state for 25 distinct successors. Kept apart the two factors are tiny, expected values
take one factor after the other, and a chain has each successor once.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._transition import (
    AbstractPolicyKernel,
    AbstractTransition,
    SparsePolicyKernel,
    substochastic,
)
from .._types import Array, Float, Int


class Moves(eqx.Module):
    """One player's moves: cell c leads by action a to ``next_cell[c, k]`` with ``probability``.

    The K cells within reach of a cell, whatever the action, are distinct; unused entries have
    probability 0.
    """

    next_cell: Int[Array, "C K"]
    probability: Float[Array, "C A K"]

    @classmethod
    def of(cls, kernel: Float[np.ndarray, "C A C"]) -> "Moves":
        """The moves of a dense kernel P(c'|c, a)."""
        reachable = kernel.any(1)
        # The cells within reach first, in order.
        order = np.argsort(~reachable, axis=1, kind="stable")[:, : reachable.sum(1).max()]
        probability = np.take_along_axis(kernel, order[:, None, :], axis=2)
        return cls(jnp.asarray(order, jnp.int32), jnp.asarray(probability))

    def expected(self, values: Float[Array, "C D"]) -> Float[Array, "C A D"]:
        """sum over c' of P(c'|c, a) v(c', d)."""
        return jnp.einsum("cak,ckd->cad", self.probability, values[self.next_cell])


class IndependentMoves(AbstractTransition):
    """Two players' independent moves, over states c * D + d and joint actions a1 * A2 + a2.

    Attributes:
        first, second: the moves of player 1 between C cells, and of player 2 between D cells.
        live: 1 where play goes on and 0 where it is over, shape ``[C * D]``. What would enter an
            ended state is missing from the row, as is all that would leave one.
    """

    first: Moves
    second: Moves
    live: Float[Array, " S"]

    @property
    def shape(self):
        actions = self.first.probability.shape[1] * self.second.probability.shape[1]
        return self.live.shape[0], actions

    def substochastic(self):
        factors = (self.first, self.second)
        return substochastic(self.live[:, None]) & jnp.all(
            jnp.stack([substochastic(factor.probability) for factor in factors])
        )

    def expected_next(self, values):
        cells = self.first.next_cell.shape[0]
        one = self.first.expected((self.live * values).reshape(cells, -1))
        both = jnp.einsum(
            "dbk,cadk->cdab", self.second.probability, one[..., self.second.next_cell]
        )
        return self.live[:, None] * both.reshape(self.shape)

    def under(self, policy):
        first, second = self.first.probability, self.second.probability
        joint = policy.reshape(first.shape[0], second.shape[0], first.shape[1], second.shape[1])
        weight = jnp.einsum("cdab,cak,dbl->klcd", joint, first, second)
        return _kernel(self, weight)

    def select(self, actions):
        return self.under(jax.nn.one_hot(actions, self.shape[1], dtype=self.live.dtype))

    def averaged(self, actions, player, weight):
        cells = self.first.next_cell.shape[0]
        others = (self.second, self.first)[player]
        chosen = weight.reshape(cells, -1, weight.shape[-1])
        pattern = "cdm,dmk->kcd" if player == 0 else "cdm,cmk->kcd"
        arrival = jnp.einsum(pattern, chosen, others.probability)
        return MovesAgainst(self, player, arrival)


class MovesAgainst(AbstractTransition):
    """The kernel that one player faces while the other keeps its policy.

    Attributes:
        joint: both players' moves.
        player: 0 or 1, whose actions these are.
        arrival: the probability of each cell within the other's reach, shape ``[K, C, D]``.
    """

    joint: IndependentMoves
    player: int = eqx.field(static=True)
    arrival: Float[Array, "K C D"]

    @property
    def shape(self):
        return self.joint.live.shape[0], self._pair()[0].probability.shape[1]

    def substochastic(self):
        return self.joint.substochastic() & substochastic(jnp.moveaxis(self.arrival, 0, -1))

    def _pair(self):
        pair = self.joint.first, self.joint.second
        return pair if self.player == 0 else pair[::-1]

    def expected_next(self, values):
        own, other = self._pair()
        grid = (self.joint.live * values).reshape(self.arrival.shape[1:])
        arrival = self.arrival
        if self.player == 1:
            grid, arrival = grid.T, jnp.swapaxes(arrival, 1, 2)
        moved = own.expected(grid)
        terms = [
            share[:, None, :] * moved[..., cells]
            for share, cells in zip(arrival, other.next_cell.T, strict=True)
        ]
        order = (0, 2, 1) if self.player == 0 else (2, 0, 1)
        expected = jnp.transpose(sum(terms), order)
        return self.joint.live[:, None] * expected.reshape(self.shape)

    def under(self, policy):
        own, _ = self._pair()
        chosen = policy.reshape(*self.arrival.shape[1:], -1)
        pattern = "cda,cak->kcd" if self.player == 0 else "cda,dak->kcd"
        moved = jnp.einsum(pattern, chosen, own.probability)
        first, second = (moved, self.arrival) if self.player == 0 else (self.arrival, moved)
        return _kernel(self.joint, first[:, None] * second[None])

    def select(self, actions):
        return self.under(jax.nn.one_hot(actions, self.shape[1], dtype=self.joint.live.dtype))

    def averaged(self, actions, player, weight):
        raise NotImplementedError("MovesAgainst: it is one player's kernel already.")


class MovesKernel(AbstractPolicyKernel):
    """The chain of two policies: a few successors per state, and so no case for dense matrices.

    Its systems are solved by Krylov's method at any size: 625 states, of 25 successors, take a
    fiftieth of the time of a factorisation.
    """

    chain: SparsePolicyKernel

    @property
    def num_states(self):
        return self.chain.num_states

    def apply(self, values):
        return self.chain.apply(values)

    def apply_transposed(self, mass):
        return self.chain.apply_transposed(mass)

    def dense(self):
        return self.chain.dense()


def _kernel(joint: IndependentMoves, weight: Float[Array, "K L C D"]) -> MovesKernel:
    """The chain in which (c, d) leads to the k-th and l-th cell within reach."""
    states, columns = joint.live.shape[0], joint.second.next_cell.shape[0]
    first, second = joint.first.next_cell.T, joint.second.next_cell.T
    successor = (first[:, None, :, None] * columns + second[None, :, None, :]).reshape(-1, states)
    weight = weight.reshape(-1, states) * joint.live * joint.live[successor]
    return MovesKernel(SparsePolicyKernel(successor, weight))
