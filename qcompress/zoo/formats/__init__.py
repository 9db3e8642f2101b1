"""How the summary of a batch can be laid out: one file each, and one line here."""

from collections.abc import Callable, Mapping

from qcompress.report import RenderOptions
from qcompress.zoo.formats.csv import format_csv
from qcompress.zoo.formats.html import format_html
from qcompress.zoo.formats.json import format_json
from qcompress.zoo.formats.junit import format_junit
from qcompress.zoo.formats.markdown import format_markdown
from qcompress.zoo.formats.table import format_table
from qcompress.zoo.jobs import Summary

__all__ = ["SUMMARY_FILES", "SUMMARY_FORMATS"]

SUMMARY_FORMATS: Mapping[str, Callable[[Summary, RenderOptions], str]] = {
    "table": format_table,
    "json": format_json,
    "csv": format_csv,
    "markdown": format_markdown,
    "html": format_html,
    "junit": format_junit,
}
"""Formats by name; each turns a summary into text without a final newline."""

SUMMARY_FILES: Mapping[str, str] = {
    "summary.json": "json",
    "summary.csv": "csv",
    "summary.md": "markdown",
    "summary.html": "html",
}
"""What is written into the folder of results after every batch."""
