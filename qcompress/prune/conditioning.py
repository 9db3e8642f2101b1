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
from qcompress.quantize.fitted import DAMPED, DAMPS, STRENGTHS, Conditioning, expected_share, uphill
from qcompress.types import Array

SHARES = tuple(strength.share for strength in STRENGTHS[1:])
"""Shares of correlations removed that are tried, least first."""

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

    damp = uphill(lambda index: error(first, index), 0, len(DAMPS))
    share = uphill(lambda index: error(index, damp), first, len(SHARES))
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


def _evenly(total: int) -> Array:
    return np.unique(np.linspace(0, total - 1, min(total, _SAMPLED)).round().astype(np.intp))
