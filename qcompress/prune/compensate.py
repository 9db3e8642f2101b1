"""The numbers that stay, solved again so that the layer's outputs change least.

    minimise over v, v_k = 0 where pruned    (v - w) H (v - w)^T        H = (1 - share) E[x x^T] + share diag

A Gram matrix of few rows has correlations that are not there in other samples: the share of them that is removed is picked on held-out
samples. With share 1 survivors stay what they are.

Source: least squares for each row Hassibi and Stork, Optimal Brain Surgeon, NeurIPS 1992, equation 5, all pruned numbers at once;
Frantar and Alistarh, SparseGPT, ICML 2023, arXiv:2301.00774, equation 2; shrinkage as in ``quantize.fitted``.
"""

from __future__ import annotations

import numpy as np

from qcompress.prune.solve import solve_rows
from qcompress.quantize import Evidence, Gram, from_rows, to_rows
from qcompress.quantize.fitted import STRENGTHS, Conditioning, expected_share
from qcompress.types import Array

# Outputs of each group, and groups, that the share is picked on.
_SAMPLED = 64

# Held-out error must fall by more than this share over the count of held-out rows, as in ``quantize.fitted``.
_MARGIN = 5.0

SHARES = tuple(strength.share for strength in STRENGTHS[1:])
"""Shares of correlations removed that are tried, least first."""


def compensate(weight: Array, mask: Array, evidence: Evidence) -> Array:
    """Solve again for the numbers that a mask leaves.

    Args:
        weight: the exact values, any shape that fits the layout of the evidence.
        mask: of the same shape, True where a number stays.
        evidence: without a Gram matrix survivors stay what they are.

    Returns:
        float32, 0 where pruned. Its error on the held-out samples (on all where none are held out) is never above that of
        survivors left alone.
    """
    alone = np.where(mask, weight, np.float32(0.0)).astype(np.float32)
    gram = evidence.gram
    if gram is None or weight.size == 0 or mask.all():
        return alone
    target, keep = (to_rows(values, evidence.layout, evidence.groups) for values in (weight, mask))
    share = pick_share(target, keep, gram)
    if share is None:
        return alone
    solved = solve_rows(np.asarray(target, dtype=np.float64), keep, Conditioning(share).apply(gram.pooled))
    rows = to_rows(alone, evidence.layout, evidence.groups)
    with np.errstate(over="ignore"):
        chosen = _least(target, (rows, np.where(keep, solved, 0.0).astype(np.float32)), gram.judge)
    return np.ascontiguousarray(from_rows(chosen, weight.shape, evidence.layout, evidence.groups))


def pick_share(target: Array, keep: Array, gram: Gram) -> float | None:
    """The share of correlations to remove of least held-out error on some outputs, found by going uphill.

    Args:
        target: (groups, outputs, inputs), the exact values.
        keep: of the same shape.
        gram: without held-out samples the share is ``expected_share``.

    Returns:
        None where survivors had better stay what they are.
    """
    expected = expected_share(gram)
    if gram.held is None:
        return expected
    groups, outputs = (_evenly(count) for count in target.shape[:2])
    some = np.asarray(target[groups][:, outputs], dtype=np.float64)
    mask, fit, held = keep[groups][:, outputs], gram.fit[groups], gram.held[groups]
    errors: dict[int, float] = {}

    def error(index: int) -> float:
        if index not in errors:
            errors[index] = row_error(some, solve_rows(some, mask, Conditioning(SHARES[index]).apply(fit)), held)
        return errors[index]

    best = min(range(len(SHARES)), key=lambda index: abs(np.log(SHARES[index] / expected)))
    for direction in (-1, 1):
        while 0 <= best + direction < len(SHARES) and error(best + direction) < error(best):
            best += direction
    margin = _MARGIN / max(gram.held_rows or gram.rows // 3, 1)
    return SHARES[best] if error(best) < (1.0 - margin) * row_error(some, np.where(mask, some, 0.0), held) else None


def row_error(target: Array, rows: Array, gram: Array) -> float:
    """tr((V - W) gram (V - W)^T), summed over groups: the mean squared error of outputs; (groups, outputs, inputs) each."""
    difference = np.subtract(rows, target, dtype=np.float64)
    return float(np.vdot(difference, difference @ gram))


def _least(target: Array, candidates: tuple[Array, Array], gram: Array) -> Array:
    """The second, solved candidate, or the first where that is no worse or the second is not finite."""
    if not np.isfinite(candidates[1]).all():
        return candidates[0]
    alone, solved = (row_error(target, rows, gram) for rows in candidates)
    return candidates[1] if solved < alone else candidates[0]


def _evenly(total: int) -> Array:
    return np.unique(np.linspace(0, total - 1, min(total, _SAMPLED)).round().astype(np.intp))
