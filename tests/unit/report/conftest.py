"""A report with everything in it, and one with as little as possible."""

from __future__ import annotations

import pytest

from qcompress.results import (
    AccuracyReport,
    BinaryCounts,
    DataFacts,
    GateResult,
    Interval,
    KernelReport,
    LatencyReport,
    MetricPair,
    OutputAgreement,
    Report,
    SizeReport,
    TaskMetrics,
    WeightRow,
)


@pytest.fixture
def full() -> Report:
    before = TaskMetrics(Interval(0.9123456789, 0.88, 0.93), 0.9, 0.91, 0.905, BinaryCounts(50, 41, 5, 4))
    after = TaskMetrics(Interval(0.9, 0.87, 0.92), 0.89, 0.9, 0.895, BinaryCounts(49, 41, 5, 5))
    agreement = (
        OutputAgreement("logits", Interval(0.999, 0.998, 1.0), 31.25, 0.125, Interval(0.98, 0.95, 0.99)),
        OutputAgreement("ids", None, None, 3.0, None, Interval(1.0, 0.9, 1.0), 2),
    )
    notes = ("OUTPUT LOST: ids is NaN in 2 of 100 samples",)
    accuracy = AccuracyReport(
        100,
        "eval.npz",
        agreement,
        before,
        after,
        Interval(0.0123),
        "accuracy",
        "logits",
        MetricPair("iou", 0.5, None),
        notes,
    )
    return Report(
        source="in/model|a.onnx",
        target="out/model.onnx",
        recipe="int8",
        data=DataFacts("calib.npz", 64, "eval.npz", 100, random=True, held_out=True),
        size=SizeReport(1_234_567, 400_000, {"float32": 1_200_000}, {"float32": 10_000, "int8": 300_000}),
        latency=LatencyReport(
            2.0, 2.2, 1.0, 1.1, Interval(2.0, 1.9, 2.1), 30, 0, {"x": (1, 3, 8, 8)}, 60, 4, "onnxruntime 1.31"
        ),
        accuracy=accuracy,
        kernels=KernelReport({"QLinearConv": 7}, {"/head/Gemm": "Gemm"}, 4, "onnxruntime 1.31"),
        coverage=(
            WeightRow("w1", ("conv1",), ("Conv",), (16, 3, 3, 3), "float32", 1728, 500, "static", "int8/channel", 8.3),
            WeightRow("table", ("embed",), ("Gather",), (10, 4), "float32", 160, 160, reason="too small to pay"),
        ),
        gates=(
            GateResult("max_size_ratio", 0.35, 0.324, True, "size ratio 0.324, at most 0.35 allowed"),
            GateResult("min_speedup", 2.5, 2.0, False, "speed-up 2.00x, at least 2.5x asked: 0.5x short"),
        ),
        notes=("opset raised from 11 to 13",),
        versions={"onnxruntime": "1.31.1", "qcompress": "0.1.0"},
    )


@pytest.fixture
def bare() -> Report:
    size = SizeReport(100, 90, {"float32": 80}, {"int8": 20})
    return Report("a.onnx", "b.onnx", "int8-weights", DataFacts(), size, None, None, None, ())
