"""Clipping of weights: a smaller range has finer steps, and what saturates costs less than they save.

Every group tries a grid of factors on its range and keeps the one of least weighted squared error

    sum_k h_k (w_k - q_k)^2        h_k = E[x_k^2], the second moment of the input that w_k multiplies

which is the mean squared error of the layer's output, when inputs are taken as uncorrelated.

Source: Choukroun et al., ICCVW 2019, arXiv:1902.06822 (ranges by least squared error); Lin et al., AWQ, MLSys 2024,
arXiv:2306.00978 (grid of clipping factors for weights against the inputs they meet).
"""

from __future__ import annotations

import numpy as np

from qcompress.quantize.affine import FULL_RANGE_BITS, as_float32, code_range, group_ranges, parameters
from qcompress.quantize.groups import members, parts, per_row, restored, rows_first
from qcompress.types import Array, PerTensor, QuantScheme

# A smaller factor must gain more than float32 sums can be wrong by; a tie keeps the preferred one.
_MARGIN = 1e-4


def clip_factors(scheme: QuantScheme) -> Array:
    """The factors tried, the preferred ones first.

    Below 8 bits 1.0 to 0.4 in steps of 0.02, and coarser down to 0.08, where few codes for many heavy-tailed weights find theirs
    (4,608 Student t weights a channel had 0.53 of the squared error of ending at 0.4 with 2 bits, 0.72 with 3, 0.93 with 4).

    At 8 bits finer where channels find theirs, 1.0 to 0.9 in steps of 0.01, and coarser down to 0.4, where the tensors with one
    scale for outliers and all find theirs.

    A symmetric scheme that uses its full range also tries, last, the factor above 1 that makes the largest positive value
    a code: squared error of 4 bits per block of 32 falls by 2 to 7 %, most where importance differs between inputs.
    """
    if scheme.bits >= 8:
        return np.concatenate([np.linspace(1.0, 0.9, 11), np.linspace(0.85, 0.4, 10)])
    factors = np.concatenate([np.linspace(1.0, 0.4, 31), np.linspace(0.36, 0.08, 8)])
    if scheme.symmetric and scheme.bits <= FULL_RANGE_BITS:
        half = 2 ** (scheme.bits - 1)
        factors = np.append(factors, (half - 0.5) / (half - 1))
    return factors


def search_clip(weight: Array, scheme: QuantScheme, importance: Array | None = None) -> Array:
    """The factor of each group's range that gives the least weighted squared error, never worse than factor 1.

    Args:
        weight: any shape.
        scheme: the granularity's axis is an axis of ``weight``.
        importance: not negative, broadcastable to ``weight``; E[x^2] of a Conv's input channels is (1, in, 1, 1).
            None weighs all errors alike.

    Returns:
        Factors of ``clip_factors``, float64, shape of the scale: what ``quantize`` takes as ``clip``.

    Raises:
        ModelError: a weight is NaN, infinite or beyond float32.
    """
    weight = as_float32(weight)
    low, high = group_ranges(weight, scheme.granularity)
    factors = clip_factors(scheme)
    rows = rows_first(weight, scheme.granularity)
    roots = None if importance is None else rows_first(_roots(importance, weight.shape), scheme.granularity)
    lows, highs = per_row(low, len(rows), scheme.granularity), per_row(high, len(rows), scheme.granularity)
    choice = np.zeros(lows.shape, dtype=np.intp)
    total = np.zeros(len(factors))
    for part in parts(rows):
        chunk = members(rows[part], scheme.granularity)
        root = None if roots is None else members(roots[part], scheme.granularity)
        ranges = (lows[part].reshape(chunk.shape[:2]), highs[part].reshape(chunk.shape[:2]))
        errors = np.stack([_weighted_errors(chunk, root, ranges, scheme, factor) for factor in factors])
        total += errors.sum(axis=(1, 2))
        choice[part] = _first_least(errors).reshape(choice[part].shape)
    if isinstance(scheme.granularity, PerTensor):
        return np.asarray(factors[_first_least(total)])
    return restored(factors[choice], low.shape, scheme.granularity)


def _weighted_errors(
    chunk: Array, root: Array | None, ranges: tuple[Array, Array], scheme: QuantScheme, factor: float
) -> Array:
    """Squared error of each group under one factor; chunk and root (rows, blocks, members) -> (rows, blocks), float64."""
    scale, zero_point = parameters(ranges[0] * factor, ranges[1] * factor, scheme)
    lowest, highest = (code - zero_point.astype(np.float32)[..., None] for code in code_range(scheme))
    steps = chunk * (np.float32(1.0) / scale)[..., None]  # in units of the scale, around code 0
    error = np.rint(steps)
    np.maximum(error, lowest, out=error)
    np.minimum(error, highest, out=error)
    error -= steps
    if root is not None:
        error *= root
    squares: Array = np.vecdot(error, error).astype(np.float64) * scale.astype(np.float64) ** 2
    return squares


def _first_least(errors: Array) -> Array:
    """The index of the least error along the first axis; a later one must be smaller by more than the margin."""
    choice = np.zeros(errors.shape[1:], dtype=np.intp)
    least = errors[0]
    for index in range(1, len(errors)):
        better = errors[index] < least * (1.0 - _MARGIN)
        choice = np.where(better, index, choice)
        least = np.where(better, errors[index], least)
    return choice


def _roots(importance: Array, shape: tuple[int, ...]) -> Array:
    """Square roots of the importance, as a float32 view of the weight's shape; the largest is 1, so that none overflows."""
    values = np.asarray(importance, dtype=np.float64)
    largest = values.max(initial=0.0)
    return np.broadcast_to(np.sqrt(values / (largest or 1.0)).astype(np.float32), shape)
