"""An .npz file: one array per input, the first axis is samples, and maybe ``labels``."""

from __future__ import annotations

from pathlib import Path

from qcompress.data.batch import Source
from qcompress.data.check import check_names
from qcompress.data.request import Request
from qcompress.data.samples import LABELS, sample_source
from qcompress.data.stored import npz_arrays

FORM = "samples.npz"


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    return Path(spec).suffix == ".npz" and Path(spec).is_file()


def files(spec: str) -> list[Path]:
    """What reading ``spec`` reads."""
    return [Path(spec)]


def open_source(request: Request) -> Source:
    """Read samples, or complete feeds where an array has one axis more than the model's input.

    Raises:
        DataError: unreadable, or arrays that do not fit the model.
    """
    path = Path(request.spec)
    arrays = npz_arrays(path, request.options.limits)
    labels = arrays.pop(LABELS, None) if LABELS not in request.names else None
    check_names(arrays, request.signature, request.output_names, path.name)
    inputs = {name: arrays[name] for name in request.names}
    return sample_source(inputs, labels, request.signature, request.options.batch_size, path.name)
