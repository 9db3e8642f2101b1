"""What is promised unasked: the budget of a plan, and the accuracy of the finished model."""

from dataclasses import replace

import pytest

from qcompress.measure import Promise, check_budget, check_promise
from qcompress.results import AccuracyReport, BinaryCounts, Gates, Interval, MetricPair, OutputAgreement, TaskMetrics

TASK = TaskMetrics(Interval(0.9), 0.9, 0.9, 0.9, BinaryCounts(9, 9, 1, 1))
PROMISE = Promise(0.01, ("logits",))


def labelled(drop: Interval | None) -> AccuracyReport:
    outputs = (OutputAgreement("logits", Interval(0.5, 0.4, 0.6), 3.0, 0.1),)
    return AccuracyReport(100, "eval.npz", outputs, TASK, TASK, drop, "accuracy of logits on the labels")


def unlabelled(**cosines: Interval) -> AccuracyReport:
    outputs = tuple(OutputAgreement(name, cosine, 3.0, 0.1) for name, cosine in cosines.items())
    return AccuracyReport(100, "eval.npz", outputs, drop=Interval(0.5, 0.4, 0.6), drop_of="cosine")


@pytest.mark.parametrize(
    ("accuracy", "kept"),
    [
        (labelled(Interval(0.02, 0.015, 0.025)), False),
        (labelled(Interval(0.02, 0.005, 0.035)), True),  # may as well be within
        (labelled(Interval(0.02)), True),  # no interval, no verdict
        (labelled(None), True),
        (unlabelled(logits=Interval(0.97, 0.96, 0.98)), False),
        (unlabelled(logits=Interval(0.97, 0.94, 0.995)), True),
        (unlabelled(logits=Interval(0.999, 0.998, 1.0), features=Interval(0.2, 0.1, 0.3)), True),  # an inner output
    ],
)
def test_a_drop_clearly_above_the_budget_fails_unasked(accuracy: AccuracyReport, kept: bool) -> None:
    found = check_promise(Gates(), None, accuracy, PROMISE)
    assert all(gate.passed for gate in found) is kept
    assert [gate.name for gate in found] == ([] if kept else ["as_accurate"])
    assert check_promise(Gates(max_accuracy_drop=0.5), None, accuracy, PROMISE) == ()  # the user's own limit counts instead
    assert check_promise(Gates(), None, accuracy) == ()


def test_a_changed_class_without_labels_is_no_drop_of_accuracy() -> None:
    accuracy = unlabelled(logits=Interval(0.5, 0.4, 0.6))
    changed = replace(accuracy, agreement=(replace(accuracy.agreement[0], top1=Interval(0.5, 0.4, 0.6)),))
    assert check_promise(Gates(), None, changed, PROMISE) == ()


def test_a_metric_of_the_users_own_has_a_scale_of_its_own() -> None:
    accuracy = replace(labelled(Interval(0.5, 0.4, 0.6)), metric=MetricPair("my:perplexity", 90.0, 80.0))
    assert check_promise(Gates(), None, accuracy, PROMISE) == ()


def test_the_budget_of_a_plan_is_told_and_checked() -> None:
    (kept,) = check_budget(0.004, 0.01)
    assert kept.passed
    assert kept.message == "budget 0.01 of agreement, used 0.004"
    (missed,) = check_budget(0.03, 0.01, ("head is not static", "no candidate lost less"))
    assert not missed.passed
    assert "used 0.03" in missed.message
    assert "head is not static; no candidate lost less" in missed.message
    assert check_budget(None, 0.01) == check_budget(0.5, None) == ()


def test_a_loss_that_is_not_a_number_fails() -> None:
    (gate,) = check_budget(float("nan"), 0.01)
    assert not gate.passed
