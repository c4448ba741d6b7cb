"""The lower level's learners: advantage actor-critic and proximal policy optimisation.

Both learn from a ``Rollout`` and a reward of the caller's choice: the environment's own, or that of
a reward model. The lower level's regulariser tau h is the entropy bonus.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._types import Array, Bool, Float, Int, Key, PyTree, Scalar
from .policy import ActorCritic
from .rollout import Rollout

ExtraLoss = Callable[[ActorCritic, Int[Array, ""] | int], Scalar]


class Agent(eqx.Module):
    """A policy with its critic, its optimiser's state, and the scale of the rewards it learns from.

    Attributes:
        network: pi and V.
        optimizer_state: optax's.
        scale: running statistics of the discounted return, see ``ReturnScale``.
    """

    network: ActorCritic
    optimizer_state: PyTree
    scale: "ReturnScale"


class ReturnScale(eqx.Module):
    """The spread of the discounted return so far, by which rewards are divided.

    With it, one entropy bonus and one learning rate fit rewards of any size. Rewards are divided,
    never shifted: a shift would change which policy is best where episodes end.

    Attributes:
        running: the discounted sum of past rewards in each environment, ``[N]``.
        mean, second, weight: first and second moment of it, exponentially forgotten.
    """

    running: Float[Array, " N"]
    mean: Scalar
    second: Scalar
    weight: Scalar

    @classmethod
    def start(cls, count: int) -> "ReturnScale":
        """No reward seen yet."""
        zero = jnp.zeros((), jnp.float32)
        return cls(jnp.zeros(count, jnp.float32), zero, zero, zero)

    def update(self, reward, done, real, discount, memory=0.99) -> "ReturnScale":
        """After the rewards ``[T, N]`` of a rollout, those of automatic resets left out."""

        def step(running, now):
            reward, done, real = now
            running = jnp.where(real, discount * running + reward, 0)
            return jnp.where(done, 0, running), running

        running, returns = lax.scan(step, self.running, (reward, done, real))
        count = jnp.sum(real)
        mean = lambda z: jnp.sum(jnp.where(real, z, 0)) / jnp.maximum(count, 1)
        share = (1 - memory) * (count > 0).astype(jnp.float32)
        return ReturnScale(
            running,
            memory * self.mean + share * mean(returns),
            memory * self.second + share * mean(returns**2),
            memory * self.weight + share,
        )

    @property
    def deviation(self) -> Scalar:
        """The standard deviation; 1 before any reward other than a constant has been seen."""
        return jnp.where(self.varies, jnp.sqrt(jnp.maximum(self._variance, 1e-8)), 1)

    @property
    def varies(self) -> Bool[Array, ""]:
        """Whether any reward other than a constant has been seen.

        Until then advantages are the errors of the critic alone. Divided by their own spread, as
        PPO does, they would drive a policy to wherever these errors point.
        """
        second = self.second / jnp.where(self.weight > 0, self.weight, 1)
        rounding = 8 * jnp.finfo(second.dtype).eps * second
        return self._variance > 1e-8 + rounding

    @property
    def _variance(self):
        weight = jnp.where(self.weight > 0, self.weight, 1)
        return self.second / weight - (self.mean / weight) ** 2


def advantages(
    rollout: Rollout, reward: Float[Array, "T N"], discount: float, trace: float
) -> Float[Array, "T N"]:
    """Generalised advantages: A_t = delta_t + discount trace A_{t+1} within an episode.

    delta_t = r_t + discount V' - V_t, where V' is the next value, 0 after a termination, and the
    value of the last observation after a truncation (Schulman et al. 2016, equation 16).
    """
    done = rollout.terminated | rollout.truncated
    following = jnp.concatenate([rollout.value[1:], rollout.last_value[None]])
    following = jnp.where(done, rollout.bootstrap, following)
    delta = reward + discount * following - rollout.value

    def step(later, now):
        delta, done = now
        advantage = delta + discount * trace * jnp.where(done, 0, later)
        return advantage, advantage

    _, result = lax.scan(step, jnp.zeros_like(delta[0]), (delta, done), reverse=True)
    return result


class AbstractLearner(eqx.Module):
    """Improves a policy from its rollouts: frozen configuration, the ``Agent`` apart."""

    optimizer: eqx.AbstractVar[optax.GradientTransformation]
    discount: eqx.AbstractVar[float]

    def start(self, network: ActorCritic, count: int) -> Agent:
        """A learner that has seen nothing, for rollouts of ``count`` environments."""
        return Agent(network, self.optimizer.init(network), ReturnScale.start(count))  # pyright: ignore

    @abc.abstractmethod
    def update(
        self,
        agent: Agent,
        rollout: Rollout,
        reward: Float[Array, "T N"],
        key: Key,
        extra: ExtraLoss,
    ) -> tuple[Agent, dict[str, Scalar]]:
        """The agent after one rollout.

        ``reward`` is what the policy is to maximise; ``extra(network, step)``, with the number of
        the gradient step, is added to every loss (the upper level's share of the policy gradient).
        It is in units of ``reward``, per step: what advantages are divided by, it is divided by
        too, and where that is 0 it is left out.
        """


class A2C(AbstractLearner):
    """Advantage actor-critic (Mnih et al. 2016): one gradient step a rollout.

    Attributes:
        optimizer: any optax optimiser.
        discount: gamma.
        trace: the lambda of generalised advantages.
        entropy: the weight tau of the entropy bonus, in units of scaled return.
        value_weight: the weight of the critic's squared error.
    """

    optimizer: optax.GradientTransformation
    discount: float = 0.99
    trace: float = 0.95
    entropy: float = 0.01
    value_weight: float = 0.5

    def update(self, agent, rollout, reward, key, extra):
        scale, advantage, target = _lessons(agent, rollout, reward, self.discount, self.trace)
        keep = _real(rollout)

        def loss(network):
            log_probs, value = network(rollout.observation)
            chosen = jnp.take_along_axis(log_probs, rollout.action[..., None], -1)[..., 0]
            entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
            policy_loss = -jnp.sum(keep * advantage * chosen)
            value_loss = jnp.sum(keep * (value - target) ** 2)
            mean_entropy = jnp.sum(keep * entropy)
            total = policy_loss + self.value_weight * value_loss - self.entropy * mean_entropy
            total += extra(network, 0) / scale.deviation
            return total, (policy_loss, value_loss, mean_entropy)

        (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(agent.network)
        network, state = _apply(self.optimizer, agent, gradient)
        names = ("policy_loss", "value_loss", "entropy")
        return Agent(network, state, scale), dict(zip(names, parts, strict=True))  # pyright: ignore


class PPO(AbstractLearner):
    """Proximal policy optimisation (Schulman et al. 2017): several epochs over each rollout.

    Attributes:
        optimizer, discount, trace, entropy, value_weight: as for ``A2C``.
        epochs: passes over a rollout.
        minibatches: gradient steps in each pass.
        ratio_range: how far pi / pi_old may move before its gradient ends (epsilon); part of the
            objective, not a guard.
    """

    optimizer: optax.GradientTransformation
    discount: float = 0.99
    trace: float = 0.95
    entropy: float = 0.01
    value_weight: float = 0.5
    epochs: int = 4
    minibatches: int = 4
    ratio_range: float = 0.2

    def update(self, agent, rollout, reward, key, extra):
        scale, advantage, target = _lessons(agent, rollout, reward, self.discount, self.trace)
        batch = dict(
            observation=rollout.observation,
            action=rollout.action,
            log_prob=rollout.log_prob,
            advantage=advantage,
            target=target,
            keep=~rollout.fake,
        )
        batch = jax.tree.map(lambda z: z.reshape(-1, *z.shape[2:]), batch)
        count = batch["action"].shape[0]
        size = count // self.minibatches

        _, spread = _standard(advantage, _real(rollout))
        unit = scale.deviation * spread
        scaled = lambda network, step: jnp.where(
            unit > 0, extra(network, step) / jnp.where(unit > 0, unit, 1), 0
        )

        def minibatch(carry, now):
            step, rows = now
            agent, part = carry[0], jax.tree.map(lambda z: z[rows], batch)
            (_, parts), gradient = jax.value_and_grad(self._loss, has_aux=True)(
                agent.network, part, lambda network: scaled(network, step)
            )
            network, state = _apply(self.optimizer, agent, gradient)
            return (Agent(network, state, scale),), parts  # pyright: ignore

        orders = jax.vmap(lambda k: jax.random.permutation(k, count))(
            jax.random.split(key, self.epochs)
        )
        rows = orders[:, : size * self.minibatches].reshape(-1, size)
        (agent,), parts = lax.scan(minibatch, (agent,), (jnp.arange(len(rows)), rows))
        names = ("policy_loss", "value_loss", "entropy")
        return eqx.tree_at(lambda a: a.scale, agent, scale), dict(
            zip(names, map(jnp.mean, parts), strict=True)
        )

    def _loss(self, network, part, extra):
        log_probs, value = network(part["observation"])
        chosen = jnp.take_along_axis(log_probs, part["action"][:, None], 1)[:, 0]
        keep = part["keep"] / jnp.maximum(jnp.sum(part["keep"]), 1)
        mean, deviation = _standard(part["advantage"], keep)
        advantage = (part["advantage"] - mean) / (deviation + 1e-8)
        ratio = jnp.exp(chosen - part["log_prob"])
        near = jnp.clip(ratio, 1 - self.ratio_range, 1 + self.ratio_range)
        policy_loss = -jnp.sum(keep * jnp.minimum(ratio * advantage, near * advantage))
        value_loss = jnp.sum(keep * (value - part["target"]) ** 2)
        entropy = -jnp.sum(keep * jnp.sum(jnp.exp(log_probs) * log_probs, -1))
        total = policy_loss + self.value_weight * value_loss - self.entropy * entropy
        return total + extra(network), (policy_loss, value_loss, entropy)


def _lessons(agent, rollout, reward, discount, trace):
    """The scale of returns, the policy's advantages and the critic's targets."""
    done = rollout.terminated | rollout.truncated
    scale = agent.scale.update(reward, done, ~rollout.fake, discount)
    advantage = advantages(rollout, reward / scale.deviation, discount, trace)
    return scale, jnp.where(scale.varies, advantage, 0), rollout.value + advantage


def _real(rollout):
    """Weights that average over the transitions of a rollout, automatic resets left out."""
    real = ~rollout.fake
    return real / jnp.maximum(jnp.sum(real), 1)


def _standard(values, weights):
    """The mean and the standard deviation under these weights, which sum to 1."""
    mean = jnp.sum(weights * values)
    return mean, jnp.sqrt(jnp.sum(weights * (values - mean) ** 2))


def _apply(optimizer, agent, gradient):
    moves, state = optimizer.update(gradient, agent.optimizer_state, agent.network)
    return optax.apply_updates(agent.network, moves), state
