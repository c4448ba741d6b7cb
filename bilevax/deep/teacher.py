"""Teachers: who answers which of two segments is better.

Scripted teachers see the true reward and err in the ways people do (B-Pref, Lee et al. 2021,
Algorithm 1): they are noisy, make mistakes, skip, call segments equal, or mind the end the most.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Float, Key, concrete


class Answers(eqx.Module):
    """Answers to Q queries.

    Attributes:
        second: the probability given to "the second is better": 1, 0, or 1/2 for "equal".
        weight: how much each answer counts; 0 where the teacher skipped.
    """

    second: Float[Array, " Q"]
    weight: Float[Array, " Q"]


class AbstractTeacher(eqx.Module):
    """Answers queries from the true rewards of both segments."""

    @abc.abstractmethod
    def __call__(
        self, key: Key, first_reward: Float[Array, "Q L"], second_reward: Float[Array, "Q L"]
    ) -> Answers:
        """One answer for each pair of segments."""


class ScriptedTeacher(AbstractTeacher):
    """A teacher by B-Pref's recipe; the defaults are the oracle.

    With R the sum of a segment's rewards and R' = sum_t myopia^(L-1-t) r_t:
    skipped if max(R_1, R_2) < skip; equal if |R_2 - R_1| <= equal or R'_1 = R'_2; otherwise the
    second is preferred with probability sigmoid(beta (R'_2 - R'_1)), and the answer is turned
    round with probability ``mistake``. All in units of the true reward; differences that are
    only rounding count as none.

    Attributes:
        beta: rationality; infinity always prefers the better one.
        myopia: the discount towards the past, in (0, 1]; 1 weighs all steps alike.
        skip: segments that both return less than this are skipped; minus infinity skips none.
        equal: the largest difference of returns that is called equal.
        mistake: the probability of the opposite answer, in [0, 1].
    """

    beta: float = math.inf
    myopia: float = 1.0
    skip: float = -math.inf
    equal: float = 0.0
    mistake: float = 0.0

    def __check_init__(self):
        if not concrete(self.beta, self.myopia, self.skip, self.equal, self.mistake):
            return
        _require(self.beta >= 0, "beta", self.beta, "a rationality of at least 0")
        _require(0 < self.myopia <= 1, "myopia", self.myopia, "a discount in (0, 1]")
        _require(not math.isnan(self.skip), "skip", self.skip, "a return, or -inf to skip none")
        _require(0 <= self.equal < math.inf, "equal", self.equal, "a difference of at least 0")
        _require(0 <= self.mistake <= 1, "mistake", self.mistake, "a probability in [0, 1]")

    @classmethod
    def oracle(cls) -> "ScriptedTeacher":
        """Prefers the larger return; ties are equal."""
        return cls()

    @classmethod
    def noisy(cls, beta: float = 1.0) -> "ScriptedTeacher":
        """Prefers the second with probability sigmoid(beta (R_2 - R_1)): Bradley-Terry."""
        return cls(beta=beta)

    @classmethod
    def mistaken(cls, mistake: float = 0.1) -> "ScriptedTeacher":
        """The oracle, turned round with probability ``mistake``."""
        return cls(mistake=mistake)

    @classmethod
    def skipping(cls, skip: float) -> "ScriptedTeacher":
        """The oracle, which skips pairs that both return less than ``skip``."""
        return cls(skip=skip)

    @classmethod
    def equating(cls, equal: float) -> "ScriptedTeacher":
        """The oracle, to which returns that differ by at most ``equal`` are equal."""
        return cls(equal=equal)

    @classmethod
    def myopic(cls, myopia: float = 0.9) -> "ScriptedTeacher":
        """The oracle on returns discounted towards the past: the end counts the most."""
        return cls(myopia=myopia)

    def __call__(self, key, first_reward, second_reward):
        """One answer for each pair of segments."""
        choose, err = jax.random.split(key)
        first, second = jnp.sum(first_reward, axis=1), jnp.sum(second_reward, axis=1)
        difference = second_reward - first_reward
        seen = self.myopia ** jnp.arange(difference.shape[1] - 1, -1, -1, dtype=difference.dtype)
        perceived = difference @ seen
        # Sums of the same rewards in another order differ by rounding and are a tie all the same.
        size = jnp.sum(jnp.abs(first_reward) + jnp.abs(second_reward), axis=1)
        rounding = 2 * difference.shape[1] * jnp.finfo(size.dtype).eps * size

        certain = jnp.isinf(self.beta)
        odds = jax.nn.sigmoid(jnp.where(certain, 0.0, self.beta) * perceived)
        probability = jnp.where(certain, (perceived > 0).astype(odds.dtype), odds)
        preferred = jax.random.uniform(choose, odds.shape, odds.dtype) < probability
        turned = jax.random.uniform(err, odds.shape, odds.dtype) < self.mistake
        tied = (jnp.abs(second - first) <= self.equal + rounding) | (jnp.abs(perceived) <= rounding)
        answer = jnp.where(tied, 0.5, (preferred ^ turned).astype(odds.dtype))
        skipped = jnp.maximum(first, second) < self.skip - rounding
        return Answers(answer, jnp.where(skipped, 0.0, jnp.ones_like(odds)))


def _require(fine, name, value, wanted):
    if not fine:
        raise ValueError(f"ScriptedTeacher: {name} is {value}; give {wanted}.")
