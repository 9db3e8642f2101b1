"""A finished report delivered: on stdout, to files, and its failed gates on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from qcompress.cli.console import wants_colour, width, write_result
from qcompress.cli.guard import Talk
from qcompress.cli.options import ReportChoice
from qcompress.errors import ExitCode

if TYPE_CHECKING:
    from qcompress.results import Report


def deliver(report: Report, choice: ReportChoice, talk: Talk, stream: TextIO | None = None) -> ExitCode:
    """Write the report where it was asked for; return the exit code of the process.

    ``stream`` takes the place of stdout when the model itself went there.
    """
    from qcompress.report import RenderOptions, render, write_report

    for path in choice.report:
        write_report(report, path)
    if wanted(choice.format, talk):
        look = RenderOptions(width(), wants_colour() and stream is None, talk.verbose)
        text = render(report, choice.format, look)
        if stream is None:
            write_result(text)
        else:
            print(text, file=stream)
    for gate in report.gates:
        if not gate.passed:
            print(f"qcompress: gate failed: {gate.message}", file=sys.stderr, flush=True)
    return report.exit_code


def wanted(form: str, talk: Talk) -> bool:
    """Whether stdout gets the result: ``--quiet`` silences the table, but not what was asked for by ``--format``."""
    return not talk.supervised and (not talk.quiet or form != "table")
