"""What the compressed model can still do: its outputs against the float model's and, with labels, against the truth.

The data streams through both models side by side. Of the outputs only sums are kept, of the labelled one also the predicted
classes; a metric of the user's is the one thing that needs the outputs whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from qcompress.data import Batch, Metric
from qcompress.errors import DataError, ModelError
from qcompress.measure.agreement import Agreement, complement
from qcompress.measure.labels import Judge, Verdict
from qcompress.measure.outputs import OutputLog
from qcompress.progress import SILENT, Progress
from qcompress.results import AccuracyReport, Interval, MetricPair, OutputAgreement
from qcompress.runtime import Session, SessionSettings, open_session
from qcompress.types import TensorSignature


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
    """How to measure.

    ``threads``: 0 is the runtime's default. ``metric_name``: what the report calls the user's metric. ``judged``: outputs
    whose agreement with the float model can be the drop; empty: all.
    """

    threads: int = 0
    metric_name: str = ""
    judged: Collection[str] = ()


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
    where of the judged outputs the one that agrees least decides: 1 - top-1 agreement if any output looks like class scores, else 1 - cosine.

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
    original, compressed = open_session(float_model, opening), open_session(compressed_model, opening)
    comparison = _Comparison(original, compressed, keep_outputs=metric is not None)
    with progress.stage("Comparing outputs", dataset.samples, "samples") as stage:
        for batch in dataset.batches():
            comparison.add(batch)
            stage.advance(batch.samples)
    if not comparison.samples:
        raise DataError(f"{dataset.source} gave no samples", "give at least one sample")
    found, verdict, notes = comparison.agreements(), comparison.judge.verdict(), comparison.notes
    notes += _alarms(found, comparison.samples)
    if comparison.judge.unusable_labels and metric is None:
        notes.append("the labels are not class indices, so they were not used; score them with a metric of your own")
    measured = None
    if metric is not None:
        name = settings.metric_name or getattr(metric, "__name__", "metric")
        measured = _apply(metric, name, comparison, notes)
    judged = tuple(output for output in found if output.name in settings.judged)
    drop, drop_of = _drop(judged or found, verdict, measured)
    return AccuracyReport(
        samples=comparison.samples,
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


class _Comparison:
    """Everything that is taken in while the data streams through both models."""

    def __init__(self, original: Session, compressed: Session, keep_outputs: bool) -> None:
        self._original = original
        self._compressed = compressed
        self._keep_outputs = keep_outputs
        common, self.notes = _common_outputs(original, compressed)
        self._outputs = {signature.name: Agreement(signature) for signature in common}
        self.judge = Judge()
        self.float_log, self.compressed_log = OutputLog(), OutputLog()
        self.samples = 0

    def add(self, batch: Batch) -> None:
        """Run one batch through both models."""
        first = self._original.run(batch.feed, list(self._outputs))
        second = self._compressed.run(batch.feed, list(self._outputs))
        for name in [name for name in self._outputs if not _are_arrays(first[name], second[name])]:
            del self._outputs[name], first[name], second[name]
            self.notes.append(f"output {name} is not a tensor and was not compared")
        for name, output in self._outputs.items():
            output.add(first[name], second[name], batch.samples)
        self.judge.add(first, second, batch)
        if self._keep_outputs:
            self.float_log.add(first, batch)
            self.compressed_log.add(second, batch)
        self.samples += batch.samples

    def agreements(self) -> tuple[OutputAgreement, ...]:
        """How close the outputs were."""
        return tuple(output.result() for output in self._outputs.values())


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


def _apply(metric: Metric, name: str, comparison: _Comparison, notes: list[str]) -> MetricPair:
    """The user's metric on both models; one that fails on the compressed model's outputs only is a finding, not an error."""
    before = comparison.float_log.score(metric)
    try:
        after: float | None = comparison.compressed_log.score(metric)
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
    found: tuple[OutputAgreement, ...], verdict: Verdict | None, measured: MetricPair | None
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
