"""The highest of many scores: exactly as many as asked for, whatever is equal."""

from __future__ import annotations

import numpy as np

from qcompress.types import Array


def pruned_count(total: int, sparsity: float) -> int:
    """How many of ``total`` go: the share to the nearest number, but never all."""
    return min(round(sparsity * total), max(total - 1, 0))


def highest(scores: Array, sparsity: float) -> Array:
    """Whether a score is among those that stay; of equal ones the later stay."""
    flat = scores.ravel()
    count = pruned_count(flat.size, sparsity)
    if count == 0:
        return np.ones(scores.shape, dtype=bool)
    border = np.partition(flat, count - 1)[count - 1]
    keep = flat > border
    equal = np.flatnonzero(flat == border)
    missing = flat.size - count - int(np.count_nonzero(keep))
    keep[equal[equal.size - missing :]] = True
    return np.asarray(keep.reshape(scores.shape))


def highest_of_each_row(scores: Array, sparsity: float) -> Array:
    """As ``highest`` in each row of the last axis; what does not divide evenly goes where it counts least."""
    rows = scores.reshape(-1, scores.shape[-1])
    each, rest = divmod(pruned_count(rows.size, sparsity), max(len(rows), 1))
    order = np.argsort(rows, axis=1, kind="stable")
    counts = np.full(len(rows), each)
    if rest:
        lowest = np.take_along_axis(rows, order[:, each : each + 1], axis=1)[:, 0]
        counts[np.argsort(lowest, kind="stable")[:rest]] += 1
    keep = np.empty(rows.shape, dtype=bool)
    np.put_along_axis(keep, order, np.arange(rows.shape[1]) >= counts[:, None], axis=1)
    return np.asarray(keep.reshape(scores.shape))


def padded_runs(rows: Array, size: int, filling: float) -> Array:
    """(.., inputs) -> (.., runs, size), the last run filled up."""
    inputs = rows.shape[-1]
    count = -(-inputs // size)
    runs = np.full((*rows.shape[:-1], count * size), filling, dtype=np.result_type(rows, np.float32))
    runs[..., :inputs] = rows
    return runs.reshape(*rows.shape[:-1], count, size)
