"""How a report can be laid out: one file each, and one line here."""

from collections.abc import Callable, Mapping

from qcompress.report.formats.json import format_json
from qcompress.report.formats.junit import format_junit
from qcompress.report.formats.markdown import format_markdown
from qcompress.report.formats.options import RenderOptions
from qcompress.report.formats.table import format_table
from qcompress.results import Report

__all__ = ["FORMATS", "SUFFIXES", "RenderOptions"]

FORMATS: Mapping[str, Callable[[Report, RenderOptions], str]] = {
    "table": format_table,
    "json": format_json,
    "markdown": format_markdown,
    "junit": format_junit,
}
"""Report formats by name; each turns a report into text without a final newline."""

SUFFIXES: Mapping[str, str] = {
    ".txt": "table",
    ".json": "json",
    ".md": "markdown",
}
"""Which format a report file gets, by the end of its name."""
