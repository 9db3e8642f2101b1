"""The order of results: the worst first."""

from __future__ import annotations

from collections.abc import Iterable

from qcompress.zoo.jobs import Outcome, Status

SEVERITY = (
    Status.BUG,
    Status.CRASHED,
    Status.OUT_OF_MEMORY,
    Status.TIMED_OUT,
    Status.UNUSABLE,
    Status.NOT_RUN,
    Status.GATE_FAILED,
    Status.NOTHING,
    Status.DONE,
)
"""From the worst to the best."""


def worst_first(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """By how they ended, then what was lost most, then what became least small, then by name."""

    def rank(outcome: Outcome) -> tuple[object, ...]:
        figures = outcome.figures
        drop = figures.drop if figures is not None and figures.drop is not None else 0.0
        return SEVERITY.index(outcome.status), -drop, -(figures.ratio if figures is not None else 0.0), outcome.name

    return tuple(sorted(outcomes, key=rank))
