"""The range of everything that was seen."""

from __future__ import annotations

from qcompress.calibrate.ranges.record import TensorRecord, with_zero
from qcompress.types import QuantScheme, TensorRange


def minmax(record: TensorRecord, scheme: QuantScheme) -> TensorRange:
    """From the smallest to the largest value; nothing is clipped, one outlier costs resolution for all."""
    return with_zero(record.histogram.minimum, record.histogram.maximum)
