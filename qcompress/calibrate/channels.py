"""What repairs want to know of a few tensors: the extremes of each channel in each feed, and some whole positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from qcompress.calibrate.accumulators import not_finite
from qcompress.calibrate.collect import Batch, CalibrationSettings, run_observed
from qcompress.calibrate.observers import Observers
from qcompress.graph import Model
from qcompress.progress import Progress
from qcompress.types import Array, ChannelSamples

ROW_VALUES = 1 << 16
"""Values of a tensor that are kept of a feed as whole positions, about."""

ROW_FEEDS = 6
"""Feeds of which positions are kept: 1.5 MB a tensor."""


def collect_channels(
    model: Model, axes: Mapping[str, int], batches: Iterable[Batch], settings: CalibrationSettings, progress: Progress
) -> dict[str, ChannelSamples]:
    """Run the data once and look at the channels of each tensor (tensor -> channel axis, from the front or the end).

    Args:
        model: unchanged.
        axes: inputs of the model or outputs of nodes of its main graph.
        batches: read once, in order; every batch counts as a feed.
        settings: ``total`` tells which feeds are the last.
        progress: gets one stage, ``Looking at channels``.

    Raises:
        CalibrationError: no data, or NaN or infinity in a tensor.
        ModelError: the runtime cannot load or run the model.
    """
    observers = Observers(model.opset, ROW_VALUES, moment_factor=1)
    for tensor, axis in sorted(axes.items()):
        observers.channels(tensor, axis)
    found: dict[str, list[tuple[Array, Array]]] = {tensor: [] for tensor in axes}
    kept: dict[str, list[tuple[int, Array]]] = {tensor: [] for tensor in axes}
    for feed, (values, where) in enumerate(
        run_observed(model, observers, batches, settings, progress, "Looking at channels")
    ):
        for tensor, axis in axes.items():
            low, high, rows = (values[name] for name in observers.channel_names(tensor))
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise not_finite(tensor, "NaN or infinite", where.text)
            found[tensor].append((low, high))
            kept[tensor] = [*kept[tensor][1 - ROW_FEEDS :], (feed, _as_rows(rows, axis))]
    return {tensor: _samples(found[tensor], kept[tensor]) for tensor in sorted(axes)}


def _as_rows(values: Array, axis: int) -> Array:
    """(d0, .., d(axis), rest) or (rest, d(axis), .., d(-1)) as (positions, channels)."""
    moved = np.moveaxis(values, axis, -1)
    return np.ascontiguousarray(moved.reshape(-1, moved.shape[-1]), dtype=np.float32)


def _samples(extremes: list[tuple[Array, Array]], kept: list[tuple[int, Array]]) -> ChannelSamples:
    return ChannelSamples(
        low=np.stack([low for low, _ in extremes]),
        high=np.stack([high for _, high in extremes]),
        rows=np.concatenate([rows for _, rows in kept]),
        feeds=np.concatenate([np.full(len(rows), feed) for feed, rows in kept]),
    )
