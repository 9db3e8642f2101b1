"""The range that holds nearly all values."""

from __future__ import annotations

import numpy as np

from qcompress.calibrate.histogram import Histogram
from qcompress.calibrate.ranges.record import TensorRecord, with_zero
from qcompress.types import QuantScheme, TensorRange

PERCENTILE = 99.999
"""Percent of the values inside the range.

Source: Wu et al., Integer quantization for deep learning inference, arXiv:2004.09602, table 5: of 99.9, 99.99, 99.999 and
99.9999 it is the one that loses least over their networks.
"""


def percentile(record: TensorRecord, scheme: QuantScheme) -> TensorRange:
    """The range that ``PERCENTILE`` percent of the values lie in.

    A tensor of one sign is cut at its far end alone, any other by half of the rest at each end.

    Source: McKinstry et al., arXiv:1809.04191, section 3.2.
    """
    histogram = record.histogram
    tail = 1.0 - PERCENTILE / 100.0
    if histogram.minimum >= 0.0:
        return with_zero(histogram.minimum, quantile(histogram, 1.0 - tail))
    if histogram.maximum <= 0.0:
        return with_zero(quantile(histogram, tail), histogram.maximum)
    return with_zero(quantile(histogram, tail / 2), quantile(histogram, 1.0 - tail / 2))


def quantile(histogram: Histogram, fraction: float) -> float:
    """The value that ``fraction`` of the values lie below, interpolated within its bin."""
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    (used,) = np.nonzero(histogram.counts)
    if used.size == 0:
        return histogram.maximum
    points = np.concatenate([used, [used[-1] + 1]])  # empty bins would make the curve flat
    value = float(np.interp(fraction * below[-1], below[points], histogram.edges[points]))
    return min(max(value, histogram.minimum), histogram.maximum)
