"""The extremes of a feed, averaged over feeds."""

from __future__ import annotations

from qcompress.calibrate.ranges.record import TensorRecord, with_zero
from qcompress.types import QuantScheme, TensorRange

MOMENTUM = 0.01
"""Weight of the newest feed.

Source: the averaging constant of MovingAverageMinMaxObserver of PyTorch and of the MinMax calibrater of onnxruntime.
"""


def moving_average(record: TensorRecord, scheme: QuantScheme) -> TensorRange:
    """The exponential moving average of each feed's smallest and largest value; depends on the order of the feeds.

    Source: Jacob et al., CVPR 2018, arXiv:1712.05877, section 3.1.
    """
    return with_zero(record.average.low, record.average.high)


def average_step(average: TensorRange | None, low: float, high: float) -> TensorRange:
    """The average after one more feed; the first feed starts it."""
    if average is None:
        return TensorRange(low, high)
    return TensorRange(average.low + MOMENTUM * (low - average.low), average.high + MOMENTUM * (high - average.high))
