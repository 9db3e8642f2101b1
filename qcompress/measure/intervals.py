"""95 % confidence intervals of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompress.results import Interval

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(slots=True)
class RunningMean:
    """Mean and variance of a stream of numbers in constant memory.

    Source: B. P. Welford, Note on a method for calculating corrected sums of squares and products, Technometrics 4, 1962.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take in one number."""
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)

    def interval(self, low: float = -math.inf, high: float = math.inf) -> Interval:
        """The mean with its normal-approximation interval, cut to the values possible; no interval for fewer than two."""
        if self.count < 2:
            return Interval(self.mean)
        margin = Z95 * math.sqrt(self.squares / (self.count - 1) / self.count)
        return Interval(self.mean, max(low, self.mean - margin), min(high, self.mean + margin))


def median_interval(values: Sequence[float]) -> Interval:
    """The median between two order statistics that enclose the true one with at least 95 % confidence.

    Free of assumptions about the distribution; fewer than six values cannot give 95 %, so they give no interval.

    Source: David and Nagaraja, Order Statistics, 3rd edition, 2003, section 7.1: P(x_(k) < median < x_(n-k+1)) =
    1 - 2 P(Binomial(n, 1/2) < k).
    """
    ordered = sorted(values)
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    rank, below = 0, 1  # below = 2^n P(Binomial(n, 1/2) <= rank), an exact integer
    term = 1
    while 40 * below <= 1 << count:  # one tail is at most 2.5 %
        rank += 1
        term = term * (count - rank + 1) // rank
        below += term
    if rank == 0:
        return Interval(middle)
    return Interval(middle, ordered[rank - 1], ordered[count - rank])
