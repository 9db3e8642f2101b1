"""The range that loses least: rounding error inside against clipping error outside.

For a range [low, high] of step s = (high - low) / (2^bits - 1) the expected squared error of a value x is

    s^2 / 12        where low <= x <= high   (rounding, uniform over a step; values in the bins of 0 and of both ends,
                                              where activations like ReLU6 pile up, are exact)
    (x - high)^2    where x > high           (clipping)
    (low - x)^2     where x < low

and its sum over a histogram follows from prefix sums of c, c x and c x^2, so all candidates are compared at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompress.calibrate.histogram import Histogram
from qcompress.calibrate.ranges.record import TensorRecord, with_zero
from qcompress.types import Array, QuantScheme, TensorRange

CANDIDATES = 65
"""Ends tried on each side in each round, the unclipped one among them; 65 x 65 pairs take about a millisecond."""

ROUNDS = 2
"""Rounds of search; each looks at the surroundings of the best pair of the one before, 64 times finer."""

GAIN = 0.99
"""A clipped range must have less than this share of the unclipped error; below that the histogram cannot tell."""


def mse(record: TensorRecord, scheme: QuantScheme) -> TensorRange:
    """The range of least expected squared quantization error; never clipped unless that helps.

    Source: Banner et al., Post training 4-bit quantization of convolutional networks, NeurIPS 2019, arXiv:1810.05723,
    equation 2, over the observed distribution instead of an assumed one.
    """
    sums = _Sums.of(record.histogram)
    full = with_zero(record.histogram.minimum, record.histogram.maximum)
    if full.low == full.high or sums.count[-1] == 0:
        return full
    levels = float(scheme.qmax - scheme.qmin)
    best, least = full, float(sums.error(np.array([full.low]), np.array([full.high]), levels)[0])
    limit = GAIN * least
    span = 1.0
    for _ in range(ROUNDS):
        lows, highs = _candidates(full, best, span, scheme.symmetric)
        errors = sums.error(lows, highs, levels)
        index = int(np.argmin(errors))
        if errors[index] < least:
            best, least = TensorRange(float(lows[index]), float(highs[index])), float(errors[index])
        span /= CANDIDATES - 1
    if least >= limit:
        return full
    # The formula takes rounding errors as uniform, which coarse steps on a narrow peak are not: compare what really happens.
    return best if _rounded_error(record.histogram, best, scheme) < _rounded_error(record.histogram, full, scheme) else full


def _rounded_error(histogram: Histogram, found: TensorRange, scheme: QuantScheme) -> float:
    """Summed squared error of the middles of the bins after rounding to the codes of a range."""
    low, high = found.low, found.high
    if scheme.symmetric:
        low, high = -max(-low, high), max(-low, high)
    if low == high:
        return float((histogram.counts * histogram.centers**2).sum())
    step = (high - low) / (scheme.qmax - scheme.qmin)
    zero = np.rint(-low / step)  # 0 is a code
    codes = np.clip(np.rint(histogram.centers / step), -zero, scheme.qmax - scheme.qmin - zero)
    return float((histogram.counts * (histogram.centers - codes * step) ** 2).sum())


def _candidates(full: TensorRange, best: TensorRange, span: float, symmetric: bool) -> tuple[Array, Array]:
    """Lower and upper ends around ``best``, within ``full``: every pair, or the same clip on both sides."""
    factors = np.linspace(-1.0, 1.0, 2 * CANDIDATES - 1) * span
    if symmetric:
        clips = np.clip(max(-best.low, best.high) + factors * max(-full.low, full.high), 0.0, max(-full.low, full.high))
        return np.maximum(-clips, full.low), np.minimum(clips, full.high)
    lows = np.unique(np.clip(best.low + factors * -full.low, full.low, 0.0))
    highs = np.unique(np.clip(best.high + factors * full.high, 0.0, full.high))
    low_grid, high_grid = np.meshgrid(lows, highs, indexing="ij")
    return low_grid.ravel(), high_grid.ravel()


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Prefix sums over the bins: number of values, their sum and sum of squares, and the number that is not exact."""

    width: float
    middles: Array
    count: Array
    first: Array
    second: Array
    inexact: Array

    @classmethod
    def of(cls, histogram: Histogram) -> _Sums:
        (used,) = np.nonzero(histogram.counts)
        counts = histogram.counts[used].astype(np.float64)
        middles = histogram.centers[used]
        exact = used + histogram.first == 0  # 0 is always a code; after a ReLU most of this bin is 0
        return cls(
            histogram.width,
            middles,
            _prefix(counts),
            _prefix(counts * middles),
            _prefix(counts * middles**2),
            _prefix(np.where(exact, 0.0, counts)),
        )

    def error(self, low: Array, high: Array, levels: float) -> Array:
        """Summed squared error of each candidate range, arrays of one shape."""
        below = np.searchsorted(self.middles, low, side="left")
        above = np.searchsorted(self.middles, high, side="right")
        step = (high - low) / levels
        inner = (
            np.searchsorted(self.middles, high - self.width),
            np.searchsorted(self.middles, low + self.width, side="right"),
        )
        rounding = step**2 / 12.0 * np.maximum(self.inexact[inner[0]] - self.inexact[inner[1]], 0.0)
        clipped_low = self.second[below] - 2.0 * low * self.first[below] + low**2 * self.count[below]
        first, second = self.first[-1] - self.first[above], self.second[-1] - self.second[above]
        clipped_high = second - 2.0 * high * first + high**2 * (self.count[-1] - self.count[above])
        return np.asarray(rounding + clipped_low + clipped_high)


def _prefix(values: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(values)])
