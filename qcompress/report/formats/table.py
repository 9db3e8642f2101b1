"""A report for a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from qcompress.report.formats.options import RenderOptions
from qcompress.report.sections import Section, sections, warnings
from qcompress.report.tables import print_rich, rich_table
from qcompress.results import Report


def format_table(report: Report, options: RenderOptions) -> str:
    """Sections with aligned tables; warnings come first."""
    parts: list[RenderableType] = [Text(line, style="bold red") for line in warnings(report)]
    for section in sections(report, options.verbose):
        parts += _section(section)
    return print_rich(*parts, width=options.width, color=options.color)


def _section(section: Section) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(), Text(section.title, style="bold")]
    parts += [Padding(Text(line), (0, 0, 0, 2)) for line in section.lines]
    if section.rows:
        table = rich_table("", section.columns, section.rows)
        table.show_header = section.columns[0] != "what"  # facts need no heading
        parts.append(table)
    return parts
