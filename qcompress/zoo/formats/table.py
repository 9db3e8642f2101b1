"""A summary for a terminal."""

from __future__ import annotations

from qcompress.report import RenderOptions, render_table
from qcompress.zoo.formats.rows import COLUMNS, cause, cells, totals
from qcompress.zoo.jobs import Summary


def format_table(summary: Summary, options: RenderOptions) -> str:
    """One line a model, the worst first, then why they did not end well, and the totals: the end is what a terminal shows."""
    rows = [cells(outcome)[:-1] for outcome in summary.outcomes]  # causes are long
    parts = [render_table("", COLUMNS[:-1], rows, "table", width=options.width, color=options.color), ""]
    causes = [f"{outcome.name}: {outcome.status}: {cause(outcome)}" for outcome in summary.outcomes if outcome.cause]
    parts += [*causes, ""] if causes else []
    parts += ["* as it was from an earlier run"] if any(outcome.reused for outcome in summary.outcomes) else []
    return "\n".join([*parts, *totals(summary)])
