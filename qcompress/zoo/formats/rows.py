"""What a summary says to people, before any format lays it out."""

from __future__ import annotations

from collections import Counter

from qcompress.zoo.jobs import Outcome, Summary
from qcompress.zoo.severity import SEVERITY

COLUMNS = ("model", "result", "size", "speed", "drop", "seconds", "MB", "cause")


def totals(summary: Summary) -> list[str]:
    """How many models ended how, what was saved, what it took."""
    counts = Counter(outcome.status for outcome in summary.outcomes)
    ends = ", ".join(f"{counts[status]} {status}" for status in reversed(SEVERITY) if counts[status])
    reused = sum(outcome.reused for outcome in summary.outcomes)
    lines = [f"{len(summary.outcomes)} models: {ends}" + (f"; {reused} as they were from an earlier run" if reused else "")]
    figures = [outcome.figures for outcome in summary.outcomes if outcome.figures is not None]
    before, after = sum(item.float_bytes for item in figures), sum(item.compressed_bytes for item in figures)
    if figures:
        lines.append(f"{_size(before)} became {_size(after)}, {before / max(after, 1):.2f} times smaller")
    worked = sum(outcome.seconds for outcome in summary.outcomes if not outcome.reused)
    peak = f", at most {summary.peak / 1e6:,.0f} MB of memory" if summary.peak else ""
    lines.append(f"{summary.seconds:,.0f} s for {worked:,.0f} s of work{peak}")
    if any(item.random for item in figures):
        lines.append(
            "RANDOM DATA: some were calibrated or measured on random numbers; their drop means nothing for real inputs"
        )
    return lines


def cells(outcome: Outcome) -> tuple[object, ...]:
    """One line of the table."""
    figures = outcome.figures
    return (
        outcome.name,
        outcome.status + (" *" if outcome.reused else ""),
        None if figures is None else f"{figures.ratio:.3f}",
        None if figures is None or figures.speedup is None else f"{figures.speedup:.2f}",
        None if figures is None or figures.drop is None else f"{figures.drop:.4f}",
        f"{outcome.seconds:.0f}",
        f"{outcome.peak / 1e6:.0f}",
        cause(outcome),
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def cause(outcome: Outcome) -> str | None:
    """Why it did not end well, and during what."""
    if not outcome.cause:
        return None
    during = f" (during: {outcome.stage})" if outcome.stage else ""
    return f"{outcome.cause}{during}"
