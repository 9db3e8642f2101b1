"""Both models' predictions held against the labels, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcompress.data import (
    Batch,
    Scores,
    accuracy_drop,
    binary_threshold,
    classification_scores,
    decide,
    has_classes,
    join_scores,
    task_metrics,
)
from qcompress.errors import DataError
from qcompress.measure.agreement import is_float_dtype
from qcompress.results import Interval, TaskMetrics
from qcompress.types import Array


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both models against the labels."""

    output: str
    float_task: TaskMetrics
    compressed_task: TaskMetrics
    drop: Interval


@dataclass(slots=True)
class Judge:
    """Scores both models' predictions on the labels, if there are any."""

    output: str | None = None
    unusable_labels: bool = False
    float_scores: list[Scores] = field(default_factory=list)
    compressed_scores: list[Scores] = field(default_factory=list)
    lost: list[Array] = field(default_factory=list)

    def add(self, original: Mapping[str, Array], compressed: Mapping[str, Array], batch: Batch) -> None:
        """Take in one batch; the first that has labels chooses the output they belong to."""
        if batch.labels is None:
            return
        if not has_classes(batch.labels):
            self.unusable_labels = True
            return
        if self.output is None:
            self.output = _scored_output(original, batch.labels)
        first, second = original[self.output], compressed[self.output]
        self.float_scores.append(classification_scores(first, batch.labels))
        self.compressed_scores.append(classification_scores(second, batch.labels))
        self.lost.append(_lost_positions(first, second, batch.labels))

    def verdict(self) -> Verdict | None:
        """What the labels say, or None without them."""
        if self.output is None:
            return None
        original, compressed = join_scores(self.float_scores), join_scores(self.compressed_scores)
        labels, classes = original.labels, max(original.classes, compressed.classes)
        threshold = binary_threshold(original.values)
        first, second = decide(original, threshold), decide(compressed, threshold)
        lost = np.concatenate(self.lost)
        second[lost] = (labels[lost] + 1) % classes  # NaN is no answer, so it must not be right by chance
        return Verdict(
            self.output,
            task_metrics(first, labels, classes),
            task_metrics(second, labels, classes),
            accuracy_drop(first == labels, second == labels),
        )


def _scored_output(outputs: Mapping[str, Array], labels: Array) -> str:
    """The first output that the labels can belong to.

    Raises:
        DataError: there is none; says what is wrong with the first.
    """
    problem: DataError | None = None
    for name, output in outputs.items():
        try:
            classification_scores(output, labels)
        except DataError as error:
            problem = problem or error
        else:
            return name
    raise problem or DataError("no output can be compared with the labels", "use a model with a tensor output")


def _lost_positions(original: Array, compressed: Array, labels: Array) -> Array:
    """Which counted labels belong to samples whose compressed output is NaN or infinite where the float one is not, (n,)."""
    counted = labels != -1 if labels.ndim == 2 else np.ones(labels.shape, bool)
    if not is_float_dtype(compressed.dtype) or original.shape != compressed.shape:
        return np.zeros(int(counted.sum()), bool)
    bad = ~np.isfinite(compressed) & np.isfinite(original)
    by_sample = bad.reshape(len(labels), -1).any(axis=1) if bad.ndim and len(bad) == len(labels) else bad.any()
    spread = np.broadcast_to(np.reshape(by_sample, (-1,) + (1,) * (labels.ndim - 1)), labels.shape)
    return np.asarray(spread[counted])
