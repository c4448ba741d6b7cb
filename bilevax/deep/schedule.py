"""How many of all labels are asked for in each round of a run."""

import abc

import equinox as eqx
import numpy as np


class AbstractSchedule(eqx.Module):
    """Splits a number of labels over the rounds of a run.

    Attributes:
        initial: the share asked in the first round on top of that round's own.
    """

    initial: eqx.AbstractVar[float]

    def __call__(self, total: int, rounds: int) -> tuple[int, ...]:
        """Labels per round, ``rounds`` integers of at least 0 that sum to ``total``."""
        if total < 0 or rounds < 1:
            raise ValueError(
                f"{type(self).__name__}: {total} labels over {rounds} rounds; give at least 0 "
                "labels and 1 round."
            )
        if not 0 <= self.initial <= 1:
            raise ValueError(
                f"{type(self).__name__}: initial is {self.initial}; give a share in [0, 1]."
            )
        rate = self.rates(rounds)
        share = self.initial + (1 - self.initial) * np.cumsum(rate) / np.sum(rate)
        # Rounding what has been asked so far, not each round, keeps the sum.
        asked = np.floor(total * share + 0.5).astype(int)
        asked[-1] = total
        return tuple(np.diff(asked, prepend=0).tolist())

    @abc.abstractmethod
    def rates(self, rounds: int) -> np.ndarray:
        """The rate of labelling in each round, up to a factor."""


class Even(AbstractSchedule):
    """The same number in every round."""

    initial: float = 0.0

    def rates(self, rounds):
        """One for every round."""
        return np.ones(rounds)


class Decreasing(AbstractSchedule):
    """A rate in proportion to ``half / (t + half)`` at the share t of the run.

    Christiano et al. (2017), appendix A: on Atari ``half`` is 5 of 50 million steps, and 500 of
    5,500 labels are asked before the first step.
    """

    initial: float = 0.1
    half: float = 0.1

    def rates(self, rounds):
        """The rate in the middle of each round."""
        if not self.half > 0:
            raise ValueError(
                f"Decreasing: half is {self.half}; give the positive share of the run after which "
                "the rate has halved."
            )
        return self.half / ((np.arange(rounds) + 0.5) / rounds + self.half)
