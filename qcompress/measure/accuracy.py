"""What the compressed model can still do: its outputs against the float model's and, with labels, against the truth.

The data streams through both models side by side. Of the outputs only sums are kept, of the labelled one also the predicted
classes; a metric of the user's is the one thing that needs the outputs whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from qcompress.data import (
    Batch,
    Metric,
    Scores,
    accuracy_drop,
    binary_threshold,
    classification_scores,
    decide,
    has_classes,
    join_scores,
    task_metrics,
)
from qcompress.errors import DataError, ModelError
from qcompress.measure.agreement import Agreement, complement, is_float_dtype
from qcompress.progress import SILENT, Progress
from qcompress.results import AccuracyReport, Interval, MetricPair, OutputAgreement, TaskMetrics
from qcompress.runtime import Session, SessionSettings, open_session
from qcompress.types import Array, TensorSignature


class EvaluationData(Protocol):
    """What is needed of a dataset; ``qcompress.data.Dataset`` is one."""

    @property
    def source(self) -> str:
        """What the user typed."""

    @property
    def samples(self) -> int | None:
        """Samples in one pass, if known."""

    def batches(self) -> Iterator[Batch]:
        """Read the data once."""


@dataclass(frozen=True, slots=True)
class AccuracySettings:
    """``threads`` 0 is the runtime's default; ``metric_name`` is what the report calls the user's metric."""

    threads: int = 0
    metric_name: str = ""


def measure_accuracy(
    float_model: Path,
    compressed_model: Path,
    dataset: EvaluationData,
    metric: Metric | None = None,
    settings: AccuracySettings | None = None,
    progress: Progress = SILENT,
) -> AccuracyReport:
    """Run both models over the data once and compare.

    The drop is, in this order: of the user's metric; of accuracy against the labels; of agreement with the float model,
    where the output that agrees least decides: 1 - top-1 agreement if any output looks like class scores, else 1 - cosine.

    Args:
        float_model: the original.
        compressed_model: has outputs of the same names.
        dataset: nothing was fitted on it.
        metric: outputs by name and labels, all samples joined along the first axis -> a number, higher is better.
            Outputs whose shapes differ between batches arrive as one-dimensional object arrays of one array a sample.
        settings: threads and names.
        progress: told of every batch.

    Raises:
        ModelError: a model cannot be loaded or run, or the two have no output in common.
        DataError: the data ends before it begins, or its labels fit no output.
    """
    settings = settings or AccuracySettings()
    opening = SessionSettings(threads=settings.threads, spinning=False)
    pair = (open_session(float_model, opening), open_session(compressed_model, opening))
    compared, notes = _common_outputs(*pair)
    agreement = {signature.name: Agreement(signature) for signature in compared}
    judge = _Judge([signature.name for signature in compared])
    float_log, compressed_log = _Log(), _Log()
    samples = 0
    with progress.stage("Comparing outputs", dataset.samples, "samples") as stage:
        for batch in dataset.batches():
            original, compressed = (session.run(batch.feed, list(agreement)) for session in pair)
            for name in [name for name in agreement if not _are_arrays(original[name], compressed[name])]:
                del agreement[name]
                notes.append(f"output {name} is not a tensor and was not compared")
            for name, output in agreement.items():
                output.add(original[name], compressed[name], batch.samples)
            judge.add(original, compressed, batch)
            if metric is not None:
                float_log.add(original, batch)
                compressed_log.add(compressed, batch)
            samples += batch.samples
            stage.advance(batch.samples)
    if not samples:
        raise DataError(f"{dataset.source} gave no samples", "give at least one sample")
    found = tuple(output.result() for output in agreement.values())
    notes += _alarms(found, samples)
    if judge.unusable_labels and metric is None:
        notes.append("the labels are not class indices, so they were not used; score them with a metric of your own")
    verdict = judge.verdict()
    measured = None
    if metric is not None:
        name = settings.metric_name or getattr(metric, "__name__", "metric")
        measured = _apply(metric, name, float_log, compressed_log, notes)
    drop, drop_of = _drop(found, verdict, measured)
    return AccuracyReport(
        samples=samples,
        source=dataset.source,
        agreement=found,
        float_task=verdict.float_task if verdict else None,
        compressed_task=verdict.compressed_task if verdict else None,
        drop=drop,
        drop_of=drop_of,
        scored_output=verdict.output if verdict else None,
        metric=measured,
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Both models against the labels."""

    output: str
    float_task: TaskMetrics
    compressed_task: TaskMetrics
    drop: Interval


@dataclass(slots=True)
class _Judge:
    """Scores both models' predictions on the labels, if there are any."""

    candidates: list[str]
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
            self.output = _scored_output(self.candidates, original, batch.labels)
        first, second = original[self.output], compressed[self.output]
        self.float_scores.append(classification_scores(first, batch.labels))
        self.compressed_scores.append(classification_scores(second, batch.labels))
        self.lost.append(_lost_positions(first, second, batch.labels))

    def verdict(self) -> _Verdict | None:
        """What the labels say, or None without them."""
        if self.output is None:
            return None
        original, compressed = join_scores(self.float_scores), join_scores(self.compressed_scores)
        labels, classes = original.labels, max(original.classes, compressed.classes)
        threshold = binary_threshold(original.values)
        first, second = decide(original, threshold), decide(compressed, threshold)
        lost = np.concatenate(self.lost)
        second[lost] = (labels[lost] + 1) % classes  # NaN is no answer, so it must not be right by chance
        return _Verdict(
            self.output,
            task_metrics(first, labels, classes),
            task_metrics(second, labels, classes),
            accuracy_drop(first == labels, second == labels),
        )


@dataclass(slots=True)
class _Log:
    """All outputs and labels, for a metric that needs them whole."""

    outputs: dict[str, list[tuple[Array, int]]] = field(default_factory=dict)
    labels: list[tuple[Array, int]] = field(default_factory=list)

    def add(self, outputs: Mapping[str, Array], batch: Batch) -> None:
        """Keep one batch."""
        for name, output in outputs.items():
            self.outputs.setdefault(name, []).append((output, batch.samples))
        if batch.labels is not None:
            self.labels.append((batch.labels, batch.samples))

    def score(self, metric: Metric) -> float:
        """The metric over everything kept."""
        joined = {name: _join(parts) for name, parts in self.outputs.items()}
        return float(metric(joined, _join(self.labels) if self.labels else None))


def _common_outputs(original: Session, compressed: Session) -> tuple[list[TensorSignature], list[str]]:
    """The outputs both models have, in the float model's order, and notes on the others.

    Raises:
        ModelError: there are none.
    """
    names = {output.name for output in compressed.outputs}
    common = [output for output in original.outputs if output.name in names]
    if not common:
        raise ModelError(
            "the two models have no output of the same name", "compare a model with a compressed version of itself"
        )
    others = sorted({output.name for output in original.outputs} ^ names)
    return common, [f"output {name} exists in one model only and was not compared" for name in others]


def _are_arrays(*outputs: object) -> bool:
    return all(isinstance(output, np.ndarray) for output in outputs)


def _scored_output(candidates: list[str], outputs: Mapping[str, Array], labels: Array) -> str:
    """The first output that the labels can belong to.

    Raises:
        DataError: there is none; says what is wrong with the first.
    """
    problem: DataError | None = None
    for name in candidates:
        try:
            classification_scores(outputs[name], labels)
        except DataError as error:
            problem = problem or error
        else:
            return name
    assert problem is not None
    raise problem


def _lost_positions(original: Array, compressed: Array, labels: Array) -> Array:
    """Which counted labels belong to samples whose compressed output is NaN or infinite where the float one is not, (n,)."""
    counted = labels != -1 if labels.ndim == 2 else np.ones(labels.shape, bool)
    if not is_float_dtype(compressed.dtype) or original.shape != compressed.shape:
        return np.zeros(int(counted.sum()), bool)
    bad = ~np.isfinite(compressed) & np.isfinite(original)
    by_sample = bad.reshape(len(labels), -1).any(axis=1) if bad.ndim and len(bad) == len(labels) else bad.any()
    spread = np.broadcast_to(np.reshape(by_sample, (-1,) + (1,) * (labels.ndim - 1)), labels.shape)
    return np.asarray(spread[counted])


def _join(parts: list[tuple[Array, int]]) -> Array:
    """Batches along the first axis; where their shapes differ, an object array of samples (batches without that axis)."""
    arrays = [array for array, _ in parts]
    by_sample = all(array.ndim > 0 and len(array) == samples for array, samples in parts)
    if by_sample and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    pieces = [piece for array, _ in parts for piece in (array if by_sample else (array,))]
    joined = np.empty(len(pieces), object)
    for index, piece in enumerate(pieces):  # assigning the list whole would make numpy look for a common shape
        joined[index] = piece
    return joined


def _apply(metric: Metric, name: str, original: _Log, compressed: _Log, notes: list[str]) -> MetricPair:
    """The user's metric on both models; one that fails on the compressed model's outputs only is a finding, not an error."""
    before = original.score(metric)
    try:
        after: float | None = compressed.score(metric)
    except DataError as error:
        notes.append(f"{error.message} on the compressed model")
        after = None
    return MetricPair(
        name, before if np.isfinite(before) else None, after if after is not None and np.isfinite(after) else None
    )


def _alarms(found: tuple[OutputAgreement, ...], samples: int) -> list[str]:
    """Loud words for outputs that are not numbers."""
    return [
        f"OUTPUT LOST: {output.name} is NaN, infinite or of another shape in {output.lost_samples} of {samples} samples, "
        "where the float model's is not"
        for output in found
        if output.lost_samples
    ]


def _drop(
    found: tuple[OutputAgreement, ...], verdict: _Verdict | None, measured: MetricPair | None
) -> tuple[Interval | None, str]:
    """The one number for what was lost, and what it is a number of."""
    if measured is not None:
        if measured.float_value is None or measured.compressed_value is None:
            return None, measured.name
        return Interval(measured.float_value - measured.compressed_value), measured.name
    if verdict is not None:
        return verdict.drop, f"accuracy of {verdict.output} on the labels"
    top1 = [(output.top1, output.name) for output in found if output.top1 is not None]
    cosines = [(output.cosine, output.name) for output in found if output.cosine is not None]
    equal = [(output.equal, output.name) for output in found if output.equal is not None]
    for kind, values in (("top-1 agreement", top1), ("cosine", cosines), ("equal values", equal)):
        if values:
            worst, name = min(values, key=lambda item: item[0].value)
            return complement(worst), f"{kind} of {name} with the float model"
    return None, ""
