"""From what the user typed to a dataset."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from qcompress.data.dataset import Dataset, make_dataset
from qcompress.data.options import DataOptions
from qcompress.data.request import Request
from qcompress.data.sources import SOURCES
from qcompress.errors import DataError
from qcompress.types import TensorSignature


def open_dataset(
    spec: str, signature: tuple[TensorSignature, ...], options: DataOptions, *, output_names: tuple[str, ...] = ()
) -> Dataset:
    """Open the data that ``spec`` names and check its first feed against the model.

    Args:
        spec: a path, ``module:function`` or ``random``; see ``SOURCES``.
        signature: the model's inputs.
        options: batch size, seed, image preparation and limits.
        output_names: arrays under these names are reference outputs in the data, and left alone.

    Raises:
        DataError: no such data, unreadable, empty, or it does not fit the model.
    """
    request = Request(spec, signature, options, output_names)
    try:
        for kind in SOURCES.values():
            if kind.matches(spec):
                return make_dataset(spec, kind.open(request), signature, output_names)
        raise _unknown(spec)
    except OSError as error:
        raise DataError(f"{spec} cannot be read: {error.strerror or error}", "check the path and its permissions") from error


def data_files(spec: str) -> list[Path]:
    """The files that reading ``spec`` reads: of a folder every one, of a function its Python files, of ``random`` none.

    Raises:
        DataError: no such data.
    """
    kind = next((kind for kind in SOURCES.values() if kind.matches(spec)), None)
    if kind is None:
        raise _unknown(spec)
    return kind.files(spec)


def _unknown(spec: str) -> DataError:
    path = Path(spec)
    forms = "; ".join(kind.form for kind in SOURCES.values())
    if path.exists():
        if path.is_dir() and not any(path.iterdir()):
            return DataError(f"{spec} is an empty folder", f"data can be: {forms}")
        return DataError(f"{spec} is not data that can be read", f"data can be: {forms}")
    neighbours = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    near = get_close_matches(path.name, neighbours, 1)
    hint = f"did you mean {path.parent / near[0]}?" if near else f"data can be: {forms}"
    return DataError(f"there is no data at {spec}", hint)
