"""A finished model moved to its place: a folder that exists, external data first, the model last, and only what changed."""

from __future__ import annotations

import filecmp
from pathlib import Path

from qcompress.errors import OutputError
from qcompress.graph.facts import model_files
from qcompress.graph.saving import place_files


def folder_of(target: Path) -> Path:
    """The folder a model is to be written to.

    Raises:
        OutputError: there is none.
    """
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such folder", "create it first")
    return target.parent


def deliver(written: Path, target: Path) -> None:
    """Move the finished files to their place, unless the same content is there already: its time is left for Make to see.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    try:
        moves = {file: target.with_name(file.name) for file in model_files(written)}
        if not all(place.is_file() and filecmp.cmp(file, place, shallow=False) for file, place in moves.items()):
            place_files(moves)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}", "check the folder and the space left") from error
