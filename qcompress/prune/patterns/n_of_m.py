"""At most n of m neighbours stay."""

from __future__ import annotations

import numpy as np

from qcompress.prune.patterns.ranking import padded_runs
from qcompress.types import Array, Prune


def n_of_m(rows: Array, prune: Prune, by_rows: bool) -> Array:
    """Keep the n numbers of highest score of each run of m; with a threshold only those of them that reach it.

    A shorter run at the end keeps n as well.

    Source: Mishra et al., Accelerating Sparse Deep Neural Networks, 2021, arXiv:2104.08378, section 3 (2:4).
    """
    kept, of = prune.pattern.kept, prune.pattern.of
    runs = padded_runs(rows, of, -np.inf)
    order = np.argsort(-runs, axis=-1, kind="stable")
    mask = np.zeros(runs.shape, dtype=bool)
    np.put_along_axis(mask, order[..., :kept], True, axis=-1)
    mask = mask.reshape(*rows.shape[:-1], -1)[..., : rows.shape[-1]]
    return mask if prune.threshold is None else mask & (rows >= prune.threshold)
