"""The store of labelled pairs that a reward model is trained on."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Bool, Float, Int, Key
from .segments import Segments
from .teacher import Answers


class Pairs(eqx.Module):
    """Labelled pairs of segments, pair p in row p of each."""

    first: Segments
    second: Segments
    answers: Answers

    def take(self, index: Int[Array, "*K"] | slice) -> "Pairs":
        """The pairs at these positions of the leading axis."""
        return jax.tree.map(lambda leaf: leaf[index], self)


class PreferenceBuffer(eqx.Module):
    """The last C answered pairs, first in, first out, in arrays of fixed shape.

    A share of the pairs, drawn at random as they come in, is held out for good: it measures the
    reward model and is never trained on.

    Attributes:
        pairs: C rows, of which the first ``size`` are filled.
        held_out: which rows are held out.
        added: how many pairs were ever added; the next goes to row ``added % C``.
        share: the share that is held out.
    """

    pairs: Pairs
    held_out: Bool[Array, " C"]
    added: Int[Array, ""]
    share: float = eqx.field(static=True)

    @classmethod
    def empty(cls, capacity: int, like: Segments, *, share: float = 0.15) -> "PreferenceBuffer":
        """A buffer for pairs of segments with the shapes and dtypes of ``like``.

        ``like`` may hold arrays or ``jax.ShapeDtypeStruct``; only its leading axis is free.
        """
        if capacity < 1:
            raise ValueError(f"PreferenceBuffer: capacity is {capacity}; give at least 1 pair.")
        if not 0 <= share < 1:
            raise ValueError(f"PreferenceBuffer: share is {share}; hold out a share in [0, 1).")
        blank = lambda leaf: jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype)
        first, second = jax.tree.map(blank, like), jax.tree.map(blank, like)
        zeros = jnp.zeros(capacity, like.reward.dtype)
        return cls(
            pairs=Pairs(first, second, Answers(zeros, jnp.zeros_like(zeros))),
            held_out=jnp.zeros(capacity, bool),
            added=jnp.asarray(0),
            share=share,
        )

    @property
    def capacity(self) -> int:
        """C, the most pairs held at once."""
        return self.held_out.shape[0]

    @property
    def size(self) -> Int[Array, ""]:
        """How many pairs are held."""
        return jnp.minimum(self.added, self.capacity)

    @property
    def filled(self) -> Bool[Array, " C"]:
        """Which rows hold a pair."""
        return jnp.arange(self.capacity) < self.size

    @property
    def most_held_out(self) -> int:
        """How many held-out rows are measured at most: arrays need a fixed shape.

        All of them, but where a batch has been overwritten in part its last ones may be one or two
        too many.
        """
        return int(np.ceil(self.capacity * self.share)) + 1 if self.share else 0

    def add(
        self, key: Key, first: Segments, second: Segments, answers: Answers
    ) -> "PreferenceBuffer":
        """With these pairs in place of the oldest; skipped ones (weight 0) are left out.

        The observation is stored in the buffer's dtype, so that pixels and bits stay bytes.
        """
        count = answers.second.shape[0]
        if count > self.capacity:
            raise ValueError(
                f"PreferenceBuffer: {count} pairs at once do not fit a capacity of "
                f"{self.capacity}; add fewer, or make a larger buffer."
            )
        kept = answers.weight > 0
        number = jnp.sum(kept)
        # Rows beyond the capacity are dropped by the scatter: that is where skipped pairs go.
        row = jnp.where(kept, (self.added + jnp.cumsum(kept) - 1) % self.capacity, self.capacity)
        # Exactly floor(share * added) of all pairs are held out; which of the new ones is random.
        before = jnp.floor(self.share * self.added)
        quota = jnp.floor(self.share * (self.added + number)) - before
        lot = jnp.where(kept, jax.random.uniform(key, (count,)), 2.0)
        held = jnp.argsort(jnp.argsort(lot)) < quota
        store = lambda old, new: old.at[row].set(new.astype(old.dtype), mode="drop")
        return PreferenceBuffer(
            pairs=jax.tree.map(store, self.pairs, Pairs(first, second, answers)),
            held_out=store(self.held_out, held),
            added=self.added + number,
            share=self.share,
        )

    def training_rows(self, key: Key, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """Rows of training pairs, drawn uniformly with replacement; any row if there is none."""
        usable = self.training_weight > 0
        order = jnp.nonzero(usable, size=self.capacity, fill_value=0)[0]
        return order[jax.random.randint(key, shape, 0, jnp.maximum(jnp.sum(usable), 1))]

    @property
    def training_weight(self) -> Float[Array, " C"]:
        """The weight of each row's answer; 0 where it is held out or holds no pair."""
        return jnp.where(self.filled & ~self.held_out, self.pairs.answers.weight, 0)

    @property
    def serial(self) -> Int[Array, " C"]:
        """How many pairs had been added before the one in each row."""
        last = self.added - 1
        return last - (last - jnp.arange(self.capacity)) % self.capacity

    def held_out_rows(self) -> tuple[Int[Array, " H"], Float[Array, " H"]]:
        """The held-out rows and their weights, padded with rows of weight 0 to a fixed shape."""
        usable = self.filled & self.held_out
        row = jnp.nonzero(usable, size=self.most_held_out, fill_value=0)[0]
        real = jnp.arange(self.most_held_out) < jnp.sum(usable)
        return row, jnp.where(real, self.pairs.answers.weight[row], 0)
