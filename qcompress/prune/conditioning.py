"""How far a Gram matrix is believed: what held-out samples ask for.

A Gram matrix of few rows has correlations that are not there in other samples, and inputs it has hardly seen count as nothing in it.
The first are shrunk, the second get a share of the mean second moment (``Conditioning``): both picked on held-out error of pruned rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from qcompress.prune.solve import solve_rows
from qcompress.quantize import Gram
from qcompress.quantize.fitted import DAMPED, STRENGTHS, Conditioning, expected_share
from qcompress.types import Array

SHARES = tuple(strength.share for strength in STRENGTHS[1:])
"""Shares of correlations removed that are tried, least first."""

DAMPS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the mean second moment added that are tried.

EfficientNet-Lite0, 50 % pruned by what 44 images say, error on others: classifier 0.070 without, 0.039 with 0.3; a layer of 1,152
inputs 0.0087 without, 0.0046 with 0.1. Layers of few inputs want none.
"""

# Outputs of each group, and groups, that are tried.
_SAMPLED = 64

# Held-out error must fall by more than this share over the count of held-out rows, as in ``quantize.fitted``.
_MARGIN = 5.0

MaskOf = Callable[[Array, Array, Array], Array]
"""Numbers of some groups, numbers of some of their outputs, conditioned Gram matrices of these groups -> mask of these rows."""


def pick_conditioning(target: Array, mask_of: MaskOf, gram: Gram) -> Conditioning | None:
    """The conditioning of least held-out error on some outputs, found by going uphill.

    Args:
        target: (groups, outputs, inputs), the exact values.
        mask_of: a mask that is chosen by a matrix is chosen anew here, so that held-out samples have no part in it.
        gram: without held-out samples it is ``expected``.

    Returns:
        None where survivors had better stay what they are.
    """
    if gram.held is None:
        return expected(gram)
    groups, outputs = (_evenly(count) for count in target.shape[:2])
    some = np.asarray(target[groups][:, outputs], dtype=np.float64)
    fit, held = gram.fit[groups], gram.held[groups]
    near = expected_share(gram)
    first = min(range(len(SHARES)), key=lambda index: abs(np.log(SHARES[index] / near)))

    @cache
    def masked(damp: int) -> tuple[Array, float]:
        keep = mask_of(groups, outputs, Conditioning(SHARES[first], DAMPS[damp]).apply(fit))
        return keep, row_error(some, np.where(keep, some, 0.0), held)

    @cache
    def error(share: int, damp: int) -> float:
        keep, _ = masked(damp)
        return row_error(some, solve_rows(some, keep, Conditioning(SHARES[share], DAMPS[damp]).apply(fit)), held)

    damp = _uphill(lambda index: error(first, index), 0, len(DAMPS))
    share = _uphill(lambda index: error(index, damp), first, len(SHARES))
    margin = _MARGIN / max(gram.held_rows or gram.rows // 3, 1)
    picked = Conditioning(SHARES[share], DAMPS[damp])
    return picked if error(share, damp) < (1.0 - margin) * masked(damp)[1] else None


def expected(gram: Gram) -> Conditioning:
    """What is used where nothing is held out: correlations shrunk as so many rows ask for, and the usual damping."""
    return Conditioning(expected_share(gram), DAMPED.damp)


def row_error(target: Array, rows: Array, gram: Array) -> float:
    """tr((V - W) gram (V - W)^T), summed over groups: the mean squared error of outputs; (groups, outputs, inputs) each."""
    difference = np.subtract(rows, target, dtype=np.float64)
    return float(np.vdot(difference, difference @ gram))


def _uphill(error: Callable[[int], float], start: int, count: int) -> int:
    """The index where the error stops falling."""
    best = start
    for direction in (-1, 1):
        while 0 <= best + direction < count and error(best + direction) < error(best):
            best += direction
    return best


def _evenly(total: int) -> Array:
    return np.unique(np.linspace(0, total - 1, min(total, _SAMPLED)).round().astype(np.intp))
