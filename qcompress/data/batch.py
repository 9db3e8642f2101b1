"""What flows out of a data source: units (one sample or one feed) and the batches made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qcompress.errors import DataError
from qcompress.types import Array, Feed, TensorSignature


@dataclass(frozen=True, slots=True)
class Batch:
    """One feed of the model, ready to run; ``labels``, where known, has one row per sample."""

    feed: dict[str, Array]
    labels: Array | None
    samples: int


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest part a source can be split into: one sample, or one feed that must stay whole.

    ``where`` says in an error which one it is: ``sample 17`` or ``0017.npz``.
    """

    where: str
    feed: dict[str, Array]
    labels: Array | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """An opened data source: units that can be read any number of times, always in the same order.

    ``read(wanted)`` yields the units with the given ascending indices, or all for None, one at a time.
    ``sizes``: samples in each unit, (units,); None when only reading tells.
    """

    read: Callable[[Array | None], Iterator[Unit]]
    sizes: Array | None
    batch: int = 1
    """Units joined along the first axis into one feed."""
    whole: bool = False
    """The model takes exactly ``batch`` units at a time, so an incomplete last batch is left out."""
    random: bool = False


def batch_size(signature: tuple[TensorSignature, ...], wanted: int) -> tuple[int, bool]:
    """How many samples one feed holds, and whether the model takes no other number.

    Args:
        signature: the inputs whose first axis is samples.
        wanted: the number to use where the model leaves it free.

    Raises:
        DataError: the inputs declare different fixed batch sizes.
    """
    fixed = {item.name: item.shape[0] for item in signature if item.shape and isinstance(item.shape[0], int)}
    sizes = sorted({size for size in fixed.values() if isinstance(size, int)})
    if len(sizes) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sorted(fixed.items()))
        raise DataError(
            f"the model's inputs have different first axes ({listed}), so samples cannot be batched",
            "give a directory of .npz files, each one complete feed",
        )
    return (sizes[0], True) if sizes else (wanted, False)


def count_samples(feed: Feed) -> int:
    """Samples in one feed: the length of the first axis where all inputs share it, else 1."""
    lengths = {array.shape[0] for array in feed.values() if array.ndim}
    return int(lengths.pop()) if len(lengths) == 1 else 1


def label_rows(labels: Array, samples: int, where: str) -> Array:
    """Labels of one unit as (samples, ...).

    A lone number is the label of the one sample; a vector of another length than 1 belongs to the positions of it.

    Raises:
        DataError: labels are not numbers, or their count is not the number of samples.
    """
    if labels.dtype.kind not in "biuf":
        raise DataError(f"labels of {where} have type {labels.dtype}", "labels are numbers: class indices for a classifier")
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    if labels.ndim == 0:
        labels = labels.reshape(1)
    if labels.shape[0] == samples:
        return labels
    if samples == 1:
        return labels[np.newaxis]
    raise DataError(f"{where} has labels of shape {labels.shape} for {samples} samples", "give one row of labels per sample")


def join(units: list[Unit]) -> Batch:
    """Several units as one feed, joined along the first axis; scalars, which have none, are taken from the first."""
    first = units[0]
    feed = first.feed
    labels = first.labels
    if len(units) > 1:
        feed = {
            name: np.concatenate([unit.feed[name] for unit in units]) if array.ndim else array
            for name, array in first.feed.items()
        }
        labels = None if labels is None else np.concatenate([unit.labels for unit in units if unit.labels is not None])
    return Batch(feed, labels, count_samples(feed))
