"""A report for a pull request or a wiki."""

from __future__ import annotations

from qcompress.report.formats.options import RenderOptions
from qcompress.report.sections import sections, warnings
from qcompress.report.tables import markdown_table, markdown_text
from qcompress.results import Report


def format_markdown(report: Report, options: RenderOptions) -> str:
    """Headings, lists and GitHub tables; warnings come first."""
    lines = [f"**{markdown_text(line)}**\n" for line in warnings(report)]
    for section in sections(report, options.verbose):
        lines.append(f"## {section.title}\n")
        lines += [f"- {markdown_text(line)}" for line in section.lines]
        if section.lines:
            lines.append("")
        if section.rows:
            lines.append(markdown_table("", section.columns, section.rows) + "\n")
    return "\n".join(lines).rstrip()
