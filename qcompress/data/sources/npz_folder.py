"""A directory of .npz files: each file is one feed, given to the model exactly as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qcompress.data.batch import Source, Unit, count_samples, label_rows
from qcompress.data.check import check_form, check_names
from qcompress.data.request import Request
from qcompress.data.samples import LABELS
from qcompress.data.stored import StoredArray, npz_arrays
from qcompress.errors import DataError
from qcompress.types import Array

FORM = "folder of .npz feeds"


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    return Path(spec).is_dir() and next(Path(spec).glob("*.npz"), None) is not None


def files(spec: str) -> list[Path]:
    """What reading ``spec`` reads."""
    return sorted(Path(spec).glob("*.npz"))


def open_source(request: Request) -> Source:
    """Read feeds in the order of the file names; shapes may differ and scalars are fine.

    Raises:
        DataError: a file is unreadable or does not fit the model.
    """
    paths = sorted(Path(request.spec).glob("*.npz"))
    headers = [_inputs(path, request) for path in paths]

    def read(wanted: Array | None) -> Iterator[Unit]:
        for index in range(len(paths)) if wanted is None else wanted.tolist():
            path = paths[index]
            feed, labels = _inputs(path, request)
            arrays = {name: array.load() for name, array in feed.items()}
            marks = None if labels is None else label_rows(labels.load(), count_samples(arrays), path.name)
            yield Unit(path.name, arrays, marks)

    return Source(read, np.array([_samples(feed) for feed, _ in headers], np.int64))


def _inputs(path: Path, request: Request) -> tuple[dict[str, StoredArray], StoredArray | None]:
    """Headers of one file, checked: its inputs and its labels."""
    arrays = npz_arrays(path, request.options.limits)
    labels = arrays.pop(LABELS, None) if LABELS not in request.names else None
    check_names(arrays, request.signature, request.output_names, path.name)
    for item in request.signature:
        check_form(item, arrays[item.name].dtype, arrays[item.name].shape, path.name)
    return {name: arrays[name] for name in request.names}, labels


def _samples(feed: dict[str, StoredArray]) -> int:
    """What ``count_samples`` will say, from the shapes alone."""
    if any(0 in array.shape for array in feed.values()):
        name = next(array.where for array in feed.values() if 0 in array.shape)
        raise DataError(f"{name} is empty", "remove this feed")
    lengths = {array.shape[0] for array in feed.values() if array.shape}
    return lengths.pop() if len(lengths) == 1 else 1
