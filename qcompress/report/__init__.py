"""A finished report laid out: for a terminal, a pull request or a program."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from qcompress.errors import OutputError, UsageError
from qcompress.report.formats import FORMATS, SUFFIXES, RenderOptions
from qcompress.report.formats.json import from_json
from qcompress.report.tables import render_table
from qcompress.results import Report

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "RenderOptions",
    "format_of",
    "from_json",
    "render",
    "render_table",
    "schema",
    "write_report",
]


def render(report: Report, fmt: str, options: RenderOptions | None = None) -> str:
    """Lay out a report; the text ends without a newline.

    Raises:
        UsageError: an unknown format.
    """
    if fmt not in FORMATS:
        raise UsageError(f"there is no report format {fmt!r}", f"formats: {', '.join(FORMATS)}")
    return FORMATS[fmt](report, options or RenderOptions())


def format_of(path: Path) -> str:
    """The format a report file gets by the end of its name.

    Raises:
        UsageError: an unknown suffix; call this before the work, so that a misspelt name costs nothing.
    """
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(f"{suffix} ({fmt})" for suffix, fmt in SUFFIXES.items())
        raise UsageError(f"cannot tell the report format of {path}", f"end the name with one of {known}")
    return SUFFIXES[path.suffix.lower()]


def write_report(report: Report, path: Path) -> None:
    """Write a report with every weight listed, in the format its suffix names; the file appears whole or not at all.

    Raises:
        UsageError: an unknown suffix.
        OutputError: the file cannot be written.
    """
    text = render(report, format_of(path), RenderOptions(verbose=True)) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write the report {path}: {reason}", "check the folder and the free space") from error
    finally:
        with suppress(OSError):  # gone already after a success; never hide why the writing failed
            temporary.unlink(missing_ok=True)


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that JSON reports follow."""
    text = files("qcompress.report").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
