"""Classification quality on labels, as free functions on arrays, and metrics of the user's own.

A model's outputs become ``Scores`` batch by batch (``classification_scores``), these are joined (``join_scores``), turned
into predicted classes (``decide``) and counted (``task_metrics``). A binary model's numbers stay numbers until ``decide``,
because only all of them together tell probabilities from logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qcompress.data.functions import blame, load_function
from qcompress.errors import DataError
from qcompress.results import BinaryCounts, Interval, TaskMetrics
from qcompress.types import Array

Metric = Callable[[dict[str, Array], Array | None], float]
IGNORED = -1  # the label of positions that do not count, such as padding
_Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Scores:
    """One output against labels, flattened to the positions that count.

    ``values``: (n,), the arg-max class as an integer, or the raw float of a binary model with one output.
    ``labels``: (n,), integers. ``classes``: how many the model knows.
    """

    values: Array
    labels: Array
    classes: int


def has_classes(labels: Array | None) -> bool:
    """Whether labels are class indices: integers of shape (samples,) or (samples, positions)."""
    return labels is not None and labels.dtype.kind in "iu" and labels.ndim in (1, 2)


def classification_scores(output: Array, labels: Array) -> Scores:
    """Bring one output and its labels together.

    Case 1: output (samples, classes), labels (samples,): arg-max.
    Case 2: output (samples, positions, classes) or (samples, classes, positions), labels (samples, positions): arg-max;
        the first reading is taken where both are possible. Positions labelled -1 are left out.
    Case 3: one float per label, as in (samples,) or (samples, 1): the score of class 1 of 2.
    Case 4: one integer per label: already the class.
    Axes of length 1 do not matter.

    Args:
        output: logits, probabilities or class indices.
        labels: class indices, (samples,) or (samples, positions).

    Raises:
        DataError: labels are not class indices, do not fit the output's shape, or name a class it does not have.
    """
    if not has_classes(labels):
        raise DataError(
            f"labels of type {labels.dtype} and shape {labels.shape} are not classes",
            "give integers (samples,) or (samples, positions), or a metric of your own with --metric",
        )
    marks = labels.reshape(-1).astype(np.int64)
    if output.size == labels.size:
        values = output.reshape(-1)
        if values.dtype.kind == "b":
            values = values.astype(np.int64)
        known = None if values.dtype.kind in "iu" else 2
    else:
        axis = _class_axis(output.shape, labels.shape)
        values = np.argmax(output, axis=axis).reshape(-1)
        known = output.shape[axis]
    counted = marks != IGNORED if labels.ndim == 2 else np.ones(marks.shape, bool)
    values, marks = values[counted], marks[counted]
    highest = int(marks.max(initial=0))
    if marks.min(initial=0) < 0:
        raise DataError(f"label {int(marks.min())} is not a class", "classes are 0, 1, 2 and so on")
    if known is None:
        known = max(highest, int(values.max(initial=0))) + 1
    if highest >= known:
        raise DataError(f"label {highest} is not a class of the model, which has {known}", "classes are counted from 0")
    return Scores(values, marks, max(known, 2))


def join_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of all batches as one."""
    values = np.concatenate([part.values for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Scores(values, labels, max(part.classes for part in parts))


def binary_threshold(values: Array) -> float:
    """Where class 1 begins: 0.5 when all scores lie in [0, 1], so are probabilities, else 0, as for logits.

    Choose it once, on the float model, and use it for the compressed one too.
    """
    probabilities = bool(values.size) and float(values.min()) >= 0.0 and float(values.max()) <= 1.0
    return 0.5 if probabilities else 0.0


def decide(scores: Scores, threshold: float | None = None) -> Array:
    """Predicted classes, (n,), int64.

    Args:
        scores: of all batches.
        threshold: scores above it are class 1 of a binary model; None chooses it by ``binary_threshold``.
    """
    if scores.values.dtype.kind in "iu":
        return scores.values.astype(np.int64)
    limit = binary_threshold(scores.values) if threshold is None else threshold
    return (scores.values > limit).astype(np.int64)


def task_metrics(predicted: Array, labels: Array, classes: int) -> TaskMetrics:
    """Accuracy, precision, recall and F1; for two classes with class 1 as the positive, else the mean over classes.

    The mean runs over the classes that occur in the predictions or the labels; a quotient of 0 by 0 is 0.

    Args:
        predicted: (n,), class indices.
        labels: (n,), class indices.
        classes: how many the model knows; 2 or fewer is binary.

    Raises:
        DataError: there are no labels.
    """
    if not labels.size:
        raise DataError("there is no label to score on", "give labelled evaluation data")
    # Classes are renumbered by what occurs, so that an integer output of large numbers costs no memory.
    occurring, renumbered = np.unique(np.concatenate([predicted, labels]), return_inverse=True)
    guesses, truth = renumbered[: len(predicted)], renumbered[len(predicted) :]
    hits = np.bincount(truth[guesses == truth], minlength=len(occurring))
    chosen = np.bincount(guesses, minlength=len(occurring))
    actual = np.bincount(truth, minlength=len(occurring))
    counts = None
    if classes <= 2 and set(occurring.tolist()) <= {0, 1}:
        positive = occurring == 1
        hits, chosen, actual = (np.array([values[positive].sum()]) for values in (hits, chosen, actual))
        counts = _binary_counts(int(hits[0]), int(chosen[0]), int(actual[0]), int(labels.size))
    precision = _ratio(hits, chosen)
    recall = _ratio(hits, actual)
    f1 = _ratio(2 * hits, chosen + actual)
    accuracy = wilson_interval(int(np.count_nonzero(predicted == labels)), int(labels.size))
    return TaskMetrics(accuracy, float(precision.mean()), float(recall.mean()), float(f1.mean()), counts)


def wilson_interval(correct: float, total: int) -> Interval:
    """A share with its 95 % interval, which stays in [0, 1] and is honest for few samples.

    Args:
        correct: 0 to ``total``; a fraction where each sample contributes a share of its positions.
        total: samples.

    Raises:
        DataError: ``total`` is 0.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927), the score
    interval.
    """
    if total < 1:
        raise DataError("a share of no samples does not exist", "give at least one sample")
    share = correct / total
    spread = _Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # At 0 and 1 the interval touches the share exactly; rounding must not push it past.
    return Interval(share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share))


def accuracy_drop(float_correct: Array, compressed_correct: Array) -> Interval:
    """Accuracy lost by compression, with a 95 % interval that knows that both models saw the same samples.

    With n10 samples that only the float model got right, n01 that only the compressed one did, and n in all, the drop
    is (n10 - n01) / n. For the interval half a sample is added to each of the four cells, so that no disagreement does
    not mean certainty. Positions of one sequence are counted as independent.

    Args:
        float_correct: (n,), bool.
        compressed_correct: (n,), bool.

    Raises:
        DataError: there are no samples.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in
    Medicine 24 (2005), the Wald interval with 0.5 added to each cell.
    """
    total = int(float_correct.size)
    if total < 1:
        raise DataError("a drop over no samples does not exist", "give labelled evaluation data")
    lost = int(np.count_nonzero(float_correct & ~compressed_correct))
    won = int(np.count_nonzero(~float_correct & compressed_correct))
    difference = lost - won
    adjusted = total + 2
    variance = (lost + won + 1 - difference**2 / adjusted) / adjusted**2
    half = _Z95 * math.sqrt(max(variance, 0.0))
    centre = difference / adjusted
    return Interval(difference / total, max(centre - half, -1.0), min(centre + half, 1.0))


def load_metric(spec: str) -> Metric:
    """A metric of the user's: ``module:function`` taking outputs by name and labels (or None), higher is better.

    Raises:
        DataError: it cannot be imported; the metric itself raises it when the function fails or gives no finite number.
    """
    function = load_function(spec)

    def metric(outputs: dict[str, Array], labels: Array | None) -> float:
        with blame(f"metric {spec}"):
            value = float(function(outputs, labels))
        if not math.isfinite(value):
            raise DataError(f"metric {spec} gave {value}", "return a finite number, higher is better")
        return value

    return metric


def _class_axis(output: tuple[int, ...], labels: tuple[int, ...]) -> int:
    """The axis of the output that is not in the labels: the last if that fits, else the second."""
    for axis in (len(output) - 1, 1):
        if 0 <= axis < len(output):
            rest = output[:axis] + output[axis + 1 :]
            if [dim for dim in rest if dim != 1] == [dim for dim in labels if dim != 1]:
                return axis
    raise DataError(
        f"an output of shape {output} does not fit labels of shape {labels}",
        "labels are (samples,) for one class per sample or (samples, positions) for one per position",
    )


def _binary_counts(hits: int, chosen: int, actual: int, total: int) -> BinaryCounts:
    """From class 1: predicted rightly, predicted, labelled; and all samples."""
    return BinaryCounts(hits, total - chosen - actual + hits, chosen - hits, actual - hits)


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
