"""Actor-critic networks: a torso of features, a head of action logits and a head of values."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._types import Array, Float, Key
from .environment import Spec
from .networks import Linear


def dense(key: Key, inputs: int, outputs: int, gain: float = math.sqrt(2)) -> Linear:
    """A layer with an orthogonal weight of the given gain, in float32."""
    weight = jax.nn.initializers.orthogonal(gain)(key, (inputs, outputs), jnp.float32)
    return Linear(weight, jnp.zeros(outputs, jnp.float32))


class AbstractTorso(eqx.Module):
    """Features ``[*N, F]`` of observations ``[*N, *obs]``."""

    @abc.abstractmethod
    def __call__(self, observation: Array) -> Float[Array, "*N F"]:
        """The features."""


class MLPTorso(AbstractTorso):
    """Fully connected layers over the flat observation, with ReLU."""

    layers: tuple[Linear, ...]
    rank: int = eqx.field(static=True)

    def __call__(self, observation):
        features = as_float(observation)
        features = features.reshape(*features.shape[: features.ndim - self.rank], -1)
        for layer in self.layers:
            features = jax.nn.relu(layer(features))
        return features


class NatureTorso(AbstractTorso):
    """The three convolutions and the layer of 512 of Mnih et al. (2015), for 84 x 84 frames.

    Observations are ``[*N, 84, 84, frames]``. On a CPU a convolution inside a compiled loop is many
    times slower than outside: the host path, for which this is made, has none.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    last: Linear

    def __call__(self, observation):
        batch = observation.shape[:-3]
        z = as_float(observation.reshape(-1, *observation.shape[-3:]))
        for kernel, bias, stride in zip(self.kernels, self.biases, (4, 2, 1), strict=True):
            z = lax.conv_general_dilated(
                z, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            z = jax.nn.relu(z + bias)
        return jax.nn.relu(self.last(z.reshape(len(z), -1))).reshape(*batch, -1)


class ActorCritic(eqx.Module):
    """log pi(.|o) and V(o), for one observation or any batch of them."""

    torso: AbstractTorso
    actor: Linear
    critic: Linear

    def __call__(self, observation: Array) -> tuple[Float[Array, "*N A"], Float[Array, "*N"]]:
        """Normalised log-probabilities and values."""
        features = self.torso(observation)
        return jax.nn.log_softmax(self.actor(features)), self.critic(features)[..., 0]


def actor_critic(key: Key, spec: Spec, width: int = 128, depth: int = 1) -> ActorCritic:
    """The network for an environment: convolutions for Atari's frames, else an MLP."""
    torso_key, actor_key, critic_key = jax.random.split(key, 3)
    if len(spec.observation_shape) == 3 and spec.observation_shape[:2] == (84, 84):
        torso, features = _nature(torso_key, spec), 512
    else:
        torso, features = _mlp(torso_key, spec, width, depth), width
    # A first policy close to uniform: Andrychowicz et al. (2021) found it to matter most.
    return ActorCritic(
        torso,
        actor=dense(actor_key, features, spec.num_actions, gain=0.01),
        critic=dense(critic_key, features, 1, gain=1.0),
    )


def as_float(observation: Array) -> Float[Array, "..."]:
    """The observation in float32, bytes scaled to [0, 1]."""
    scale = 255 if observation.dtype == jnp.uint8 else 1
    return observation.astype(jnp.float32) / scale


def _mlp(key, spec, width, depth):
    sizes = [math.prod(spec.observation_shape), *(width,) * depth]
    keys = jax.random.split(key, depth)
    layers = tuple(dense(k, i, o) for k, i, o in zip(keys, sizes, sizes[1:], strict=False))
    return MLPTorso(layers, rank=len(spec.observation_shape))


def _nature(key, spec):
    shapes = ((8, 8, spec.observation_shape[2], 32), (4, 4, 32, 64), (3, 3, 64, 64))
    *keys, last = jax.random.split(key, len(shapes) + 1)
    init = jax.nn.initializers.orthogonal(math.sqrt(2))
    kernels = tuple(init(k, shape, jnp.float32) for k, shape in zip(keys, shapes, strict=True))
    biases = tuple(jnp.zeros(shape[-1], jnp.float32) for shape in shapes)
    # Normal, not orthogonal: decomposing a matrix of this size takes longer than a first round.
    weight = jax.random.normal(last, (7 * 7 * 64, 512), jnp.float32) * (2 / (7 * 7 * 64)) ** 0.5
    return NatureTorso(kernels, biases, Linear(weight, jnp.zeros(512, jnp.float32)))
