"""One streaming pass over the data through onnxruntime for everybody who needs statistics of activations."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Protocol

from qcompress.calibrate.accumulators import MeanAccumulator, RangeAccumulator, check_sum
from qcompress.calibrate.observers import MOMENT_VALUES, PREFIX, Facts, Observers, observe, values_per_sample
from qcompress.calibrate.ranges import RANGE_METHODS
from qcompress.calibrate.shapes import observing
from qcompress.calibrate.values import may_be_nan, never_negative
from qcompress.errors import CalibrationError
from qcompress.graph import Model, extend
from qcompress.progress import Progress
from qcompress.recipe import RangeMethod
from qcompress.runtime import Session, open_session
from qcompress.types import Array, Feed, NodeSpec, QuantScheme, Statistics, StatisticsNeeds

AT_ONCE = 2
"""Small feeds that run at the same time, each with its share of the threads: observers are many small nodes and reductions that
one feed cannot spread over threads (measured on two threads: 1.3 times faster than one feed after the other)."""

SMALL_FEED = 1 << 20
"""Bytes of a feed up to which others run beside it; the activations of larger ones would take too much memory twice."""

SAMPLES_AT_ONCE = 16
"""Samples of a feed for which the sub-sample grows; memory stays bounded however large the feeds are."""


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
    """How to calibrate; ``total`` is the number of samples, ``shapes`` those of tensors in a feed, when they are known."""

    method: RangeMethod = RangeMethod.MSE
    scheme: QuantScheme = QuantScheme(signed=False, symmetric=False)  # noqa: RUF009  (frozen)
    threads: int = 0
    total: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    alternatives: tuple[RangeMethod, ...] = ()
    """Other methods whose ranges are wanted as well, from the same pass."""


def collect(
    model: Model, needs: StatisticsNeeds, batches: Iterable[Batch], settings: CalibrationSettings, progress: Progress
) -> Statistics:
    """Run the data once and keep what ``needs`` asks for; memory does not grow with the number of batches.

    Tensors are inputs of the model or outputs of nodes of its main graph, of any numeric type. A tensor that has no
    elements in any feed is left out of the ranges.

    Args:
        model: unchanged.
        needs: minimum and maximum of a range are exact, its distribution is taken from a sub-sample of each feed (the
            minimum too where values are never negative); second moments are taken from at most 32,768 values (or one
            position per channel) of each sample.
        batches: read once, in order.
        settings: the method that chooses the ranges, and the scheme they are for.
        progress: gets one stage, ``Calibrating``.

    Raises:
        CalibrationError: no data, or NaN or infinity in an observed tensor.
        ModelError: the runtime cannot load or run the model.
    """
    first, batches = _peek(batches)
    values = values_per_sample(settings.total)
    at_once = values * min(first.samples, SAMPLES_AT_ONCE)
    observers = Observers(model.opset, at_once, _float_tensors(model), MOMENT_VALUES // values, settings.shapes)
    wanted = needs.ranges | needs.moments.keys()
    observe(needs.ranges, needs.moments, Facts(may_be_nan(model, wanted), never_negative(model)), observers)
    ranges = [RangeAccumulator(tensor) for tensor in sorted(needs.ranges)]
    seconds = [MeanAccumulator(tensor, axis, "second_moment") for tensor, axis in sorted(needs.moments.items())]
    shapes: dict[str, tuple[int, ...]] = {}
    samples = 0
    for found, where in run_observed(model, observers, batches, settings, progress, "Calibrating"):
        here = {tensor: observers.true_shape(tensor, _shape(found, tensor)) for tensor in wanted}
        shapes = shapes or here
        for tensor in sorted(wanted):
            check_sum(tensor, found, where.text)
        for moment in seconds:
            moment.update(found, here[moment.tensor], where.text)
        for observed in ranges:
            observed.update(found, math.prod(here[observed.tensor]), where.text)
        samples = where.last
    records = {observed.tensor: observed.record() for observed in ranges}
    estimate = RANGE_METHODS[settings.method]
    return Statistics(
        ranges={tensor: estimate(record, settings.scheme) for tensor, record in records.items() if record is not None},
        second_moments={moment.tensor: moment.mean for moment in seconds},
        shapes=dict(sorted(shapes.items())),
        samples=samples,
        alternatives={
            method.value: {
                tensor: RANGE_METHODS[method](record, settings.scheme)
                for tensor, record in records.items()
                if record is not None
            }
            for method in settings.alternatives
        },
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
    observers = Observers(model.opset, nodes=list(request.nodes), constants=dict(request.constants))
    for tensor, axis in sorted(request.channel_axes.items()):
        observers.shape(tensor)
        observers.means(tensor, axis)
    means = [MeanAccumulator(tensor, axis, "mean") for tensor, axis in sorted(request.channel_axes.items())]
    for found, where in run_observed(model, observers, batches, settings, progress, "Correcting biases"):
        for accumulator in means:
            accumulator.update(found, _shape(found, accumulator.tensor), where.text)
    return {accumulator.tensor: accumulator.mean for accumulator in means}


@dataclass(frozen=True, slots=True)
class Position:
    """Which samples a batch holds, counted from 1."""

    first: int
    last: int

    @property
    def text(self) -> str:
        """The samples in words."""
        return f"sample {self.first}" if self.first == self.last else f"samples {self.first} to {self.last}"


def _peek(batches: Iterable[Batch]) -> tuple[Batch, Iterable[Batch]]:
    """The first batch, and all of them."""
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise CalibrationError("there is no calibration data", "give at least one sample")
    return first, chain([first], iterator)


def _open(model: Model, observers: Observers, settings: CalibrationSettings, at_once: int) -> Session:
    threads = max(1, _threads(settings) // at_once)
    observed = extend(model, observers.nodes, observers.constants, observers.outputs)
    return open_session(observed, observing(len(model.graph) + len(observers.nodes), threads))


def _at_once(first: Batch, settings: CalibrationSettings) -> int:
    small = sum(array.nbytes for array in first.feed.values()) <= SMALL_FEED
    return AT_ONCE if small and _threads(settings) >= AT_ONCE else 1


def run_observed(
    model: Model,
    observers: Observers,
    batches: Iterable[Batch],
    settings: CalibrationSettings,
    progress: Progress,
    title: str,
) -> Iterator[tuple[dict[str, Array], Position]]:
    """What the observers found in each batch, in the order of the batches."""
    first, batches = _peek(batches)
    at_once = _at_once(first, settings)
    session = _open(model, observers, settings, at_once)
    done = 0
    running: deque[tuple[Future[dict[str, Array]], int]] = deque()
    with progress.stage(title, settings.total, "samples") as stage, ThreadPoolExecutor(at_once) as pool:
        for batch in chain(batches, repeat(None)):
            if batch is not None:
                running.append((pool.submit(session.run, batch.feed, observers.outputs), batch.samples))
                if len(running) <= at_once:  # one waits, so that no worker does while its result is counted
                    continue
            if not running:
                return
            future, samples = running.popleft()
            yield future.result(), Position(done + 1, done + samples)
            done += samples
            stage.advance(samples)


def _threads(settings: CalibrationSettings) -> int:
    return settings.threads or os.cpu_count() or 1


def _shape(found: Mapping[str, Array], tensor: str) -> tuple[int, ...]:
    return tuple(found[f"{PREFIX}{tensor}/shape"].tolist())


def _float_tensors(model: Model) -> set[str]:
    """Tensors that the file itself says are float32; the others are cast, for which the runtime finds out."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {value.name or "" for value in values if value.dtype is not None and value.dtype.name == "FLOAT"}
