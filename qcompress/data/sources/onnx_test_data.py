"""The ONNX test data layout: ``test_data_set_0/input_0.pb`` and so on, each set one feed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qcompress.data.batch import Source, Unit, count_samples
from qcompress.data.request import Request
from qcompress.errors import DataError
from qcompress.types import Array

FORM = "folder of test_data_set_*"
_INPUT = re.compile(r"input_(\d+)\.pb")


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    return bool(_folders(Path(spec)))


def files(spec: str) -> list[Path]:
    """What reading ``spec`` reads: the inputs of every set."""
    return [file for folder in _folders(Path(spec)) for file in _files(folder)]


def open_source(request: Request) -> Source:
    """Read feeds in numeric order; ``output_*.pb`` files are left alone.

    Raises:
        DataError: a tensor is unreadable, or a set has not one tensor per input.
    """
    folders = _folders(Path(request.spec))

    def read(wanted: Array | None) -> Iterator[Unit]:
        for index in range(len(folders)) if wanted is None else wanted.tolist():
            yield Unit(folders[index].name, _feed(folders[index], request))

    sizes = [count_samples(unit.feed) for unit in read(None)] if len(folders) <= _COUNTED else None
    return Source(read, None if sizes is None else np.array(sizes, np.int64))


_COUNTED = 64  # more sets than this are counted while they are used


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if _files(path):
        return [path]
    found = [item for item in path.glob("test_data_set_*") if item.is_dir() and _files(item)]
    return sorted(found, key=lambda item: (_number(item.name), item.name))


def _files(folder: Path) -> list[Path]:
    """The input tensors of one set in numeric order: input_2 before input_10."""
    return sorted(
        (item for item in folder.glob("input_*.pb") if _INPUT.fullmatch(item.name)), key=lambda item: _number(item.name)
    )


def _number(name: str) -> int:
    digits = re.search(r"(\d+)(?:\.pb)?$", name)
    return int(digits[1]) if digits else -1


def _feed(folder: Path, request: Request) -> dict[str, Array]:
    """One set as a feed: by tensor name where all names are the model's, else by position."""
    from qcompress.graph.protobuf import read_tensor  # late: the graph libraries are slow to import

    files = _files(folder)
    if len(files) != len(request.signature):
        raise DataError(
            f"{folder.name} has {len(files)} input tensors, but the model has {len(request.signature)} inputs",
            f"there must be one input_*.pb for each of {', '.join(request.names)}",
        )
    tensors = [read_tensor(path) for path in files]
    if sorted(name for name, _ in tensors) == sorted(request.names):
        return dict(tensors)
    return {name: array for name, (_, array) in zip(request.names, tensors, strict=True)}
