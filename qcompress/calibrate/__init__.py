"""One streaming pass over the data; observers live inside the graph and activations never reach Python whole."""

from qcompress.calibrate.channels import collect_channels
from qcompress.calibrate.collect import Batch, CalibrationSettings, MeansRequest, collect, collect_means
from qcompress.calibrate.histogram import Histogram
from qcompress.calibrate.ranges import RANGE_METHODS, RangeEstimator, TensorRecord
from qcompress.calibrate.shapes import observe_shapes

__all__ = [
    "RANGE_METHODS",
    "Batch",
    "CalibrationSettings",
    "Histogram",
    "MeansRequest",
    "RangeEstimator",
    "TensorRecord",
    "collect",
    "collect_channels",
    "collect_means",
    "observe_shapes",
]
