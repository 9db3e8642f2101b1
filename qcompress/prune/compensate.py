"""The numbers that stay, solved again so that the layer's outputs change least.

    minimise over v, v_k = 0 where pruned    (v - w) H (v - w)^T        H = (1 - share) E[x x^T] + share diag + damp mean

How far correlations are believed (share, damp) is picked on held-out samples. With share 1 survivors stay what they are.

Source: Hassibi and Stork, Optimal Brain Surgeon, NeurIPS 1992, equation 5, for all pruned numbers of a row at once; Frantar and
Alistarh, SparseGPT, ICML 2023, arXiv:2301.00774, equation 2; shrinkage as in ``quantize.fitted``.
"""

from __future__ import annotations

import numpy as np

from qcompress.prune.conditioning import pick_conditioning, row_error
from qcompress.prune.solve import solve_rows
from qcompress.quantize import Evidence, from_rows, to_rows
from qcompress.quantize.fitted import Conditioning
from qcompress.types import Array


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
    gram = evidence.gram
    if gram is None or weight.size == 0 or mask.all():
        return left_alone(weight, mask)
    target, keep = (to_rows(values, evidence.layout, evidence.groups) for values in (weight, mask))
    conditioning = pick_conditioning(target, lambda groups, outputs, _: keep[groups][:, outputs], gram)
    if conditioning is None:
        return left_alone(weight, mask)
    return compensate_with(weight, mask, evidence, conditioning)


def compensate_with(weight: Array, mask: Array, evidence: Evidence, conditioning: Conditioning) -> Array:
    """As ``compensate`` where the conditioning is known; the evidence has a Gram matrix."""
    alone = left_alone(weight, mask)
    if evidence.gram is None:
        return alone
    target, keep, rows = (to_rows(values, evidence.layout, evidence.groups) for values in (weight, mask, alone))
    solved = solve_rows(np.asarray(target, dtype=np.float64), keep, conditioning.apply(evidence.gram.pooled))
    with np.errstate(over="ignore"):
        solved = np.where(keep, solved, 0.0).astype(np.float32)
    judge = evidence.gram.judge
    if not np.isfinite(solved).all() or row_error(target, solved, judge) >= row_error(target, rows, judge):
        return alone
    return np.ascontiguousarray(from_rows(solved, weight.shape, evidence.layout, evidence.groups))


def left_alone(weight: Array, mask: Array) -> Array:
    """Survivors as they are, float32."""
    return np.where(mask, weight, np.float32(0.0)).astype(np.float32)
