"""A summary for a spreadsheet."""

from __future__ import annotations

import csv
import io

from qcompress.report import RenderOptions
from qcompress.zoo.jobs import Outcome, Summary

COLUMNS = (
    "model",
    "result",
    "float_bytes",
    "compressed_bytes",
    "ratio",
    "speedup",
    "drop",
    "drop_of",
    "seconds",
    "peak_bytes",
    "reused",
    "stage",
    "cause",
    "hint",
)


def format_csv(summary: Summary, options: RenderOptions) -> str:
    """One line a model, the worst first, numbers as they are."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(outcome) for outcome in summary.outcomes)
    return stream.getvalue().rstrip("\n")


def _row(outcome: Outcome) -> tuple[object, ...]:
    figures = outcome.figures
    measured: tuple[object, ...] = ("",) * 6
    if figures is not None:
        measured = (
            figures.float_bytes,
            figures.compressed_bytes,
            f"{figures.ratio:.6g}",
            "" if figures.speedup is None else figures.speedup,
            "" if figures.drop is None else figures.drop,
            figures.drop_of,
        )
    ended = (f"{outcome.seconds:.3f}", outcome.peak, int(outcome.reused), outcome.stage, outcome.cause, outcome.hint)
    return (outcome.name, str(outcome.status), *measured, *ended)
