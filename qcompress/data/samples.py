"""Stored arrays whose first axis is samples, as a source: one unit per sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qcompress.data.batch import Source, Unit, batch_size, count_samples, label_rows
from qcompress.data.check import Signature, shape_text
from qcompress.data.stored import StoredArray
from qcompress.errors import DataError
from qcompress.types import Array, TensorSignature

LABELS = "labels"


def sample_source(
    arrays: Mapping[str, StoredArray], labels: StoredArray | None, signature: Signature, size: int, where: str
) -> Source:
    """Read samples from one array per input.

    Per input, the rank of the array against the declared rank says what a row is:

    Case 1: same rank. The first axis is samples, and so is the model's; rows are joined into batches of ``size``.
    Case 2: one higher. ``array[i]`` is the input of feed i exactly, batch axis included. Then every feed is one row.
    Case 3: both 0. One number that all feeds share.

    Raises:
        DataError: ranks or sample counts that do not fit.
    """
    declared = {item.name: item for item in signature}
    higher = {name: array for name, array in arrays.items() if _rank_gap(declared[name], array) == 1}
    shared = {name: array for name, array in arrays.items() if not array.shape}
    rows = {name: array for name, array in arrays.items() if name not in shared}
    count = _count({**rows, **({LABELS: labels} if labels is not None else {})}, where)
    sliced = tuple(declared[name] for name in rows if name not in higher)
    if higher:
        size = 1
    fixed = batch_size(sliced, size)
    if higher and fixed[0] != 1:
        names = ", ".join(sorted(higher))
        raise DataError(
            f"{where} mixes complete feeds ({names}) with samples for a batch of {fixed[0]}",
            "give a directory of .npz files, each one complete feed",
        )
    constants = {name: array.load() for name, array in shared.items()}

    def read(wanted: Array | None) -> Iterator[Unit]:
        indices = range(count) if wanted is None else wanted.tolist()
        streams = {name: array.rows(wanted) for name, array in rows.items()}
        label_stream = None if labels is None else labels.rows(wanted)
        for index in indices:
            place = f"sample {index} of {where}"
            feed = dict(constants)
            for name, stream in streams.items():
                row = next(stream)
                feed[name] = row if name in higher else row[np.newaxis]
            marks = None if label_stream is None else label_rows(next(label_stream), count_samples(feed), place)
            yield Unit(place, feed, marks)

    each = _feed_samples(rows, higher)
    return Source(read, np.broadcast_to(np.int64(each), (count,)), *fixed)


def _rank_gap(item: TensorSignature, array: StoredArray) -> int:
    """Rank of the array less the declared rank, which is 0 or 1."""
    if item.shape is None:
        return 0
    gap = len(array.shape) - len(item.shape)
    if gap not in (0, 1):
        raise DataError(
            f"input {item.name!r} has shape {array.shape} in {array.where}, but the model wants {shape_text(item)}",
            "the first axis is samples; an array of one rank more holds complete feeds",
        )
    return gap


def _count(rows: Mapping[str, StoredArray], where: str) -> int:
    counts = {name: array.shape[0] if array.shape else 1 for name, array in rows.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise DataError(
            f"{where} has arrays with different numbers of samples ({listed})",
            "the first axis of every array is samples; a directory of .npz files can hold feeds of any shape",
        )
    for name, array in rows.items():
        if counts[name] and 0 in array.shape[1:]:
            raise DataError(
                f"{name!r} in {where} has shape {array.shape}: samples without elements", "check how it was made"
            )
    return next(iter(counts.values()), 1)


def _feed_samples(rows: Mapping[str, StoredArray], higher: Mapping[str, StoredArray]) -> int:
    """What ``count_samples`` will say of one unit, from the shapes alone."""
    lengths = {
        array.shape[1] if name in higher else 1
        for name, array in rows.items()
        if not (name in higher and len(array.shape) == 1)
    }
    return lengths.pop() if len(lengths) == 1 else 1
