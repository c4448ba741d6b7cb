"""The scale of a learned reward, which preferences leave open."""

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Bool, Float, Scalar


class RewardNormalizer(eqx.Module):
    """Standardises rewards: ``(r - center) / scale``, from predictions on the policy's own states.

    Preferences between segments of equal length fix a reward up to a constant, and its unit drifts
    as the model is trained. Hold one normaliser fixed over an update: every expectation in it then
    speaks of the same reward.

    The center is the mean. It may instead be the ``quantile`` of the predictions, where that is
    less: where reward is rare the median is the reward of a step at which nothing happens, which
    then is 0, as it is in the true reward. This matters where episodes end: with a center at the
    mean, a step at which nothing happens costs, and an agent may gain by ending the episode. With
    a center above the mean, play as a whole costs, and noisy answers can put the median there.
    Where rare steps cost, the mean is less; an ordinary step is then worth a little: delay pays.

    Attributes:
        center, variance: of the predictions seen.
        count: how many, discounted.
        decay: the weight of what was seen before, at each update, in [0, 1]; 1 never forgets.
        quantile: in [0, 1], or ``None`` for the mean.
    """

    center: Scalar
    mean: Scalar
    variance: Scalar
    count: Scalar
    decay: float = eqx.field(static=True)
    quantile: float | None = eqx.field(static=True)

    @classmethod
    def create(cls, *, decay: float = 0.9, quantile: float | None = None) -> "RewardNormalizer":
        """A normaliser that has seen nothing and changes nothing."""
        if not 0 <= decay <= 1:
            raise ValueError(f"RewardNormalizer: decay is {decay}; give a weight in [0, 1].")
        if quantile is not None and not 0 <= quantile <= 1:
            raise ValueError(f"RewardNormalizer: quantile is {quantile}; give one in [0, 1].")
        zero = jnp.zeros(())
        return cls(zero, zero, jnp.ones(()), zero, decay, quantile)

    @property
    def scale(self) -> Scalar:
        """The standard deviation of the predictions; 1 where they are all the same."""
        return jnp.where(self.variance > 0, jnp.sqrt(self.variance), 1)

    def update(
        self, reward: Float[Array, "*B"], real: Bool[Array, "*B"] | None = None
    ) -> "RewardNormalizer":
        """With another batch of predictions taken into account, where ``real`` (all by default).

        By Chan et al. (1979). One at least has to be real.
        """
        size = reward.size if real is None else jnp.sum(real)
        mean, spread = jnp.mean(reward, where=real), jnp.var(reward, where=real)
        old = self.decay * self.count
        count = old + size
        shift = mean - self.mean
        moved = self.mean + shift * size / count
        within = (old * self.variance + size * spread) / count
        center = moved
        if self.quantile is not None:
            if real is None:
                now = jnp.quantile(reward, self.quantile)
            else:
                now = jnp.nanquantile(jnp.where(real, reward, jnp.nan), self.quantile)
            now = jnp.minimum(now, mean)
            center = self.center + (now - self.center) * size / count
        variance = within + shift**2 * old * size / count**2
        return RewardNormalizer(center, moved, variance, count, self.decay, self.quantile)

    def apply(self, reward: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """``(reward - center) / scale``."""
        return (reward - self.center) / self.scale


def correlation(predicted: Float[Array, " P"], true: Float[Array, " P"]) -> Scalar:
    """Pearson's correlation of predicted with true returns, in [-1, 1].

    0 where one of them is constant: it then says nothing about the other.
    """
    a, b = predicted - jnp.mean(predicted), true - jnp.mean(true)
    scale = jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))
    return jnp.where(scale > 0, jnp.sum(a * b) / jnp.where(scale > 0, scale, 1), 0)
