"""The table of everything data can come from; to add a source, add a file and a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qcompress.data.batch import Source
from qcompress.data.request import Request
from qcompress.data.sources import (
    function,
    image_folder,
    npy_file,
    npz_file,
    npz_folder,
    onnx_test_data,
    random_data,
)


@dataclass(frozen=True, slots=True)
class SourceKind:
    """How one kind of source is recognised, opened and found on disk; ``form`` shows what the user writes."""

    form: str
    matches: Callable[[str], bool]
    open: Callable[[Request], Source]
    files: Callable[[str], list[Path]]


SOURCES: dict[str, SourceKind] = {
    "random_data": SourceKind(random_data.FORM, random_data.matches, random_data.open_source, random_data.files),
    "npz_file": SourceKind(npz_file.FORM, npz_file.matches, npz_file.open_source, npz_file.files),
    "npy_file": SourceKind(npy_file.FORM, npy_file.matches, npy_file.open_source, npy_file.files),
    "onnx_test_data": SourceKind(
        onnx_test_data.FORM, onnx_test_data.matches, onnx_test_data.open_source, onnx_test_data.files
    ),
    "npz_folder": SourceKind(npz_folder.FORM, npz_folder.matches, npz_folder.open_source, npz_folder.files),
    "image_folder": SourceKind(image_folder.FORM, image_folder.matches, image_folder.open_source, image_folder.files),
    "function": SourceKind(function.FORM, function.matches, function.open_source, function.files),
}
"""By file name, in the order in which they are tried."""
