"""Every number by itself: a share of them, or all below a threshold, goes."""

from __future__ import annotations

import numpy as np

from qcompress.prune.patterns.ranking import highest, highest_of_each_row
from qcompress.types import Array, Prune


def unstructured(rows: Array, prune: Prune, by_rows: bool) -> Array:
    """Keep the numbers of highest score, or those that reach the threshold.

    Source: Han et al., NeurIPS 2015, arXiv:1506.02626, section 3; each output by itself: Sun et al., Wanda, ICLR 2024,
    arXiv:2306.11695, section 3.
    """
    if prune.threshold is not None:
        return np.asarray(rows >= prune.threshold)
    return highest_of_each_row(rows, prune.sparsity) if by_rows else highest(rows, prune.sparsity)
