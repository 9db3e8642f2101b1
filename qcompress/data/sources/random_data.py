"""The word ``random``: made-up feeds, the same for the same seed, never used unless asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qcompress.data.batch import Source, Unit, count_samples
from qcompress.data.request import Request
from qcompress.errors import DataError
from qcompress.types import Array, TensorSignature

FORM = "random"
_FREE_SIZE = 32  # every axis that the model leaves free, apart from the first: large enough for strided convolutions


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    return spec == "random"


def files(spec: str) -> list[Path]:
    """What reading ``spec`` reads: nothing."""
    return []


def open_source(request: Request) -> Source:
    """Make feeds of normal floats, 8-bit pixels, and ones or zeros where an integer may be an index.

    Raises:
        DataError: an input has a type that cannot be made up.
    """
    each = count_samples(_feed(request, 0))
    count = max(request.options.random_samples // each, 2)  # two at least, so that one can be held out

    def read(wanted: Array | None) -> Iterator[Unit]:
        for index in range(count) if wanted is None else wanted.tolist():
            yield Unit(f"random feed {index}", _feed(request, index))

    return Source(read, np.broadcast_to(np.int64(each), (count,)), random=True)


def _feed(request: Request, index: int) -> dict[str, Array]:
    generator = np.random.default_rng([request.options.seed, index])
    return {item.name: _values(item, generator) for item in request.signature}


def _values(item: TensorSignature, generator: np.random.Generator) -> Array:
    """One input, by its type.

    Case 1: floats. Standard normal.
    Case 2: 8-bit integers. Pixels or codes, so any value.
    Case 3: bool, masks, and wider integers of rank 0 or 1, which are lengths or rates. All one.
    Case 4: wider integers. Likely an index into a table of unknown size: 0 or 1 is in every table.
    """
    declared = (1,) if item.shape is None else item.shape
    free = [1, *[_FREE_SIZE] * len(declared)]
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else free[axis] for axis, dim in enumerate(declared))
    if item.dtype not in ("float16", "float32", "float64", "bool") and "int" not in item.dtype:
        raise DataError(f"random values cannot be made for input {item.name!r} of type {item.dtype}", "give real data")
    dtype = np.dtype(item.dtype)
    if dtype.kind == "f":  # Case 1
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:  # Case 2
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind == "b" or len(shape) < 2 or "mask" in item.name.lower():  # Case 3
        return np.ones(shape, dtype)
    if dtype.kind == "V":  # of 2 or 4 bits
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.integers(0, 2, shape, dtype)  # Case 4
