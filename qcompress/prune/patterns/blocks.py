"""Neighbours stay or go together."""

from __future__ import annotations

import numpy as np

from qcompress.prune.patterns.ranking import padded_runs
from qcompress.prune.patterns.unstructured import unstructured
from qcompress.types import Array, Prune


def blocks(rows: Array, prune: Prune, by_rows: bool) -> Array:
    """Keep the runs of highest mean score, or those whose mean reaches the threshold; the last run of a row may be shorter.

    Source: Gray et al., GPU Kernels for Block-Sparse Weights, 2017, section 2, the pattern.
    """
    size, inputs = prune.pattern.of, rows.shape[-1]
    runs = padded_runs(rows, size, 0.0)
    members = np.minimum(size, inputs - size * np.arange(runs.shape[-2]))
    kept = unstructured(runs.sum(axis=-1) / members, prune, by_rows)
    return np.repeat(kept, size, axis=-1)[..., :inputs]
