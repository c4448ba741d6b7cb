"""Penalty weights (the paper's lambda): a number, a schedule, or raised as needed."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Bool, Int, Scalar


class AbstractWeight(eqx.Module):
    """The weight of each step's penalty."""

    @abc.abstractmethod
    def init(self) -> float:
        """The first step's weight."""

    @abc.abstractmethod
    def next(self, weight: Scalar, step: Int[Array, ""], penalty: Scalar) -> Scalar:
        """The weight after ``step`` steps, the last of which saw ``weight`` and ``penalty``."""

    @abc.abstractmethod
    def settled(self, step: Int[Array, ""], penalty: Scalar) -> Bool[Array, ""]:
        """Whether the weight will rise no further."""


class ConstantWeight(AbstractWeight):
    """One weight throughout."""

    value: float

    def __check_init__(self):
        _check_positive("ConstantWeight: value", self.value)

    def init(self):
        return self.value

    def next(self, weight, step, penalty):
        return weight

    def settled(self, step, penalty):
        return jnp.asarray(True)


class Homotopy(AbstractWeight):
    """Raised geometrically from ``initial`` to ``final`` over ``steps`` steps, then held.

    The early, soft penalty smooths the landscape in x; the late, hard one brings the policy to its
    best response: the gap falls as 1/weight^2.
    """

    initial: float
    final: float
    steps: int

    def __check_init__(self):
        _check_positive("Homotopy: initial", self.initial)
        _check_positive("Homotopy: final", self.final)
        if self.steps < 1:
            raise ValueError(f"Homotopy: steps is {self.steps}; give at least 1.")

    def init(self):
        return self.initial

    def next(self, weight, step, penalty):
        share = jnp.minimum(step / self.steps, 1).astype(weight.dtype)
        return self.initial * (self.final / self.initial) ** share

    def settled(self, step, penalty):
        return step >= self.steps


class AutomaticWeight(AbstractWeight):
    """Multiplied by ``factor`` every ``every`` steps while the penalty is above ``gap_tol``.

    The penalty by the solver's oracle decides, up to the oracle's tolerance the true gap; the
    certificate at the end has the last word. The weight never exceeds ``largest``: a penalty that
    no weight brings down is the jitter of too large steps, which more weight would only feed.
    """

    gap_tol: float
    initial: float = 1.0
    factor: float = 2.0
    every: int = 50
    largest: float = 1e6

    def __check_init__(self):
        _check_positive("AutomaticWeight: gap_tol", self.gap_tol)
        _check_positive("AutomaticWeight: initial", self.initial)
        if not self.factor > 1:
            raise ValueError(f"AutomaticWeight: factor is {self.factor}; give more than 1.")
        if self.every < 1:
            raise ValueError(f"AutomaticWeight: every is {self.every}; give at least 1.")
        if not self.largest >= self.initial:
            raise ValueError(
                f"AutomaticWeight: largest is {self.largest}; give at least initial, "
                f"{self.initial}."
            )

    def init(self):
        return self.initial

    def next(self, weight, step, penalty):
        raise_now = (step % self.every == 0) & (penalty > self.gap_tol)
        return jnp.where(raise_now, jnp.minimum(self.factor * weight, self.largest), weight)

    def settled(self, step, penalty):
        return penalty <= self.gap_tol


class ScheduledWeight(AbstractWeight):
    """Any function of the step, such as an optax schedule."""

    schedule: Callable[[Int[Array, ""]], Scalar]

    def init(self):
        return self.schedule(jnp.asarray(0))

    def next(self, weight, step, penalty):
        return jnp.asarray(self.schedule(step), weight.dtype)

    def settled(self, step, penalty):
        return jnp.asarray(True)


def as_weight(weight: float | Callable | AbstractWeight) -> AbstractWeight:
    """The weight itself, a constant from a number, or a schedule from a function of the step."""
    if isinstance(weight, AbstractWeight):
        return weight
    return ScheduledWeight(weight) if callable(weight) else ConstantWeight(float(weight))


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"{name} is {value}; give a positive number.")
