"""What a criterion may look at beside the weight."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.quantize import Evidence
from qcompress.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Clues:
    """What is known about a weight.

    ``evidence``: which axes are inputs, and what is known about the inputs. ``gradient``: shape of the weight, the root mean
    square of dJ/dw over samples; None when it is not known. ``seed``: of random scores.
    """

    evidence: Evidence
    gradient: Array | None = None
    seed: int = 0
