"""What calibration keeps of one tensor, and the type of the functions that choose a range from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcompress.calibrate.histogram import Histogram
from qcompress.types import QuantScheme, TensorRange


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """The distribution of a tensor's values, and the moving average of the extremes of its feeds."""

    histogram: Histogram
    average: TensorRange


RangeEstimator = Callable[[TensorRecord, QuantScheme], TensorRange]


def with_zero(low: float, high: float) -> TensorRange:
    """The range widened to contain 0, as every quantized range does."""
    return TensorRange(min(low, 0.0), max(high, 0.0))
