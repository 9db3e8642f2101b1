"""``module:function``: the user's code gives feeds, pairs of feed and labels, or a CalibrationDataReader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qcompress.data.batch import Source, Unit, count_samples, label_rows
from qcompress.data.check import check_names
from qcompress.data.functions import blame, function_files, is_function, load_function
from qcompress.data.request import Request
from qcompress.errors import DataError
from qcompress.types import Array, TensorSignature

FORM = "module:function"


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    return is_function(spec) and not Path(spec).exists()


def files(spec: str) -> list[Path]:
    """What calling ``spec`` runs: its Python files. What the function itself opens is its own affair.

    Raises:
        DataError: the function cannot be imported.
    """
    return function_files(spec)


def open_source(request: Request) -> Source:
    """Call the function anew for every pass and stream what it gives.

    Raises:
        DataError: the function cannot be imported, fails, or gives something else than feeds.
    """
    function = load_function(request.spec)

    def read(wanted: Array | None) -> Iterator[Unit]:
        chosen = None if wanted is None else set(wanted.tolist())
        last = None if wanted is None else int(wanted[-1])
        for index, item in enumerate(_items(function, request.spec)):
            if chosen is None or index in chosen:
                yield _unit(item, f"feed {index} of {request.spec}", request)
            if index == last:
                return

    return Source(read, None)


def _items(function: Callable[[], Any], spec: str) -> Iterator[Any]:
    """What the function gives, one at a time, with its failures told as its own."""
    with blame(spec):
        given = function()
    if hasattr(given, "get_next"):
        source: Iterator[Any] = iter(given.get_next, None)
    elif isinstance(given, Iterable) and not isinstance(given, Mapping | str | bytes | np.ndarray):
        with blame(spec):
            source = iter(given)
    else:
        raise DataError(
            f"{spec} gave {_kind(given)}, not feeds", "return or yield dictionaries of input name to array, one per feed"
        )
    while True:
        with blame(spec):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item


def _unit(item: Any, where: str, request: Request) -> Unit:
    feed, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(feed, Mapping):
        raise DataError(f"{where} is {_kind(item)}", "give a dictionary of input name to array, or a pair of it and labels")
    check_names((str(name) for name in feed), request.signature, request.output_names, where)
    arrays = {entry.name: _array(feed[entry.name], entry, where) for entry in request.signature}
    if labels is None:
        return Unit(where, arrays)
    with blame(f"reading the labels of {where}"):
        marks = np.asarray(labels)
    return Unit(where, arrays, label_rows(marks, count_samples(arrays), where))


def _array(value: Any, item: TensorSignature, where: str) -> Array:
    """An array as it is; lists and numbers, which have no type of their own, in the model's type where the kind agrees."""
    try:
        array = np.asarray(value)
        if isinstance(value, list | tuple | int | float) and array.dtype.kind in "iuf" and item.dtype not in ("bool", "str"):
            same_kind = (array.dtype.kind == "f") == item.dtype.startswith(("float", "bfloat"))
            return np.asarray(value, dtype=item.dtype) if same_kind else array
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"input {item.name!r} of {where} is not an array: {error}", "give numpy arrays") from error
    return array


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
