"""One weight pruned: how much its numbers count, which of them stay, and what those that stay become."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompress.errors import ModelError
from qcompress.prune.clues import Clues
from qcompress.prune.compensate import compensate, compensate_with, left_alone
from qcompress.prune.conditioning import expected, pick_conditioning, row_error
from qcompress.prune.criteria import CRITERIA
from qcompress.prune.criteria.optimal_brain import stiffness_of
from qcompress.prune.patterns import PATTERNS, kind_of
from qcompress.prune.stages import Choice, choose_in_stages
from qcompress.quantize import Evidence, Gram, Layout, from_rows, to_rows
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

    With optimal brain, survivors that are solved again and no threshold the mask is found in stages, and one chosen at once is kept
    where that is better on the samples that judge. Other criteria choose at once: their scores do not depend on what survivors become.

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
        ValueError: the pattern is whole channels.
    """
    target = weight if target is None else target
    if not (np.isfinite(weight).all() and np.isfinite(target).all()):
        raise ModelError("a weight has NaN or infinite values", "export the model again from a checkpoint that is sound")
    goes = weight.size > 0 and prune.threshold is None and (prune.sparsity > 0.0 or prune.pattern.is_fixed)
    if goes and prune.compensate and prune.criterion is Criterion.OPTIMAL_BRAIN and evidence.gram is not None:
        return _jointly(target, prune, evidence, evidence.gram)
    mask = choose_mask(scores(weight, prune.criterion, evidence, gradient), prune, evidence.layout, evidence.groups)
    return compensate(target, mask, evidence) if prune.compensate else left_alone(target, mask), mask


def _jointly(weight: Array, prune: Prune, evidence: Evidence, gram: Gram) -> tuple[Array, Array]:
    """Mask and survivors on the same conditioned Gram matrix."""
    rows = np.asarray(to_rows(weight, evidence.layout, evidence.groups), dtype=np.float64)
    pattern, by_rows = PATTERNS[kind_of(prune.pattern)], CRITERIA[prune.criterion].by_rows

    def choose(values: Array, share: float) -> Array:
        return pattern(values, replace(prune, sparsity=share), by_rows)

    def mask_of(groups: Array, outputs: Array, hessian: Array) -> Array:
        return choose(np.square(rows[groups][:, outputs]) * stiffness_of(hessian)[:, None], prune.sparsity)

    picked = pick_conditioning(rows, mask_of, gram)
    conditioning = expected(gram) if picked is None else picked
    hessian = conditioning.apply(gram.pooled)
    stiffness = stiffness_of(hessian)
    at_once = choose(np.square(rows) * stiffness[:, None], prune.sparsity)
    choice = Choice(choose, stiffness, 1 if prune.pattern.is_fixed else prune.pattern.of)
    masks = [at_once] if picked is None else [at_once, choose_in_stages(rows, at_once, hessian, choice)]
    found: list[tuple[Array, Array]] = []
    for keep in masks:
        mask = np.ascontiguousarray(from_rows(keep, weight.shape, evidence.layout, evidence.groups))
        pruned = left_alone(weight, mask) if picked is None else compensate_with(weight, mask, evidence, picked)
        found.append((pruned, mask))
    return min(
        reversed(found), key=lambda pair: row_error(rows, to_rows(pair[0], evidence.layout, evidence.groups), gram.judge)
    )
