"""A summary as one page without scripts or files beside it."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from qcompress.report import RenderOptions
from qcompress.zoo.formats.rows import COLUMNS, cells, totals
from qcompress.zoo.jobs import Outcome, Status, Summary

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3em .8em; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.good td:nth-child(2) { color: #17692f; }
tr.plain td:nth-child(2) { color: #666; }
tr.bad td:nth-child(2) { color: #b3261e; font-weight: 600; }
"""

_CLASSES = {Status.DONE: "good", Status.NOTHING: "plain", Status.NOT_RUN: "plain"}

_NUMBERS = ("size", "speed", "drop", "seconds", "MB")


def format_html(summary: Summary, options: RenderOptions) -> str:
    """The totals, then a table with the worst first; results are links to their reports."""
    heads = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Compressed models</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>Compressed models</h1>",
        *(f"<p>{escape(line)}</p>" for line in totals(summary)),
        f"<table><thead><tr>{heads}</tr></thead><tbody>",
        *(_row(outcome) for outcome in summary.outcomes),
        "</tbody></table></body></html>",
    ]
    return "\n".join(lines)


def _row(outcome: Outcome) -> str:
    found = []
    for column, value in zip(COLUMNS, cells(outcome), strict=True):
        text = escape("-" if value is None else str(value))
        if column == "model" and outcome.files:
            report = next((name for name in sorted(outcome.files, reverse=True) if name.endswith(".report.json")), None)
            report = report or next((name for name in sorted(outcome.files) if name.endswith(".log")), None)
            text = text if report is None else f'<a href="{escape(_beside(outcome.name, report))}">{text}</a>'
        found.append(f'<td class="number">{text}</td>' if column in _NUMBERS else f"<td>{text}</td>")
    return f'<tr class="{_CLASSES.get(outcome.status, "bad")}">{"".join(found)}</tr>'


def _beside(name: str, file: str) -> str:
    """The place of a file that lies beside a model's result, seen from the page."""
    return quote("/".join([*name.split("/")[:-1], file]), errors="surrogateescape")
