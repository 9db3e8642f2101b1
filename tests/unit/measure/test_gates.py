import pytest

from qcompress.measure import check_gates, check_promise
from qcompress.results import AccuracyReport, Gates, Interval, LatencyReport, MetricPair, OutputAgreement, SizeReport

SIZE = SizeReport(1000, 300, {"float32": 900}, {"int8": 225})
LATENCY = LatencyReport(2.0, 2.2, 1.0, 1.1, Interval(2.0, 1.9, 2.1), 30, 2, {"x": (1, 3)})


def accuracy(drop=0.01, sqnr=(30.0, 25.0), metric=None):
    outputs = tuple(OutputAgreement(f"out{i}", Interval(0.99), value, 0.1) for i, value in enumerate(sqnr))
    return AccuracyReport(100, "eval.npz", outputs, drop=None if drop is None else Interval(drop), metric=metric)


@pytest.mark.parametrize(
    ("gates", "value", "passed", "words"),
    [
        (Gates(max_accuracy_drop=0.02), 0.01, True, "at most 0.02"),
        (Gates(max_accuracy_drop=0.01), 0.01, True, "at most 0.01"),
        (Gates(max_accuracy_drop=0.004), 0.01, False, "0.0060 too much"),
        (Gates(min_speedup=1.5), 2.0, True, "[1.90, 2.10]"),
        (Gates(min_speedup=2.5), 2.0, False, "0.5x short"),
        (Gates(max_size_ratio=0.3), 0.3, True, "size ratio 0.300"),
        (Gates(max_size_ratio=0.25), 0.3, False, "0.05 too much, 50 bytes"),
        (Gates(min_sqnr=20.0), 25.0, True, "SQNR of out1"),
        (Gates(min_sqnr=28), 25.0, False, "3 dB short"),
    ],
)
def test_each_gate_says_by_how_much(gates, value, passed, words):
    (found,) = check_gates(gates, SIZE, LATENCY, accuracy())
    assert (found.value, found.passed) == (value, passed)
    assert words in found.message


def test_gates_that_were_not_asked_are_not_checked():
    assert check_gates(Gates(), SIZE, None, None) == ()


def test_gates_come_in_the_order_of_their_fields():
    found = check_gates(Gates(0.1, 1.0, 0.5, 10.0), SIZE, LATENCY, accuracy())
    assert [gate.name for gate in found] == ["max_accuracy_drop", "min_speedup", "max_size_ratio", "min_sqnr"]
    assert all(gate.passed for gate in found)


def test_what_was_not_measured_fails_and_says_what_is_needed():
    found = check_gates(Gates(0.1, 1.0, None, 10.0), SIZE, None, None)
    assert [gate.passed for gate in found] == [False, False, False]
    assert all("--eval-data" in gate.message for gate in found)


def test_a_metric_that_is_not_a_number_fails():
    pair = MetricPair("loader:iou", 0.9, None)
    (found,) = check_gates(Gates(max_accuracy_drop=0.1), SIZE, LATENCY, accuracy(None, metric=pair))
    assert not found.passed
    assert "loader:iou" in found.message


def test_equal_outputs_have_no_noise_to_fail_on():
    (found,) = check_gates(Gates(min_sqnr=100.0), SIZE, LATENCY, accuracy(sqnr=(None,)))
    assert found.passed
    assert found.value is None


def test_a_model_without_float_outputs_has_no_sqnr():
    whole = AccuracyReport(1, "x", (OutputAgreement("ids", None, None, 0.0, equal=Interval(1.0)),))
    (found,) = check_gates(Gates(min_sqnr=1.0), SIZE, LATENCY, whole)
    assert not found.passed


def test_nan_never_passes():
    (found,) = check_gates(Gates(max_accuracy_drop=0.1), SIZE, LATENCY, accuracy(float("nan")))
    assert not found.passed


@pytest.mark.parametrize(
    ("speedup", "rounds", "kept"),
    [
        (Interval(0.98, 0.97, 0.99), 100, True),  # within what one model differs from itself
        (Interval(0.90, 0.88, 0.92), 100, False),
        (Interval(0.90, 0.88, 0.92), 7, True),  # a burst of other work moves all of a few rounds
        (Interval(0.60, 0.55, 0.70), 7, False),
        (Interval(0.60), 3, True),  # no interval, no verdict
    ],
)
def test_a_result_that_is_clearly_slower_fails_unasked(speedup, rounds, kept):
    latency = LatencyReport(2.0, 2.2, 1.0, 1.1, speedup, rounds, 2, {"x": (1, 3)})
    found = check_promise(Gates(), latency)
    assert all(gate.passed for gate in found) is kept
    assert check_promise(Gates(min_speedup=0.5), latency) == ()  # the user's own limit counts instead
    assert check_promise(Gates(), None) == ()
