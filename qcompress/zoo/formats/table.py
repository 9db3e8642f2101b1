"""A summary for a terminal."""

from __future__ import annotations

from qcompress.report import RenderOptions, render_table
from qcompress.zoo.formats.rows import COLUMNS, cells, totals
from qcompress.zoo.jobs import Summary


def format_table(summary: Summary, options: RenderOptions) -> str:
    """One line a model, the worst first, and the totals under them."""
    rows = [cells(outcome) for outcome in summary.outcomes]
    table = render_table("", COLUMNS, rows, "table", width=options.width, color=options.color)
    star = ["* as it was from an earlier run"] if any(outcome.reused for outcome in summary.outcomes) else []
    return "\n".join([table, "", *star, *totals(summary)])
