"""One weight pruned: how much its numbers count, which of them stay, and what those that stay become."""

from __future__ import annotations

import numpy as np

from qcompress.errors import ModelError
from qcompress.prune.clues import Clues
from qcompress.prune.compensate import compensate
from qcompress.prune.criteria import CRITERIA
from qcompress.prune.patterns import PATTERNS, kind_of
from qcompress.quantize import Evidence, Layout, from_rows, to_rows
from qcompress.types import Array, Criterion, Prune


def scores(weight: Array, criterion: Criterion, evidence: Evidence, gradient: Array | None = None, seed: int = 0) -> Array:
    """How much each number counts, higher = keep.

    Args:
        weight: any shape that fits the layout of the evidence.
        criterion: what it looks at is in ``CRITERIA``; what is missing it does without.
        evidence: which axes are inputs, and what is known about the inputs.
        gradient: shape of the weight, the root mean square of dJ/dw.
        seed: of random scores.

    Returns:
        Shape of the weight, finite and not negative.
    """
    return CRITERIA[criterion].score(weight, Clues(evidence, gradient, seed))


def choose_mask(scores: Array, prune: Prune, layout: Layout, groups: int = 1) -> Array:
    """Which numbers stay: those of highest score that the pattern allows.

    Args:
        scores: shape of the weight, finite, higher = keep.
        prune: with a threshold numbers that score below it go and the share is not looked at; ``n:m`` looks at no share either.
        layout: patterns run along the summed axis, in the order of ``to_rows``.
        groups: as ``to_rows`` takes them.

    Returns:
        Shape of the weight, True where a number stays. The share is met to the nearest number (block); one at least stays.

    Raises:
        ValueError: the pattern is whole channels, which are chosen for a group of layers.
    """
    choose = PATTERNS[kind_of(prune.pattern)]
    if scores.size == 0:
        return np.ones(scores.shape, dtype=bool)
    keep = choose(to_rows(scores, layout, groups), prune, CRITERIA[prune.criterion].by_rows)
    return np.ascontiguousarray(from_rows(keep, scores.shape, layout, groups))


def prune_weight(
    weight: Array, prune: Prune, evidence: Evidence, gradient: Array | None = None, target: Array | None = None
) -> tuple[Array, Array]:
    """Prune a weight.

    Args:
        weight: what is scored, any shape that fits the layout of the evidence.
        prune: criterion, pattern, how many, and whether survivors are solved again.
        evidence: which axes are inputs, and what is known about the inputs.
        gradient: shape of the weight, the root mean square of dJ/dw.
        target: the weight whose outputs are aimed at; ``weight`` when None.

    Returns:
        The pruned weight, float32, and its mask, True where a number stays.

    Raises:
        ModelError: a weight is NaN or infinite. The caller knows which weight it is.
    """
    target = weight if target is None else target
    if not (np.isfinite(weight).all() and np.isfinite(target).all()):
        raise ModelError("a weight has NaN or infinite values", "export the model again from a checkpoint that is sound")
    mask = choose_mask(scores(weight, prune.criterion, evidence, gradient), prune, evidence.layout, evidence.groups)
    if prune.compensate:
        return compensate(target, mask, evidence), mask
    return np.where(mask, target, np.float32(0.0)).astype(np.float32), mask
