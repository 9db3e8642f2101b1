"""The range that holds nearly all values."""

from __future__ import annotations

import numpy as np

from qcompress.calibrate.histogram import Histogram
from qcompress.calibrate.ranges.record import TensorRecord, with_zero
from qcompress.types import QuantScheme, TensorRange

PERCENTILE = 99.999
"""Percent of the values inside the range.

Source: one of the percentiles compared in Wu et al., Integer quantization for deep learning inference, arXiv:2004.09602.
"""


def percentile(record: TensorRecord, scheme: QuantScheme) -> TensorRange:
    """The range that ``PERCENTILE`` percent of the values lie in.

    A tensor of one sign is cut at its far end alone, any other by half of the rest at each end.

    Source: McKinstry et al., Discovering low-precision networks close to full-precision networks, arXiv:1809.04191.
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
    upto = np.cumsum(histogram.counts)
    target = fraction * float(upto[-1])
    index = int(np.searchsorted(upto, max(target, 1.0)))  # the first bin that reaches it, never an empty one
    inside = 1.0 - (upto[index] - target) / histogram.counts[index]
    value = float(histogram.edges[index] + inside * histogram.width)
    return min(max(value, histogram.minimum), histogram.maximum)
