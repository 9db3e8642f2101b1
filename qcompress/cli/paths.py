"""Where results go: checked before the long work starts, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from qcompress.errors import OutputError, UsageError


def existing(*sources: str | Path | None) -> list[Path]:
    """Those of the sources that are files or folders (data may also be ``random`` or ``module:function``)."""
    found = []
    for source in sources:
        with suppress(OSError, ValueError):  # a name too long for a path is not a path
            if source is not None and Path(source).exists():
                found.append(Path(source))
    return found


def input_files(*models: Path) -> list[Path]:
    """The files of the models, external data included.

    Raises:
        ModelError: a model cannot be read.
    """
    from qcompress.graph import model_files

    return [file for model in models for file in model_files(model)]


def check_targets(targets: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Make sure that each target can be written and that none is an input or another target.

    Raises:
        UsageError: a target is also an input, or named twice.
        OutputError: a target's folder is missing or cannot be written, or the target is not a plain file.
    """
    sources = list(inputs)
    for index, target in enumerate(targets):
        for source in sources:
            if _same(target, source):
                raise UsageError(f"{target} is also an input", "inputs are never changed; choose another name")
        if any(_same(target, other) for other in targets[:index]):
            raise UsageError(f"{target} is asked for twice", "give every result its own file")
        _check_writable(target)


def check_report_names(reports: Iterable[Path]) -> None:
    """Make sure that the form of each report file is known.

    Raises:
        UsageError: another suffix.
    """
    from qcompress.report import format_of

    for path in reports:
        format_of(path)


def make_folder(folder: Path) -> None:
    """Make sure that there is a folder for results.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}", "choose another folder") from error


def write_text(target: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8", errors="backslashreplace")
        part.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}", "check the folder and the space left") from error
    finally:
        part.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):  # one may not exist yet
        return one.samefile(other)
    with suppress(OSError, ValueError, RuntimeError):  # links in a circle, or signs that no name can have
        return one.resolve() == other.resolve()
    return one.absolute() == other.absolute()


def _check_writable(target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"{target}: there is no folder {folder}", f"create it: mkdir -p {folder}")
    if target.is_dir():
        raise OutputError(f"{target} is a folder", "give the name of a file")
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} is not a plain file", "give the name of a file, or - for stdout")
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell: read-only mounts, quotas, the superuser
            pass
    except OSError as error:
        raise OutputError(f"{target}: the folder cannot be written: {error.strerror}", "choose another folder") from error
