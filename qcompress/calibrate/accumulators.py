"""What is kept of a tensor from feed to feed: a histogram, a moving average, means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qcompress.calibrate.histogram import Histogram
from qcompress.calibrate.observers import PREFIX
from qcompress.calibrate.ranges.moving_average import average_step
from qcompress.calibrate.ranges.record import TensorRecord
from qcompress.errors import CalibrationError
from qcompress.types import Array, TensorRange

PENDING = 1 << 14
"""Values that wait before they are counted: counting many at a time costs a tenth."""


class RangeAccumulator:
    """The distribution of one tensor."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor
        self._histogram = Histogram.empty()
        self._average: TensorRange | None = None
        self._pending: dict[int, list[Array]] = {}  # weight -> arrays of values
        self._waiting = 0

    def update(self, found: Mapping[str, Array], size: int, where: str) -> None:
        """Add what the observers found of a tensor of ``size`` elements.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        if size == 0:
            return
        sample = found[f"{PREFIX}{self.tensor}/sample"]
        high = float(found[f"{PREFIX}{self.tensor}/max"])
        low = float(found.get(f"{PREFIX}{self.tensor}/min", sample.min()))  # not asked for where 0 is low enough
        if np.isinf(low) or np.isinf(high):
            raise not_finite(self.tensor, "infinite", where)
        if np.isnan(sample).any():
            raise not_finite(self.tensor, "NaN", where)
        self._average = average_step(self._average, low, high)
        self._count(sample, max(1, round(size / sample.size)))
        if sample.size < size:
            self._count(np.array([low, high], np.float32), 1)  # the sub-sample may have missed what lies farthest out
        if self._waiting >= PENDING:
            self._flush()

    def record(self) -> TensorRecord | None:
        """What was seen; None when no feed had an element."""
        self._flush()
        return None if self._average is None else TensorRecord(self._histogram, self._average)

    def _count(self, values: Array, weight: int) -> None:
        self._pending.setdefault(weight, []).append(values)
        self._waiting += values.size

    def _flush(self) -> None:
        for weight, arrays in self._pending.items():
            self._histogram = self._histogram.add(np.concatenate(arrays), weight)
        self._pending = {}
        self._waiting = 0


def check_sum(tensor: str, found: Mapping[str, Array], where: str) -> None:
    """Make sure that a tensor whose sum was asked for has no NaN.

    Raises:
        CalibrationError: it has.
    """
    name = f"{PREFIX}{tensor}/sum"
    both = {f"{PREFIX}{tensor}/min", f"{PREFIX}{tensor}/max"} & found.keys()
    if name in found and np.isnan(found[name]) and not any(np.isinf(found[end]) for end in both):
        raise not_finite(tensor, "NaN", where)


class MeanAccumulator:
    """The mean of one quantity per channel over all feeds, each feed weighted with its number of positions."""

    def __init__(self, tensor: str, axis: int, quantity: str) -> None:
        self.tensor = tensor
        self._axis = axis
        self._name = f"{PREFIX}{tensor}/{quantity}"
        self._weight = 0
        self._total: Array | None = None

    def update(self, found: Mapping[str, Array], shape: tuple[int, ...], where: str) -> None:
        """Add the means of one feed, in which the tensor has ``shape``.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        positions = int(np.prod(shape, dtype=np.int64)) // max(shape[self._axis], 1)
        if positions == 0:
            return
        values = found[self._name]
        if not np.isfinite(values).all():
            raise not_finite(self.tensor, "NaN or infinite", where)
        weighted = values.astype(np.float64) * positions
        self._total = weighted if self._total is None else self._total + weighted
        self._weight += positions

    @property
    def mean(self) -> Array:
        """(channels,), float64.

        Raises:
            CalibrationError: the tensor had no elements in any feed.
        """
        if self._total is None:
            raise CalibrationError(f"tensor {self.tensor!r} has no elements in any sample", "check the shapes of the data")
        return np.asarray(self._total / self._weight)


def not_finite(tensor: str, kind: str, where: str) -> CalibrationError:
    """The error for a tensor with values no range can hold."""
    hint = "check this sample, and the pre-processing; the float model itself may overflow on it"
    return CalibrationError(f"tensor {tensor!r} is {kind} in {where} of the calibration data", hint)
