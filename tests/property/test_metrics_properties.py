"""Metrics hold for any labels, and agree with brute force."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.data import accuracy_drop, binary_threshold, classification_scores, decide, task_metrics, wilson_interval

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)
VERDICTS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
QUICK = settings(deadline=None, derandomize=True, max_examples=60)


def brute_force(pairs: list[tuple[int, int]], positive: int) -> tuple[float, float, float]:
    """Precision, recall and F1 of one class, by counting."""
    tp = sum(guess == truth == positive for guess, truth in pairs)
    fp = sum(guess == positive != truth for guess, truth in pairs)
    fn = sum(truth == positive != guess for guess, truth in pairs)
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return precision, recall, f1


@QUICK
@given(PAIRS)
def test_macro_metrics_equal_brute_force(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = (np.array(column) for column in zip(*pairs, strict=True))
    found = task_metrics(predicted, labels, 6)
    each = [brute_force(pairs, label) for label in sorted({value for pair in pairs for value in pair})]
    expected = [fmean(column) for column in zip(*each, strict=True)]
    assert [found.precision, found.recall, found.f1] == pytest.approx(expected)
    assert found.accuracy.value == sum(guess == truth for guess, truth in pairs) / len(pairs)


@QUICK
@given(VERDICTS)
def test_binary_metrics_equal_brute_force_and_counts_add_up(pairs: list[tuple[bool, bool]]) -> None:
    numbers = [(int(guess), int(truth)) for guess, truth in pairs]
    predicted, labels = (np.array(column) for column in zip(*numbers, strict=True))
    found = task_metrics(predicted, labels, 2)
    assert [found.precision, found.recall, found.f1] == pytest.approx(brute_force(numbers, 1))
    counts = found.counts
    assert counts is not None
    assert counts.true_positive + counts.false_negative == labels.sum()
    assert counts.true_positive + counts.false_positive == predicted.sum()
    assert counts.true_positive + counts.true_negative == np.sum(predicted == labels)
    assert counts.true_negative + counts.false_positive == np.sum(labels == 0)


@QUICK
@given(st.integers(1, 10**7), st.floats(0, 1))
def test_wilson_contains_the_share_stays_in_bounds_and_mirrors(total: int, share: float) -> None:
    correct = round(share * total)
    found, mirrored = wilson_interval(correct, total), wilson_interval(total - correct, total)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-9)
    assert mirrored.high == pytest.approx(1 - found.low, abs=1e-9)


@QUICK
@given(st.integers(0, 50))
def test_wilson_narrows_with_more_samples(correct: int) -> None:
    few, many = wilson_interval(correct, 50), wilson_interval(correct * 100, 5000)
    assert few.high - few.low > many.high - many.low  # type: ignore[operator]


@QUICK
@given(VERDICTS)
def test_drop_is_the_difference_of_accuracies_inside_its_interval(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (np.array(column) for column in zip(*pairs, strict=True))
    found, reverse = accuracy_drop(before, after), accuracy_drop(after, before)
    assert found.value == pytest.approx(before.mean() - after.mean())
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert reverse.value == -found.value
    assert reverse.low == pytest.approx(-found.high)


@QUICK
@given(st.lists(st.floats(-8, 8), min_size=1, max_size=30))
def test_logits_and_their_probabilities_decide_alike(logits: list[float]) -> None:
    values = np.array([*logits, -1.0])  # at least one is negative, so that these are seen to be logits
    labels = np.zeros(len(values), np.int64)
    away = np.abs(values) > 1e-6  # at the threshold itself rounding decides
    probabilities = 1 / (1 + np.exp(-values))
    assert binary_threshold(values) == 0
    assert binary_threshold(probabilities) == 0.5
    first = decide(classification_scores(values, labels))
    second = decide(classification_scores(probabilities, labels))
    assert first[away].tolist() == second[away].tolist()


def test_drop_interval_covers_about_95_percent() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        kind = generator.choice(4, 300, p=[0.85, 0.06, 0.03, 0.06])  # both, only float, only compressed, none
        found = accuracy_drop(kind <= 1, (kind == 0) | (kind == 2))
        covered += found.low <= 0.03 <= found.high  # type: ignore[operator]
    assert 0.94 < covered / 2000 < 0.965
