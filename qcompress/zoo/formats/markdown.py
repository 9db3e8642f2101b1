"""A summary for a pull request or a wiki."""

from __future__ import annotations

from qcompress.report import RenderOptions, render_table
from qcompress.zoo.formats.rows import COLUMNS, cells, totals
from qcompress.zoo.jobs import Summary


def format_markdown(summary: Summary, options: RenderOptions) -> str:
    """The totals, then a GitHub table with the worst first."""
    table = render_table("", COLUMNS, [cells(outcome) for outcome in summary.outcomes], "markdown")
    return "\n".join(["## Compressed models", "", *(f"- {line}" for line in totals(summary)), "", table])
