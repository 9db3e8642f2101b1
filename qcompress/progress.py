"""Progress that the library reports and a caller may ignore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

MEASURING_LATENCY = "Measuring latency"
MEASURING_COST = "Measuring cost"

TIMED_STAGES = frozenset({MEASURING_LATENCY, MEASURING_COST})
"""Stages that time what they do: whoever runs several models at once lets these run alone."""


class Stage(Protocol):
    """One running stage of the work."""

    def advance(self, amount: int = 1) -> None:
        """Say that ``amount`` more units are done."""


class Progress(Protocol):
    """Where the library says what it is doing; the command line attaches bars, tests attach lists."""

    def stage(self, title: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Stage]:
        """Open a stage of ``total`` units (None: unknown); it ends when the context is left."""

    def note(self, message: str) -> None:
        """Tell the user something that is not an error."""


class _SilentStage:
    def advance(self, amount: int = 1) -> None:
        """Ignore it."""


class SilentProgress:
    """The default: nobody listens."""

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Ignore the stage."""
        yield _SilentStage()

    def note(self, message: str) -> None:
        """Ignore the note."""


SILENT = SilentProgress()
