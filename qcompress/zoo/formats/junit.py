"""A summary as JUnit XML: a suite for every model, in the order of the summary."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from qcompress.report import RenderOptions
from qcompress.report.formats.junit import End, junit_document, junit_result
from qcompress.zoo.formats.rows import COLUMNS, cause, cells
from qcompress.zoo.jobs import Outcome, Status, Summary

ENDS = {Status.DONE: End.PASSED, Status.GATE_FAILED: End.FAILED, Status.NOTHING: End.SKIPPED, Status.NOT_RUN: End.SKIPPED}
"""What is neither is an error."""


def format_junit(summary: Summary, options: RenderOptions) -> str:
    """One suite with one case a model; what was found out is its output or its message."""
    return junit_document(_suite(outcome) for outcome in summary.outcomes)


def _suite(outcome: Outcome) -> Element:
    figures = "; ".join(f"{name} {value}" for name, value in zip(COLUMNS, cells(outcome), strict=True) if value is not None)
    words = [cause(outcome) or figures, f"({outcome.hint})" if outcome.hint else ""]
    seconds = 0.0 if outcome.reused else outcome.seconds
    return junit_result(
        outcome.name, ENDS.get(outcome.status, End.ERROR), " ".join(filter(None, words)), outcome.status, seconds
    )
