"""An .npy file: the samples of a model with one input."""

from __future__ import annotations

from pathlib import Path

from qcompress.data.batch import Source
from qcompress.data.request import Request
from qcompress.data.samples import sample_source
from qcompress.data.stored import npy_array

FORM = "samples.npy"


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    return Path(spec).suffix == ".npy" and Path(spec).is_file()


def files(spec: str) -> list[Path]:
    """What reading ``spec`` reads."""
    return [Path(spec)]


def open_source(request: Request) -> Source:
    """Read samples, or complete feeds where the array has one axis more than the model's input.

    Raises:
        DataError: unreadable, or the model has several inputs.
    """
    path = Path(request.spec)
    item = request.only_input("an .npy file holds one array", "give an .npz with one array per input")
    array = npy_array(path, request.options.limits)
    return sample_source({item.name: array}, None, request.signature, request.options.batch_size, path.name)
