"""Networks (s, a) -> r that a reward model is made of."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._types import Array, Float, Int, Key, PyTree, Scalar, Shaped
from .networks import Linear, im2col


class Frozen(eqx.Module):
    """An array of a network that is no parameter: nothing trains it."""

    value: Array


def split(network: PyTree) -> tuple[PyTree, PyTree]:
    """The parameters of a network, and all else; ``eqx.combine`` puts them together again."""
    frozen = lambda leaf: isinstance(leaf, Frozen)
    return eqx.partition(network, eqx.is_inexact_array, is_leaf=frozen)


class AbstractReward(eqx.Module):
    """A network that rates steps: observation and action -> one number, for any leading axes."""

    @abc.abstractmethod
    def __call__(
        self, observation: Shaped[Array, "..."], action: Int[Array, "*B"]
    ) -> Float[Array, "*B"]:
        """The reward of each step. The observation may be bool, uint8 or real."""

    @abc.abstractmethod
    def summary(self, observation: Shaped[Array, "P L ..."], action: Int[Array, "P L"]) -> PyTree:
        """What the reward of each of P segments depends on, free of parameters.

        A fit takes it once and then only sees the summaries, each leaf with a leading axis P.
        """

    @abc.abstractmethod
    def novelty(self, first: PyTree, second: PyTree) -> Float[Array, " P"]:
        """How unlike the other pairs each of P pairs is, from its summaries, free of parameters.

        It tells what to ask about where the members' rewards leave a tie, as they do before any
        answer has shown what is rewarded; all alike where a network has no such measure.
        """

    @abc.abstractmethod
    def prepared(
        self, difference: PyTree, residual: Float[Array, " P"], weight: Float[Array, " P"]
    ) -> "AbstractReward":
        """The same reward, ready to be fitted to these pairs.

        Its parameters have a scale that suits these pairs, and ``shrunk`` a strength that suits
        the noise of their answers. ``difference`` is the second summary minus the first, ``None``
        where a summary is no float and for use where the reward is linear in it; ``residual`` what
        this reward gives for the probability that the second is preferred, minus the answer;
        ``weight`` each answer's weight, 0 where the pair is held out.
        """

    @abc.abstractmethod
    def cost(self) -> Scalar:
        """What the parameters themselves cost, added to the loss of training pairs."""

    @abc.abstractmethod
    def shrunk(self, step: Scalar) -> "AbstractReward":
        """The proximal map of ``step`` times a further cost, which has no gradient at 0.

        ``ProximalRewardLearner`` alone takes this cost into account.
        """

    @abc.abstractmethod
    def total(self, summary: PyTree) -> Float[Array, " P"]:
        """The sum of rewards over each segment, from its summary."""


class AbstractNetwork(AbstractReward):
    """A reward with nothing shorter to say of a segment than its steps."""

    def summary(self, observation, action):
        """Nothing is shorter than the steps themselves."""
        return observation, action

    def novelty(self, first, second):
        """All alike."""
        return jnp.zeros(second[1].shape[0])

    def prepared(self, difference, residual, weight):
        """As it is: nothing of a network depends on the pairs."""
        return self

    def cost(self):
        """Nothing; the learner's weight decay is enough."""
        return jnp.zeros(())

    def shrunk(self, step):
        """As it is: a network has no further cost."""
        return self

    def total(self, summary):
        """The sum over steps."""
        return jnp.sum(self(*summary), axis=-1)


class MLPReward(AbstractNetwork):
    """Two hidden layers on the flat observation; the action shifts the first.

    Attributes:
        scale: what an observation is multiplied by: 1 for bits and features, 1/255 for pixels.
    """

    first: Linear
    action_bias: Float[Array, "A H"]
    second: Linear
    head: Linear
    scale: float = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: Key,
        observation_shape: tuple[int, ...],
        num_actions: int,
        *,
        width: int = 64,
        scale: float = 1.0,
    ) -> "MLPReward":
        """Random weights; the head starts small, so that every reward starts near 0."""
        keys = jax.random.split(key, 4)
        return cls(
            first=Linear.create(keys[0], int(np.prod(observation_shape)), width),
            action_bias=0.1 * jax.random.normal(keys[1], (num_actions, width)),
            second=Linear.create(keys[2], width, width),
            head=Linear.create(keys[3], width, 1, scale=0.1),
            scale=scale,
        )

    def __call__(self, observation, action):
        """The reward of each step."""
        flat = observation.reshape(*action.shape, -1).astype(self.first.weight.dtype)
        hidden = jax.nn.relu(self.first(flat * self.scale) + self.action_bias[action])
        return self.head(jax.nn.relu(self.second(hidden)))[..., 0]


class ConvReward(AbstractNetwork):
    """3 x 3 patterns anywhere in the image, pooled, then a small network.

    ``relu(patches @ W + position + action)``, its mean and maximum over positions, one hidden
    layer. What is rewarded in grid games is a pattern of neighbouring cells; the position says
    where, the action what is about to happen to it.

    Attributes:
        scale: what an observation is multiplied by: 1 for bits, 1/255 for pixels.
    """

    patch: Linear
    position: Float[Array, "R F"]
    action_bias: Float[Array, "A F"]
    hidden: Linear
    head: Linear
    scale: float = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: Key,
        observation_shape: tuple[int, ...],
        num_actions: int,
        *,
        filters: int = 16,
        width: int = 32,
        scale: float = 1.0,
    ) -> "ConvReward":
        """Random weights; the head starts small, so that every reward starts near 0."""
        if len(observation_shape) != 3:
            raise ValueError(
                f"ConvReward: observations have shape {observation_shape}; it needs images "
                "[height, width, channels]. Use MLPReward for other observations."
            )
        channels = observation_shape[2]
        keys = jax.random.split(key, 5)
        return cls(
            patch=Linear.create(keys[0], 9 * channels, filters),
            position=jnp.zeros((2, filters)),
            action_bias=0.1 * jax.random.normal(keys[2], (num_actions, filters)),
            hidden=Linear.create(keys[3], 2 * filters, width),
            head=Linear.create(keys[4], width, 1, scale=0.1),
            scale=scale,
        )

    def __call__(self, observation, action):
        """The reward of each step."""
        image = observation.astype(self.patch.weight.dtype) * self.scale
        place = coordinates(*image.shape[-3:-1]).astype(image.dtype) @ self.position
        pattern = self.patch(im2col(image)) + place + self.action_bias[action][..., None, None, :]
        pattern = jax.nn.relu(pattern)
        pooled = jnp.concatenate([pattern.mean((-3, -2)), pattern.max((-3, -2))], axis=-1)
        return self.head(jax.nn.relu(self.hidden(pooled)))[..., 0]


class StridedReward(AbstractNetwork):
    """Square patches side by side of a large image at half size, then a small network.

    ``relu(patches @ W)`` for each 6 x 6 patch of the image's 2 x 2 means, flattened, and one hidden
    layer that the action shifts. All of it is matrix products of 0.33 million multiplications for
    an Atari observation, where the four convolutions of Christiano et al. (2017) take 3.2 million:
    a fit to segments of 25 frames is to be affordable on a CPU too. An image is extended with
    zeros to a multiple of 12 rows and columns.

    Attributes:
        scale: what an observation is multiplied by: 1 for bits, 1/255 for pixels.
    """

    patch: Linear
    hidden: Linear
    action_bias: Float[Array, "A H"]
    head: Linear
    scale: float = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        key: Key,
        observation_shape: tuple[int, ...],
        num_actions: int,
        *,
        filters: int = 32,
        width: int = 64,
        scale: float = 1.0,
    ) -> "StridedReward":
        """Random weights; the head starts small, so that every reward starts near 0."""
        if len(observation_shape) != 3:
            raise ValueError(
                f"StridedReward: observations have shape {observation_shape}; it needs images "
                "[height, width, channels]. Use MLPReward for other observations."
            )
        height, width_, channels = observation_shape
        patches = -(-height // _STRIDE) * -(-width_ // _STRIDE)
        keys = jax.random.split(key, 4)
        return cls(
            patch=Linear.create(keys[0], _PATCH**2 * channels, filters),
            hidden=Linear.create(keys[1], patches * filters, width),
            action_bias=0.1 * jax.random.normal(keys[2], (num_actions, width)),
            head=Linear.create(keys[3], width, 1, scale=0.1),
            scale=scale,
        )

    def __call__(self, observation, action):
        """The reward of each step."""
        images = observation.reshape(-1, *observation.shape[-3:])
        # As reals, the images of a whole window would fill an accelerator's memory.
        features = lax.map(self._features, images, batch_size=_AT_ONCE)
        features = features.reshape(*action.shape, -1)
        hidden = jax.nn.relu(self.hidden(features) + self.action_bias[action])
        return self.head(hidden)[..., 0]

    def _features(self, image):
        patches = _patches(image).astype(self.patch.weight.dtype)
        patches = patches.mean((-4, -2)) * self.scale  # the pixels of each 2 x 2 cell
        patches = patches.reshape(*patches.shape[:-3], -1)
        return jax.nn.relu(self.patch(patches)).ravel()


# Cells along a side of a patch, and pixels from one patch to the next: cells are 2 x 2 pixels.
_PATCH = 6
_STRIDE = 2 * _PATCH
_AT_ONCE = 4096  # images: half a gigabyte of reals at 84 x 84 x 4


def _patches(image):
    """``[*B, H, W, C]`` as ``[*B, H/12, W/12, 6, 2, 6, 2, C]``, zeros outside."""
    *batch, height, width, channels = image.shape
    rows, columns = -(-height // _STRIDE), -(-width // _STRIDE)
    margin = [(0, rows * _STRIDE - height), (0, columns * _STRIDE - width), (0, 0)]
    image = jnp.pad(image, [(0, 0)] * len(batch) + margin)
    image = image.reshape(*batch, rows, _PATCH, 2, columns, _PATCH, 2, channels)
    return jnp.moveaxis(image, -4, -6)


def coordinates(height: int, width: int) -> Float[Array, "H W 2"]:
    """Row and column of each position, each from -1 to 1."""
    rows, columns = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
    return jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
