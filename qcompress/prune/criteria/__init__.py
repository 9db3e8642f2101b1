"""How much each number of a weight counts: one file for each criterion, all in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcompress.prune.clues import Clues
from qcompress.prune.criteria.gradient import gradient
from qcompress.prune.criteria.magnitude import magnitude
from qcompress.prune.criteria.optimal_brain import optimal_brain
from qcompress.prune.criteria.random import random
from qcompress.prune.criteria.taylor import taylor
from qcompress.prune.criteria.wanda import wanda
from qcompress.quantize import Need
from qcompress.types import Array, Criterion


@dataclass(frozen=True, slots=True)
class Judgement:
    """A criterion: its scores, what they look at, and what they are compared with.

    ``needs``: evidence of the inputs. ``gradient``: whether dJ/dw is looked at. ``by_rows``: whether the numbers of each output are
    ranked by themselves; else those of a whole weight are, and of several weights can be.
    """

    score: Callable[[Array, Clues], Array]
    needs: frozenset[Need] = frozenset()
    gradient: bool = False
    by_rows: bool = False


CRITERIA: dict[Criterion, Judgement] = {
    Criterion.MAGNITUDE: Judgement(magnitude),
    Criterion.WANDA: Judgement(wanda, frozenset({Need.MOMENTS}), by_rows=True),
    Criterion.OPTIMAL_BRAIN: Judgement(optimal_brain, frozenset({Need.GRAM})),
    Criterion.TAYLOR: Judgement(taylor, gradient=True),
    Criterion.GRADIENT: Judgement(gradient, gradient=True),
    Criterion.RANDOM: Judgement(random),
}
"""Every criterion. Where what it needs is missing it makes do with less, as its function says."""
