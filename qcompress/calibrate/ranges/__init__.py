"""How an activation's range is chosen, one file per method."""

from qcompress.calibrate.ranges.entropy import entropy
from qcompress.calibrate.ranges.minmax import minmax
from qcompress.calibrate.ranges.moving_average import moving_average
from qcompress.calibrate.ranges.mse import mse
from qcompress.calibrate.ranges.percentile import percentile
from qcompress.calibrate.ranges.record import RangeEstimator, TensorRecord
from qcompress.recipe import RangeMethod

RANGE_METHODS: dict[RangeMethod, RangeEstimator] = {
    RangeMethod.MINMAX: minmax,
    RangeMethod.MOVING_AVERAGE: moving_average,
    RangeMethod.PERCENTILE: percentile,
    RangeMethod.ENTROPY: entropy,
    RangeMethod.MSE: mse,
}
"""Every method a recipe can name."""

__all__ = ["RANGE_METHODS", "RangeEstimator", "TensorRecord"]
