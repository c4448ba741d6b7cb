"""Which of many candidate pairs to ask about."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._types import Array, Float, Int, Key


class AbstractSelection(eqx.Module):
    """Picks pairs from C candidates by what an ensemble of M members thinks of them."""

    @abc.abstractmethod
    def __call__(
        self,
        key: Key,
        candidates_first_sums: Float[Array, "M C"],
        candidates_second_sums: Float[Array, "M C"],
        novelty: Float[Array, " C"],
        count: int,
    ) -> Int[Array, " K"]:
        """The positions of ``count`` different candidates.

        The sums are each member's predicted return of the first and the second segment of every
        candidate; ``novelty`` says how unlike the other candidates it is, and decides where the
        sums leave a tie. ``ValueError`` if there are fewer candidates than asked.
        """


class UniformPairs(AbstractSelection):
    """Any pair is as likely as any other, novel or not."""

    def __call__(self, key, candidates_first_sums, candidates_second_sums, novelty, count):
        """The positions of ``count`` candidates drawn without replacement."""
        candidates = candidates_first_sums.shape[1]
        _require_enough(self, candidates, count)
        return jax.random.permutation(key, candidates)[:count]


class DisagreementPairs(AbstractSelection):
    """The pairs with the largest variance over members of P(second > first).

    Christiano et al. (2017), 2.2.4. With one member, or while no member knows a reward, all
    variances are 0 and novelty decides; where that is alike too, the draw is uniform.
    """

    def __call__(self, key, candidates_first_sums, candidates_second_sums, novelty, count):
        """The positions of the ``count`` candidates that the members disagree on most."""
        odds = jax.nn.sigmoid(candidates_second_sums - candidates_first_sums)
        return _largest(self, key, jnp.var(odds, axis=0), novelty, count)


class EntropyPairs(AbstractSelection):
    """The pairs with the largest entropy of the members' mean P(second > first).

    Lee et al. (2021): the pairs nearest to the decision boundary.
    """

    def __call__(self, key, candidates_first_sums, candidates_second_sums, novelty, count):
        """The positions of the ``count`` candidates whose answer is least certain."""
        odds = jnp.mean(jax.nn.sigmoid(candidates_second_sums - candidates_first_sums), axis=0)
        entropy = -jax.scipy.special.xlogy(odds, odds)
        entropy -= jax.scipy.special.xlog1py(1 - odds, -odds)
        return _largest(self, key, entropy, novelty, count)


def _largest(selection, key, score, novelty, count):
    """The positions of the largest scores; of equal ones the most novel, then in random order."""
    _require_enough(selection, score.shape[0], count)
    shuffled = jax.random.permutation(key, score.shape[0])
    order = shuffled[jnp.argsort(-novelty[shuffled], stable=True)]
    return order[lax.top_k(score[order], count)[1]]


def _require_enough(selection, candidates, count):
    if not 0 <= count <= candidates:
        raise ValueError(
            f"{type(selection).__name__}: {count} pairs are asked of {candidates} candidates; "
            "draw more candidates or ask for fewer pairs."
        )
