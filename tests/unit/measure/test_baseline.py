"""A result held against last time's report."""

from dataclasses import replace

import pytest

from qcompress.measure import Baseline, check_baseline
from qcompress.results import AccuracyReport, DataFacts, Interval, LatencyReport, MetricPair, Report, SizeReport, TaskMetrics

SIZE = SizeReport(1000, 300, {"float32": 900}, {"int8": 225})
LATENCY = LatencyReport(2.0, 2.2, 1.0, 1.1, Interval(2.0, 1.9, 2.1), 30, 2, {"x": (1, 3)}, cores=4)


def scored(accuracy: float) -> AccuracyReport:
    """With labels."""
    task = TaskMetrics(Interval(accuracy), 0.9, 0.9, 0.9)
    return AccuracyReport(
        100, "eval.npz", (), replace(task, accuracy=Interval(0.9)), task, Interval(0.9 - accuracy), "accuracy"
    )


def agreeing(drop: float, drop_of: str = "agreement") -> AccuracyReport:
    """Without labels."""
    return AccuracyReport(100, "eval.npz", (), drop=Interval(drop), drop_of=drop_of)


def rated(value: float | None, name: str = "bleu") -> AccuracyReport:
    """By the user's own metric."""
    return AccuracyReport(100, "eval.npz", (), drop=Interval(0.0), metric=MetricPair(name, 30.0, value))


def base(latency: LatencyReport | None = LATENCY, accuracy: AccuracyReport | None = None, **tolerances: float) -> Baseline:
    return Baseline(Report("m", "o", "int8", DataFacts(), SIZE, latency, accuracy, None, ()), **tolerances)


def test_without_a_baseline_nothing_is_checked() -> None:
    assert check_baseline(None, SIZE, LATENCY, None) == ()


def test_the_same_again_passes() -> None:
    found = check_baseline(base(accuracy=scored(0.88)), SIZE, LATENCY, scored(0.88))
    assert [(gate.name, gate.passed) for gate in found] == [
        ("baseline_size", True),
        ("baseline_speed", True),
        ("baseline_accuracy", True),
    ]


@pytest.mark.parametrize(("grown", "passed"), [(303, True), (304, False), (10, True)])
def test_size_may_grow_by_its_tolerance(grown: int, passed: bool) -> None:
    (found,) = check_baseline(base(None), replace(SIZE, compressed_bytes=grown), None, None)
    assert found.passed == passed
    assert "300 last time" in found.message
    assert check_baseline(base(None, size=0.5), replace(SIZE, compressed_bytes=450), None, None)[0].passed


@pytest.mark.parametrize(("speedup", "passed"), [(1.81, True), (1.79, False), (9.0, True)])
def test_speed_may_fall_by_its_tolerance(speedup: float, passed: bool) -> None:
    found = check_baseline(base(), SIZE, replace(LATENCY, speedup=Interval(speedup)), None)[1]
    assert (found.name, found.passed, found.value) == ("baseline_speed", passed, speedup)


def test_another_machine_is_not_compared_and_says_so() -> None:
    found = check_baseline(base(), SIZE, replace(LATENCY, speedup=Interval(0.1), cores=8), None)[1]
    assert (found.passed, found.value) == (True, None)
    assert "not compared: last time ran on 4 cores with 2 threads" in found.message


@pytest.mark.parametrize(
    ("before", "now", "passed"),
    [
        (scored(0.88), scored(0.876), True),
        (scored(0.88), scored(0.874), False),
        (agreeing(0.01), agreeing(0.0149), True),
        (agreeing(0.01), agreeing(0.016), False),
        (rated(28.0), rated(27.9951), True),
        (rated(28.0), rated(27.9), False),
        (rated(28.0), rated(None), False),
        (scored(0.88), None, False),
    ],
)
def test_accuracy_may_fall_by_its_tolerance(before: AccuracyReport, now: AccuracyReport | None, passed: bool) -> None:
    found = check_baseline(base(None, before), SIZE, None, now)[1]
    assert (found.name, found.passed) == ("baseline_accuracy", passed)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (agreeing(0.01), agreeing(0.5, "cosine")),
        (rated(28.0), rated(0.5, "iou")),
        (rated(28.0), scored(0.1)),
        (rated(None), rated(1.0)),
    ],
)
def test_accuracies_of_other_kinds_are_not_compared(before: AccuracyReport, now: AccuracyReport) -> None:
    found = check_baseline(base(None, before), SIZE, None, now)[1]
    assert found.passed
    assert found.message.startswith("not compared")


def test_what_was_measured_last_time_must_be_measured_again() -> None:
    found = check_baseline(base(accuracy=scored(0.9)), SIZE, None, None)
    assert [gate.passed for gate in found] == [True, False, False]
    assert check_baseline(base(None), SIZE, LATENCY, scored(0.1)) == check_baseline(base(None), SIZE, None, None)
