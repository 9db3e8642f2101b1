"""Rows laid out for a terminal, for markdown and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from qcompress.cli.console import wants_colour

WIDE = 10_000
"""Columns when stdout is not a terminal: nothing is cut, a file or a pipe takes any length."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns; ``right`` are the columns of numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    right: frozenset[str] = frozenset()


def as_text(tables: Sequence[Table]) -> str:
    """The tables for a terminal (its width, its colours) or, elsewhere, as plain text of any width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    terminal = sys.stdout.isatty()
    buffer = StringIO()
    width = None if terminal else WIDE
    console = Console(file=buffer, width=width, force_terminal=terminal, no_color=not wants_colour())
    for table in tables:
        laid_out = RichTable(title=table.title or None, title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
        for column in table.columns:
            laid_out.add_column(column, justify="right" if column in table.right else "left", overflow="fold")
        for row in table.rows:
            laid_out.add_row(*(Text(cell) for cell in row))
        console.print(laid_out)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


def as_markdown(table: Table) -> str:
    """The table as GitHub markdown."""
    rules = ("--:" if column in table.right else "---" for column in table.columns)
    lines = [table.columns, tuple(rules), *table.rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"### {table.title}\n\n{text}" if table.title else text


def as_json(value: Any) -> str:
    """The value as indented JSON; tuples become lists."""
    return json.dumps(value, indent=2, ensure_ascii=False)
