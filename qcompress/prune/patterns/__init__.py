"""Which numbers go together: one file for each pattern, all in one table."""

from __future__ import annotations

from collections.abc import Callable

from qcompress.prune.patterns.blocks import blocks
from qcompress.prune.patterns.n_of_m import n_of_m
from qcompress.prune.patterns.unstructured import unstructured
from qcompress.types import Array, Pattern, Prune

Choose = Callable[[Array, Prune, bool], Array]
"""Scores (groups, outputs, inputs), what is pruned, and whether each output is ranked by itself -> True where a number stays."""

PATTERNS: dict[str, Choose] = {"unstructured": unstructured, "n:m": n_of_m, "block": blocks}
"""Every pattern within a layer. Channels reach over several layers; ``channels`` makes masks of them."""


def kind_of(pattern: Pattern) -> str:
    """The entry of the table that a pattern belongs to.

    Raises:
        ValueError: whole channels, which are chosen for a group of layers.
    """
    if pattern.channels:
        raise ValueError("channels are chosen for a group of layers, not for one weight")
    if pattern.kept:
        return "n:m"
    return "unstructured" if pattern.of == 1 else "block"
