"""One streaming pass over the data through onnxruntime for everybody who needs statistics of activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcompress.calibrate.histogram import Histogram
from qcompress.calibrate.observers import PREFIX, Observers, observe
from qcompress.calibrate.ranges import RANGE_METHODS, TensorRecord
from qcompress.calibrate.ranges.moving_average import average_step
from qcompress.errors import CalibrationError
from qcompress.graph import Model, extend
from qcompress.progress import Progress
from qcompress.recipe import RangeMethod
from qcompress.runtime import Session, SessionSettings, open_session
from qcompress.types import Array, Feed, NodeSpec, QuantScheme, Statistics, StatisticsNeeds, TensorRange


class Batch(Protocol):
    """One feed of the model, holding ``samples`` samples."""

    @property
    def feed(self) -> Feed:
        """Arrays by input name."""

    @property
    def samples(self) -> int:
        """How many samples the feed holds."""


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """How to calibrate; ``total`` is the number of samples, when it is known."""

    method: RangeMethod = RangeMethod.MSE
    scheme: QuantScheme = QuantScheme(signed=False, symmetric=False)  # noqa: RUF009  (frozen)
    threads: int = 0
    total: int | None = None


def collect(
    model: Model, needs: StatisticsNeeds, batches: Iterable[Batch], settings: CalibrationSettings, progress: Progress
) -> Statistics:
    """Run the data once and keep what ``needs`` asks for; memory does not grow with the number of batches.

    Tensors are inputs of the model or outputs of nodes of its main graph, of any numeric type. A tensor that has no
    elements in any feed is left out of the ranges.

    Args:
        model: unchanged.
        needs: minimum and maximum of a range are exact, its distribution is taken from a sub-sample of each feed; means
            are exact, second moments are taken from at most 65,536 values (or one position per channel) of each feed.
        batches: read once, in order.
        settings: the method that chooses the ranges, and the scheme they are for.
        progress: gets one stage, ``calibrate``.

    Raises:
        CalibrationError: no data, or NaN or infinity in an observed tensor.
        ModelError: the runtime cannot load or run the model.
    """
    observers = observe(needs.ranges, needs.moments, model.opset)
    session = _open(model, observers, settings.threads)
    ranges = {tensor: _RangeObserver(tensor) for tensor in sorted(needs.ranges)}
    moments = {tensor: _MomentObserver(tensor, axis) for tensor, axis in sorted(needs.moments.items())}
    shapes: dict[str, tuple[int, ...]] = {}
    samples = 0
    for found, batch in _run(session, observers.outputs, batches, settings.total, progress):
        where = _position(samples, batch.samples)
        for tensor in sorted(ranges.keys() | moments.keys()):
            shape = tuple(int(size) for size in found[f"{PREFIX}{tensor}/shape"])
            shapes.setdefault(tensor, shape)
            if tensor in ranges:
                ranges[tensor].update(found[f"{PREFIX}{tensor}/range"], shape, where)
            if tensor in moments:
                moments[tensor].update(found[f"{PREFIX}{tensor}/moments"], shape, where)
        samples += batch.samples
    estimate = RANGE_METHODS[settings.method]
    records = {tensor: observer.record() for tensor, observer in ranges.items()}
    return Statistics(
        ranges={tensor: estimate(record, settings.scheme) for tensor, record in records.items() if record is not None},
        means={tensor: observer.mean[0] for tensor, observer in moments.items()},
        second_moments={tensor: observer.mean[1] for tensor, observer in moments.items()},
        shapes=shapes,
        samples=samples,
    )


@dataclass(frozen=True, slots=True)
class MeansRequest:
    """Nodes to add to a model, and the tensors (old or new) whose mean over all axes but one is wanted."""

    nodes: Sequence[NodeSpec]
    constants: Mapping[str, Array]
    channel_axes: Mapping[str, int]


def collect_means(
    model: Model, request: MeansRequest, batches: Iterable[Batch], settings: CalibrationSettings, progress: Progress
) -> dict[str, Array]:
    """Mean of each channel over samples and positions; tensor -> (channels,), float64.

    For bias correction a layer gets a sibling that applies the error of its weights, W - Q(W), to the same input: the mean
    of that sibling's output is the shift of the layer's output.

    Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019,
    arXiv:1906.04721, equation 17; E[x] is taken from data and through the layer itself, so padding counts as it should.

    Raises:
        CalibrationError: no data, or NaN or infinity in a tensor.
        ModelError: the runtime cannot load or run the extended model.
    """
    observers = Observers(model.opset, list(request.nodes), dict(request.constants))
    for tensor, axis in sorted(request.channel_axes.items()):
        observers.shape(tensor)
        observers.means(tensor, axis)
    session = _open(model, observers, settings.threads)
    means = {tensor: _MomentObserver(tensor, axis) for tensor, axis in sorted(request.channel_axes.items())}
    samples = 0
    for found, batch in _run(session, observers.outputs, batches, settings.total, progress):
        where = _position(samples, batch.samples)
        for tensor, observer in means.items():
            shape = tuple(int(size) for size in found[f"{PREFIX}{tensor}/shape"])
            observer.update(found[f"{PREFIX}{tensor}/mean"], shape, where)
        samples += batch.samples
    return {tensor: observer.mean[0] for tensor, observer in means.items()}


def _open(model: Model, observers: Observers, threads: int) -> Session:
    extended = extend(model, observers.nodes, observers.constants, observers.outputs)
    return open_session(extended, SessionSettings(threads=threads, early_release=True))


def _run(
    session: Session, outputs: Sequence[str], batches: Iterable[Batch], total: int | None, progress: Progress
) -> Iterator[tuple[dict[str, Array], Batch]]:
    """What the observers found in each batch."""
    empty = True
    with progress.stage("calibrate", total, "samples") as stage:
        for batch in batches:
            empty = False
            yield session.run(batch.feed, outputs), batch
            stage.advance(batch.samples)
    if empty:
        raise CalibrationError("there is no calibration data", "give at least one sample")


def _position(before: int, samples: int) -> str:
    """Which samples a batch holds, counted from 1."""
    return f"sample {before + 1}" if samples == 1 else f"samples {before + 1} to {before + samples}"


def _not_finite(tensor: str, kind: str, where: str) -> CalibrationError:
    hint = "check this sample, and the pre-processing; the float model itself may overflow on it"
    return CalibrationError(f"tensor {tensor!r} is {kind} in {where} of the calibration data", hint)


class _RangeObserver:
    """The distribution of one tensor, from the outputs of its observer."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor
        self.histogram = Histogram.empty()
        self.average: TensorRange | None = None

    def update(self, found: Array, shape: tuple[int, ...], where: str) -> None:
        """Add one feed: [min, max, sum, sub-sample]."""
        size = int(np.prod(shape, dtype=np.int64))
        if size == 0:
            return
        low, high, total = (float(value) for value in found[:3])
        if np.isinf(low) or np.isinf(high):
            raise _not_finite(self.tensor, "infinite", where)
        if np.isnan(total):
            raise _not_finite(self.tensor, "NaN", where)
        sample = found[3:]
        self.average = average_step(self.average, low, high)
        self.histogram = self.histogram.covering(low, high).add(sample, max(1, round(size / sample.size)))
        if sample.size < size:
            self.histogram = self.histogram.add(found[:2])  # the sub-sample may have missed what lies farthest out

    def record(self) -> TensorRecord | None:
        """What was seen; None when no feed had an element."""
        return None if self.average is None else TensorRecord(self.histogram, self.average)


class _MomentObserver:
    """Means of each channel over all feeds, each feed weighted with its number of positions."""

    def __init__(self, tensor: str, axis: int) -> None:
        self.tensor = tensor
        self.axis = axis
        self.weight = 0
        self.total: Array | None = None

    def update(self, found: Array, shape: tuple[int, ...], where: str) -> None:
        """Add one feed: the means of each channel, of one or several quantities one after the other."""
        positions = int(np.prod(shape, dtype=np.int64)) // max(shape[self.axis], 1)
        if positions == 0:
            return
        if not np.isfinite(found).all():
            raise _not_finite(self.tensor, "NaN or infinite", where)
        weighted = found.astype(np.float64).reshape(-1, shape[self.axis]) * positions
        self.total = weighted if self.total is None else self.total + weighted
        self.weight += positions

    @property
    def mean(self) -> Array:
        """(quantities, channels), float64."""
        if self.total is None:
            raise CalibrationError(f"tensor {self.tensor!r} has no elements in any sample", "check the shapes of the data")
        return np.asarray(self.total / self.weight)
