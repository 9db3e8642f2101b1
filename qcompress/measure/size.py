"""Bytes: of the files on disk and of the weights in them."""

from __future__ import annotations

from pathlib import Path

from qcompress.graph import model_files, weight_bytes
from qcompress.results import SizeReport


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
    )


def _bytes_on_disk(model: Path) -> int:
    return sum(file.stat().st_size for file in model_files(model))
