"""A histogram of fixed size that follows its data: bins double in width as the range grows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompress.types import Array

BINS = 2048
"""Bins kept for a tensor: enough for 8 bits (8 bins a code), the usual number in entropy calibration."""

MANTISSA_BITS = 23
"""A bin is never narrower than float32 can tell apart at the largest value."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values fell into bins of width 2^exponent whose edges are multiples of that width.

    Because edges lie on a grid that only ever gets coarser by two, the result depends on the values alone, not on how
    they were split into batches or in which order they came.

    ``counts``: (BINS,), int64; bin i covers [(first + i) * width, (first + i + 1) * width). ``minimum`` and ``maximum``
    are exact; an empty histogram has minimum > maximum.
    """

    counts: Array
    first: int
    exponent: int
    minimum: float
    maximum: float

    @classmethod
    def empty(cls) -> Histogram:
        """A histogram of nothing."""
        return cls(np.zeros(BINS, np.int64), 0, -1074, math.inf, -math.inf)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many values were counted, with their weights."""
        return int(self.counts.sum())

    @property
    def centers(self) -> Array:
        """(BINS,), float64: the middle of each bin, moved into [minimum, maximum]."""
        middles = (np.arange(BINS) + self.first + 0.5) * self.width
        return np.asarray(np.clip(middles, self.minimum, self.maximum))

    @property
    def edges(self) -> Array:
        """(BINS + 1,), float64: where the bins begin and end."""
        return np.asarray((np.arange(BINS + 1) + self.first) * self.width)

    def add(self, values: Array, weight: int = 1) -> Histogram:
        """This histogram with each of ``values`` (any shape, finite) counted ``weight`` times."""
        if values.size == 0:
            return self
        values = values.ravel().astype(np.float64)
        grown = self.covering(float(values.min()), float(values.max()))
        indices = np.floor(values * math.ldexp(1.0, -grown.exponent)).astype(np.int64) - grown.first
        return grown.with_counts(grown.counts + weight * np.bincount(indices, minlength=BINS))

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values."""
        if other.minimum > other.maximum:
            return self
        mine = self.covering(other.minimum, other.maximum)
        theirs = other.covering(mine.minimum, mine.maximum)
        return mine.with_counts(mine.counts + theirs.counts)

    def covering(self, low: float, high: float) -> Histogram:
        """This histogram, its bins widened and moved so that [low, high] fits and counts in its range."""
        low, high = min(low, self.minimum), max(high, self.maximum)
        if (low, high) == (self.minimum, self.maximum):
            return self
        exponent = grid_exponent(low, high)
        first = math.floor(math.ldexp(low, -exponent))
        return Histogram(self._counts_on(exponent, first), first, exponent, low, high)

    def from_zero(self) -> Histogram:
        """This histogram with bins so wide that 0 lies in its range too."""
        return self.covering(min(self.minimum, 0.0), max(self.maximum, 0.0))

    def with_counts(self, counts: Array) -> Histogram:
        """The same bins with other counts."""
        return Histogram(counts, self.first, self.exponent, self.minimum, self.maximum)

    def _counts_on(self, exponent: int, first: int) -> Array:
        """The counts on a coarser grid: floor(floor(x / 2^a) / 2^b) = floor(x / 2^(a + b))."""
        counts = np.zeros(BINS, np.int64)
        (used,) = np.nonzero(self.counts)
        shift = min(exponent - self.exponent, 62)
        np.add.at(counts, ((used + self.first) >> shift) - first, self.counts[used])
        return counts


def grid_exponent(low: float, high: float) -> int:
    """The smallest exponent whose bins of width 2^exponent cover [low, high] with BINS bins."""
    largest = max(abs(low), abs(high))
    finest = math.frexp(largest)[1] - MANTISSA_BITS if largest > 0.0 else -149  # the least positive float32 is 2^-149
    spread = high - low
    exponent = max(finest, math.frexp(spread)[1] - BINS.bit_length() if spread > 0.0 else finest)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent
