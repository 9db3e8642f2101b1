"""Bytes: of the files on disk and of the weights in them."""

from __future__ import annotations

import zlib
from pathlib import Path

from qcompress.graph import model_files, weight_bytes
from qcompress.results import SizeReport

GZIP_LEVEL = 6
"""What gzip does when it is not told otherwise."""

LARGEST_TO_GZIP = 1 << 29
"""Bytes of a model up to which a further gzip is tried: above it would take longer than it is worth knowing."""

_PART = 1 << 20


def measure_size(float_path: Path, compressed_path: Path) -> SizeReport:
    """Compare two models on disk, external data included.

    Raises:
        ModelError: one of them cannot be read.
    """
    return SizeReport(
        float_bytes=_bytes_on_disk(float_path),
        compressed_bytes=_bytes_on_disk(compressed_path),
        float_weights=weight_bytes(float_path),
        compressed_weights=weight_bytes(compressed_path),
        gzip_bytes=_gzip_bytes(compressed_path),
    )


def _bytes_on_disk(model: Path) -> int:
    return sum(file.stat().st_size for file in model_files(model))


def _gzip_bytes(model: Path) -> int | None:
    """Bytes of the model's files after gzip; None for very large ones."""
    if _bytes_on_disk(model) > LARGEST_TO_GZIP:
        return None
    total = 0
    for path in model_files(model):
        packer = zlib.compressobj(GZIP_LEVEL, wbits=31)
        with path.open("rb") as file:
            while part := file.read(_PART):
                total += len(packer.compress(part))
        total += len(packer.flush())
    return total
