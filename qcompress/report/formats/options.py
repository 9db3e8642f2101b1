"""What a reader may choose about the looks of a report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """``width`` in columns and ``color`` are for terminals; ``verbose`` lists every weight (JSON always does)."""

    width: int = 100
    color: bool = False
    verbose: bool = False
