"""What is pruned: which numbers count as little, in which pattern, and how many of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from qcompress.errors import RecipeError


class Criterion(StrEnum):
    """How much a weight counts; those that count least are pruned."""

    MAGNITUDE = "magnitude"
    """|w|."""
    WANDA = "wanda"
    """|w| times the root mean square of the input that it multiplies, compared within an output."""
    OPTIMAL_BRAIN = "optimal-brain"
    """What the layer's outputs lose when the other weights make up for it: w^2 over the diagonal of the inverse Hessian."""
    TAYLOR = "taylor"
    """|w| times the root mean square of dJ/dw: what the loss changes by, to first order."""
    GRADIENT = "gradient"
    """The root mean square of dJ/dw alone."""
    RANDOM = "random"
    """Nothing; the control that the others must beat."""


class Spread(StrEnum):
    """How a total is spread over layers."""

    LAYER = "layer"
    """The same share of every layer."""
    GLOBAL = "global"
    """One ranking of the scores of all layers."""
    MEASURED = "measured"
    """Shares of least loss of the model's outputs, measured layer by layer."""


_PATTERN = re.compile(r"unstructured|channel|(?P<kept>\d+):(?P<of>\d+)|block(?P<size>\d+)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which weights are pruned together.

    Notation: ``unstructured``; ``2:4``, at most 2 of 4 neighbours along the summed axis stay; ``block8``, runs of 8 neighbours
    along the summed axis go together; ``channel``, whole channels of a group of layers.
    """

    kept: int = 0
    of: int = 1
    channels: bool = False

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read the notation.

        Raises:
            RecipeError: the text is not a pattern.
        """
        match = _PATTERN.fullmatch(text.strip())
        kept, of, size = (0, 1, 1) if match is None else (int(match[key] or default) for key, default in _DEFAULTS)
        if match is None or (match["kept"] and not 0 < kept < of) or size < 1:
            raise RecipeError(f"{text!r} is not a pattern", "write unstructured, 2:4, 4:8, block8 or channel")
        if match["kept"]:
            return cls(kept, of)
        return cls(0, size, text.strip() == "channel")

    def __str__(self) -> str:
        if self.channels:
            return "channel"
        if self.kept:
            return f"{self.kept}:{self.of}"
        return "unstructured" if self.of == 1 else f"block{self.of}"

    @property
    def is_fixed(self) -> bool:
        """Whether the pattern itself says how many stay."""
        return self.kept > 0

    @property
    def sparsity(self) -> float:
        """The share that a fixed pattern prunes, 0 of any other."""
        return 1.0 - self.kept / self.of if self.kept else 0.0


_DEFAULTS = (("kept", 0), ("of", 1), ("size", 1))

UNSTRUCTURED = Pattern()
CHANNELS = Pattern(channels=True)


@dataclass(frozen=True, slots=True)
class Prune:
    """What is pruned of one weight: the share ``sparsity`` of its numbers, or those that score below ``threshold``.

    ``compensate``: the numbers that stay are solved again so that the layer's outputs change least.
    """

    sparsity: float
    criterion: Criterion = Criterion.OPTIMAL_BRAIN
    pattern: Pattern = UNSTRUCTURED
    threshold: float | None = None
    compensate: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise RecipeError(
                f"the share {self.sparsity:g} cannot be pruned", "write a share from 0 to below 1, for example 0.5"
            )
