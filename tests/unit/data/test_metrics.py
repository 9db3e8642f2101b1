"""Metrics against values computed by hand or given in the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcompress.data import (
    Scores,
    accuracy_drop,
    binary_threshold,
    classification_scores,
    decide,
    has_classes,
    join_scores,
    load_metric,
    task_metrics,
    wilson_interval,
)
from qcompress.errors import DataError
from qcompress.results import BinaryCounts


def test_wilson_interval_of_the_literature() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263 and 15/148, 0/20, 1/29.
    for correct, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson_interval(correct, total)
        assert found.value == correct / total
        assert found.low == pytest.approx(low, abs=5e-5)
        assert found.high == pytest.approx(high, abs=5e-5)


def test_binary_metrics_by_hand() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    predicted = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    found = task_metrics(predicted, labels, 2)
    assert found.counts == BinaryCounts(true_positive=3, true_negative=4, false_positive=2, false_negative=1)
    assert found.accuracy.value == 0.7
    assert found.precision == pytest.approx(3 / 5)
    assert found.recall == pytest.approx(3 / 4)
    assert found.f1 == pytest.approx(2 / 3)


def test_macro_metrics_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 1, 1, 1, 2, 3])
    found = task_metrics(predicted, labels, 10)
    assert found.counts is None
    assert found.precision == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    assert found.recall == pytest.approx((1 / 2 + 1 + 1 / 2 + 0) / 4)
    assert found.f1 == pytest.approx((2 / 3 + 4 / 5 + 2 / 3 + 0) / 4)


def test_a_many_class_model_on_samples_of_two_classes_is_not_binary() -> None:
    assert task_metrics(np.array([0, 1]), np.array([0, 1]), 10).counts is None


def test_binary_without_positives_is_zero_not_nan() -> None:
    found = task_metrics(np.zeros(5, int), np.zeros(5, int), 2)
    assert (found.precision, found.recall, found.f1) == (0, 0, 0)
    assert found.accuracy.value == 1
    assert found.counts == BinaryCounts(0, 5, 0, 0)


def test_large_and_negative_integer_predictions_are_only_wrong() -> None:
    found = task_metrics(np.array([10**12, -5, 1]), np.array([0, 1, 1]), 2)
    assert found.accuracy.value == pytest.approx(1 / 3)
    assert found.counts is None


def test_accuracy_drop_by_hand() -> None:
    # 100 samples: 6 lost, 2 won, so Agresti and Min's counts are 6.5 and 2.5 of 102.
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[:6] = False
    after[-2:] = True
    found = accuracy_drop(before, after)
    half = 1.959964 * np.sqrt(6.5 + 2.5 - 16 / 102) / 102
    assert found.value == pytest.approx(0.04)
    assert found.low == pytest.approx(4 / 102 - half, abs=1e-6)
    assert found.high == pytest.approx(4 / 102 + half, abs=1e-6)


def test_equal_models_have_no_drop_but_no_certainty_either() -> None:
    found = accuracy_drop(np.ones(500, bool), np.ones(500, bool))
    assert found.value == 0
    assert found.high is not None
    assert 0 < found.high < 0.005


@pytest.mark.parametrize(
    ("output", "labels", "predicted", "classes"),
    [
        (np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]]), [1, 2], [1, 0], 3),
        (np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]])[:, :, None, None], [1, 2], [1, 0], 3),
        (np.array([0.2, 0.7]), [0, 0], [0, 1], 2),
        (np.array([[-1.0], [0.4]]), [0, 0], [0, 1], 2),
        (np.array([3, 0]), [1, 0], [3, 0], 4),
        (np.array([[True], [False]]), [1, 0], [1, 0], 2),
        (np.eye(4)[[[3, 1], [0, 2]]], [[3, 1], [0, 0]], [3, 1, 0, 2], 4),
        (np.eye(4)[[[3, 1], [0, 2]]].transpose(0, 2, 1), [[3, 1], [0, 0]], [3, 1, 0, 2], 4),
        (np.eye(4)[[[3, 1], [0, 2]]], [[3, -1], [-1, 0]], [3, 2], 4),
        (np.array([[0.9], [0.2], [0.6]]), [[1, 0, 1]], [1, 0, 1], 2),
    ],
    ids=[
        "logits",
        "spatial",
        "probability",
        "logit",
        "classes",
        "bools",
        "positions",
        "channels-first",
        "ignored",
        "frames",
    ],
)
def test_predictions_of_every_kind_of_output(output: Any, labels: Any, predicted: list[int], classes: int) -> None:
    scores = classification_scores(output, np.array(labels))
    assert decide(scores).tolist() == predicted
    assert scores.classes == classes
    assert len(scores.labels) == len(predicted)


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (np.ones((2, 3)), np.array([0.5, 1.0]), "labels of type float64 .* are not classes .*--metric"),
        (np.ones((2, 3)), np.ones((2, 3, 4), int), "are not classes"),
        (np.ones((2, 3)), np.array([0, 3]), "label 3 is not a class of the model, which has 3"),
        (np.ones((2, 3)), np.array([0, -1]), "label -1 is not a class"),
        (np.ones((2, 3)), np.array([0, 1, 2, 0]), r"output of shape \(2, 3\) does not fit labels of shape \(4,\)"),
        (np.ones(()), np.array([0, 1]), r"output of shape \(\) does not fit"),
    ],
)
def test_labels_that_do_not_fit_are_errors(output: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classification_scores(output, labels)


def test_threshold_is_chosen_from_all_batches_and_shared_with_the_compressed_model() -> None:
    parts = [classification_scores(np.array(values), np.array([0, 1])) for values in ([0.1, 0.3], [-2.0, 4.0])]
    assert decide(parts[0]).tolist() == [0, 0]
    assert decide(join_scores(parts)).tolist() == [1, 1, 0, 1]
    assert binary_threshold(np.array([0.0, 1.0])) == 0.5
    assert binary_threshold(np.array([0.0, 1.01])) == 0.0
    assert decide(Scores(np.array([0.4, 1.01]), np.array([0, 1]), 2), threshold=0.5).tolist() == [0, 1]


def test_has_classes() -> None:
    assert has_classes(np.array([1, 2]))
    assert has_classes(np.array([[1, 2]], np.uint8))
    assert not has_classes(np.array([1.0]))
    assert not has_classes(np.ones((1, 2, 3), int))
    assert not has_classes(None)


def test_nothing_to_score_is_an_error() -> None:
    empty = np.array([], int)
    for call in (
        lambda: task_metrics(empty, empty, 2),
        lambda: accuracy_drop(empty > 0, empty > 0),
        lambda: wilson_interval(0, 0),
    ):
        with pytest.raises(DataError):
            call()


def test_metric_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_metrics_for_test.py").write_text(
        "def share(outputs, labels): return (outputs['y'].argmax(1) == labels).mean()\n"
        "def broken(outputs, labels): return outputs['z']\n"
        "def endless(outputs, labels): return float('nan')\n"
        "def words(outputs, labels): return 'good'\n"
    )
    outputs, labels = {"y": np.eye(4)}, np.array([0, 1, 2, 0])
    assert load_metric("my_metrics_for_test:share")(outputs, labels) == 0.75
    for name, message in (
        ("broken", "metric my_metrics_for_test:broken failed with KeyError: 'z'"),
        ("endless", "metric my_metrics_for_test:endless gave nan"),
        ("words", "metric my_metrics_for_test:words failed with ValueError"),
    ):
        with pytest.raises(DataError, match=message):
            load_metric(f"my_metrics_for_test:{name}")(outputs, labels)
    with pytest.raises(DataError, match=r"does not name a Python function .write module:function"):
        load_metric("my_metrics_for_test")
