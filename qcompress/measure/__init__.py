"""What compression bought and what it cost: bytes, milliseconds, accuracy, kernels, and the gates they are held against."""

from qcompress.measure.accuracy import AccuracySettings, measure_accuracy
from qcompress.measure.baseline import Baseline, check_baseline
from qcompress.measure.gates import Promise, check_budget, check_gates, check_promise
from qcompress.measure.kernels import measure_kernels
from qcompress.measure.latency import LatencySettings, measure_latency
from qcompress.measure.size import measure_size

__all__ = [
    "AccuracySettings",
    "Baseline",
    "LatencySettings",
    "Promise",
    "check_baseline",
    "check_budget",
    "check_gates",
    "check_promise",
    "measure_accuracy",
    "measure_kernels",
    "measure_latency",
    "measure_size",
]
