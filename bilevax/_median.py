"""How sure a median is, whatever the distribution."""

import math
from collections.abc import Sequence

import numpy as np


def median_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval [v_(k), v_(n+1-k)] of the median between order statistics.

    k is the largest with 1 - 2 P(B < k) >= ``level`` for B ~ Binomial(n, 1/2), which is the chance
    that the interval holds the median of any continuous distribution. ``None`` where even k = 1
    does not do: below six values at 95 per cent. Source: the sign test inverted; David and Nagaraja
    2003, section 7.1.
    """
    count = len(values)
    chance = 1.0  # that the interval from the k-th value on holds the median
    k = 0
    while k <= count // 2:
        chance -= 2 * math.comb(count, k) / 2**count
        if chance < level:
            break
        k += 1
    if k == 0:
        return None
    ordered = sorted(values)
    return ordered[k - 1], ordered[count - k]
