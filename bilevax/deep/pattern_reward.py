"""A linear reward on patterns of bits, for grids of a few cells such as MinAtar's."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._types import Array, Float, Int, Key, Shaped
from .reward_network import AbstractReward, Frozen

_WORD = 31  # cells of a row in one word, with room for a step to the side


class PatternReward(AbstractReward):
    """A linear reward on patterns of bits: pairs of neighbouring cells, rows and columns.

    For images of bits, as MinAtar's, with channels c, d and a step delta to a neighbour or to the
    cell itself: how often c is set at a cell and d at the cell plus delta; whether c is set
    anywhere in a row, or in a column; and 1. The reward is linear in these, with weights that all
    actions share and weights of each action.

    What is rewarded in such games is two things that touch. A network must first find that out,
    pair by pair of segments; this model starts from it, and a fit is a logistic regression on
    sums over segments. Few patterns are rewarded: with an elastic net (Zou and Hastie 2005) the
    weights of all others become 0. Small wrong weights on what is seen at every step would add up
    to more than the few steps that are rewarded. How much is noise depends on the teacher: with
    residuals of root mean square s over n labels, a slope of the loss varies by about s / sqrt(n),
    were residuals alike in all pairs, and in this the lasso is measured (the scaled lasso, Sun and
    Zhang 2012; they iterate, here each fit takes the residuals that the last one left).
    ``ProximalRewardLearner`` fits it; ``AdamRewardLearner`` knows nothing of the lasso. Patterns
    are counted with words of bits, a row at a time.

    Attributes:
        weight: in units of ``unit``.
        unit: what each count is divided by, set by a fit.
        threshold: the strength of the penalty on absolute weights, ``lasso`` standard deviations
            of the noise in a slope of the loss. Set by a fit.
        ridge: the strength of the penalty on squared weights.
        lasso: that on absolute weights, in such deviations. In an ensemble, whose members weigh
            pairs by the bootstrap, the slopes of each vary sqrt(2) times as much.
    """

    weight: Float[Array, "K A1"]
    unit: Frozen
    threshold: Frozen
    ridge: float = eqx.field(static=True)
    lasso: float = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: Key,
        observation_shape: tuple[int, ...],
        num_actions: int,
        *,
        ridge: float = 0.003,
        lasso: float = 2.2,
    ) -> "PatternReward":
        """Weights of 0: what no pair has shown is not rewarded. The key is not used."""
        if len(observation_shape) != 3 or observation_shape[1] > _WORD:
            raise ValueError(
                f"PatternReward: observations have shape {observation_shape}; it needs images of "
                f"bits [height, width <= {_WORD}, channels]. Use MLPReward for other observations."
            )
        for name, value in (("ridge", ridge), ("lasso", lasso)):
            if not value >= 0:
                raise ValueError(f"PatternReward: {name} is {value}; give at least 0.")
        size = jax.eval_shape(patterns, jax.ShapeDtypeStruct(observation_shape, bool)).shape[0]
        del key
        weight = jnp.zeros((size, num_actions + 1))
        ones, zero = jnp.ones_like(weight), jnp.zeros((), weight.dtype)
        return cls(weight, Frozen(ones), Frozen(zero), ridge, lasso)

    def __call__(self, observation, action):
        """The reward of each step. A cell counts as set where it is not 0."""
        weight = self.weight / self.unit.value
        rewards = patterns(observation).astype(weight.dtype) @ weight
        chosen = jnp.take_along_axis(rewards, action[..., None] + 1, axis=-1)
        return rewards[..., 0] + chosen[..., 0]

    def summary(self, observation, action):
        """Each pattern's count, in all and under each action: ``[P, K, 1 + A]``."""
        (size, columns), dtype = self.weight.shape, self.weight.dtype

        def blank(image):
            return jnp.zeros((*image.shape[:-3], size), jnp.int32).at[..., -1].set(1)

        def counts(part):
            image, action = part
            # Rows of a buffer that still wait for a pair have no bit, and nothing to count.
            count = lax.cond(jnp.any(image != 0), patterns, blank, image).astype(dtype)
            under = jax.nn.one_hot(action, columns - 1, dtype=dtype)
            under = jnp.concatenate([jnp.ones_like(under[..., :1]), under], axis=-1)
            return jnp.einsum("blk,bla->bka", count, under)

        return _by_parts(counts, (observation, action), 32)

    def novelty(self, first, second):
        """The squared differences of all counts, each in units of its mean over the pairs.

        Were counts uncorrelated, it is P times the leverage of a pair among these P: what the pair
        adds to the information on weights that are still 0. A pattern seen in one pair of a
        hundred adds a hundred to that pair.
        """
        square = (second - first) ** 2
        mean = jnp.mean(square, axis=0)
        return jnp.sum(square / jnp.where(mean > 0, mean, 1), axis=(1, 2))

    def prepared(self, difference, residual, weight):
        """The same reward, each count in units of its root mean square difference in these pairs.

        Counts that never differ keep their unit. The threshold becomes ``lasso`` times the standard
        deviation of a slope of independent answers, sqrt(sum (w r)^2) / sum w for weights w and
        residuals r; 0 without labels.
        """
        total = jnp.sum(weight)
        labels = jnp.where(total > 0, total, 1)
        square = jnp.einsum("p,pka->ka", weight, difference**2) / labels
        unit = jnp.where(square > 0, jnp.sqrt(square), self.unit.value)
        threshold = self.lasso * jnp.sqrt(jnp.sum((weight * residual) ** 2)) / labels
        return PatternReward(
            self.weight / self.unit.value * unit,
            Frozen(unit),
            Frozen(threshold.astype(self.threshold.value.dtype)),
            self.ridge,
            self.lasso,
        )

    def cost(self):
        """``ridge / 2`` times the squared norm of the weights, each in units of its count."""
        return self.ridge / 2 * jnp.sum(self.weight**2)

    def shrunk(self, step):
        """Every weight nearer to 0 by ``step`` times the threshold, and 0 where it was nearer."""
        size = jnp.maximum(jnp.abs(self.weight) - step * self.threshold.value, 0)
        return eqx.tree_at(lambda r: r.weight, self, jnp.sign(self.weight) * size)

    def total(self, summary):
        """Linear in the counts."""
        size = self.weight.size
        return summary.reshape(-1, size) @ (self.weight / self.unit.value).reshape(size)


def patterns(image: Shaped[Array, "*B H W C"]) -> Int[Array, "*B K"]:
    """How often each pair of bits is set side by side, and in which rows and columns bits are.

    K = 5 C^2 + (H + W) C + 1: five steps stand for all nine, since a pair looks the same from
    either end. The last one is always 1.
    """
    height, width, channels = image.shape[-3:]
    lead = image.shape[:-3]
    bits = (image != 0).reshape(-1, height, width, channels)
    places = jnp.arange(width, dtype=jnp.uint32)[:, None]
    rows = jnp.sum(bits.astype(jnp.uint32) << places, axis=2, dtype=jnp.uint32)
    below = jnp.pad(rows, ((0, 0), (0, 1), (0, 0)))
    found = []
    for down, right in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
        other = below[:, down : down + height]
        other = other >> right if right >= 0 else other << -right
        both = lax.population_count(rows[..., :, None] & other[..., None, :])
        found.append(jnp.sum(both, axis=1, dtype=jnp.uint32).reshape(-1, channels**2))
    columns = jnp.bitwise_or.reduce(rows, axis=1)[:, None] >> places & 1
    found += [(rows != 0).reshape(-1, height * channels), columns.reshape(-1, width * channels)]
    found.append(jnp.ones_like(found[0][:, :1]))
    counts = jnp.concatenate([part.astype(jnp.int32) for part in found], axis=-1)
    return counts.reshape(*lead, counts.shape[-1])


def _by_parts(function, arrays, size):
    """``function`` of ``size`` rows at a time, the last part padded with zeros.

    The arrays of all rows would fill the memory. ``lax.map(batch_size=...)`` does the same under
    ``vmap``, which computes both branches of a condition.
    """
    rows = arrays[0].shape[0]
    size = min(size, rows)
    pad = lambda z: jnp.pad(z, [(0, -rows % size)] + [(0, 0)] * (z.ndim - 1))
    parts = jax.tree.map(lambda z: pad(z).reshape(-1, size, *z.shape[1:]), arrays)
    found = lax.map(function, parts)
    return found.reshape(-1, *found.shape[2:])[:rows]
