"""Small generic tables in every text format, for the report and for commands that list things."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from qcompress.errors import UsageError

Rows = Sequence[Sequence[object]]

_STYLES = {"passed": "green", "FAILED": "bold red"}


def render_table(title: str, columns: Sequence[str], rows: Rows, fmt: str, *, width: int = 100, color: bool = False) -> str:
    """Lay out rows as ``table``, ``markdown`` or ``json`` (a list of objects keyed by column); ends without a newline.

    Raises:
        UsageError: an unknown format.
    """
    if fmt not in TABLE_FORMATS:
        raise UsageError(f"there is no format {fmt!r}", f"formats: {', '.join(TABLE_FORMATS)}")
    if fmt == "table":
        return print_rich(rich_table(title, columns, rows), width=width, color=color)
    return TABLE_FORMATS[fmt](title, columns, rows)


def rich_table(title: str, columns: Sequence[str], rows: Rows) -> Table:
    """A table for a terminal; columns of numbers are aligned to the right."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in map(_cell, row)))
    return table


def print_rich(*parts: RenderableType, width: int, color: bool) -> str:
    """What rich would print on a terminal of ``width`` columns, without trailing blanks and double empty lines."""
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=color, no_color=not color, color_system="standard" if color else None
    )
    for part in parts:
        console.print(part)
    lines = [line.rstrip() for line in stream.getvalue().strip("\n").splitlines()]
    return "\n".join(line for index, line in enumerate(lines) if line or lines[index - 1]).rstrip()


def markdown_table(title: str, columns: Sequence[str], rows: Rows) -> str:
    """A GitHub table under a heading."""
    numeric = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    lines = [f"### {title}", ""] if title else []
    lines.append(_markdown_row(columns))
    lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
    lines += [_markdown_row(row) for row in rows]
    return "\n".join(lines)


def json_table(title: str, columns: Sequence[str], rows: Rows) -> str:
    """A list of objects; the title is for people and left out."""
    return json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2, default=str)


def markdown_text(text: str) -> str:
    """Text with what Markdown would read as markup escaped."""
    for mark in ("\\", "|", "*", "_", "`", "<", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _markdown_row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(markdown_text(_cell(cell)) for cell in cells) + " |"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    return str(value)


def _is_number(value: object) -> bool:
    """Whether a cell reads as a quantity: a number, or text that starts with one."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return True
    return isinstance(value, str) and bool(value) and (value[0].isdigit() or value == "-" or value[:2].strip("-").isdigit())


def _rich_alone(title: str, columns: Sequence[str], rows: Rows) -> str:
    return print_rich(rich_table(title, columns, rows), width=100, color=False)


TABLE_FORMATS: Mapping[str, Callable[[str, Sequence[str], Rows], str]] = {
    "table": _rich_alone,
    "json": json_table,
    "markdown": markdown_table,
}
"""How rows can be laid out, by the name of the format."""
