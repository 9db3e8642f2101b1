"""Weights as indices into a short list of levels that all share, each tensor or channel with a scale of its own.

Levels are fitted to the weights (k-means) or are powers of two. In both cases 0 is exactly a level: pruned weights and dead
channels stay 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from qcompress.quantize.affine import LEAST_SCALE, SCALE_OF_ZEROS, as_float32, group_ranges
from qcompress.quantize.levels import BINS, bins_of, lloyd, nearest_levels, power_levels, start_levels
from qcompress.types import Array, CodebookScheme, CodebookTensor, Levels, PerChannel

# Scales and levels are fitted in turn so many times; further rounds gain less than 0.1 %.
_ROUNDS = 3

# Elements worked on at a time.
_CHUNK = 1 << 19

# Inputs that are never seen count as much beside the one seen most.
_LEAST_MOMENT = 1e-8

# Octaves that the largest level may lie above or below a group's largest weight.
_OCTAVES = np.arange(-16, 5) / 8.0


def fit_codebook(weight: Array, scheme: CodebookScheme, importance: Array | None = None) -> CodebookTensor:
    """Choose levels, scales and codes of least squared error, weighted with the inputs' second moments.

    Args:
        weight: any shape.
        scheme: its axis is an axis of ``weight``.
        importance: not negative, broadcastable to ``weight``, as ``search_clip`` takes it; None weighs all errors alike.

    Returns:
        Indices of the nearest levels. Levels ascend; some are equal where a weight has fewer values.

    Raises:
        ModelError: a weight is NaN, infinite or beyond float32.

    Source: Lloyd, IEEE Transactions on Information Theory 28, 1982; weighted by sensitivity: Kim et al., SqueezeLLM, ICML 2024,
    arXiv:2306.07629, section 4.1; powers of two: Miyashita et al., arXiv:1603.01025, section 3.
    """
    weight = as_float32(weight)
    low, high = group_ranges(weight, scheme.granularity)
    groups = _Groups(weight, scheme, importance, np.maximum(-low, high).reshape(-1))
    if scheme.levels is Levels.LOG:
        levels = power_levels(scheme.bits)
        scale = groups.search_scale(levels)
    else:
        levels, scale = groups.fit_levels(1 << scheme.bits)
    codes = groups.codes(levels, scale)
    shape = low.shape
    return CodebookTensor(groups.restore(codes), levels.astype(np.float32), scale.astype(np.float32).reshape(shape), scheme)


class _Groups:
    """The weights that share a scale, row by row, and what their errors cost."""

    def __init__(self, weight: Array, scheme: CodebookScheme, importance: Array | None, largest: Array) -> None:
        self._shape, self._axis = weight.shape, None
        if isinstance(scheme.granularity, PerChannel):
            self._axis = scheme.granularity.axis % weight.ndim
        self._largest = largest
        self._rows = self._grouped(weight)
        self._moments: Array | None = None
        if importance is not None and importance.max(initial=0.0) > 0.0:
            cost = np.maximum(importance / importance.max(), _LEAST_MOMENT).astype(np.float32)
            self._moments = self._grouped(np.broadcast_to(cost, weight.shape))

    def _grouped(self, values: Array) -> Array:
        if self._axis is None:
            return values.reshape(1, -1)
        return np.moveaxis(values, self._axis, 0).reshape(values.shape[self._axis], -1)

    def restore(self, rows: Array) -> Array:
        """Rows in the shape of the weight."""
        if self._axis is None:
            return rows.reshape(self._shape)
        others = self._shape[: self._axis] + self._shape[self._axis + 1 :]
        return np.ascontiguousarray(np.moveaxis(rows.reshape(len(rows), *others), 0, self._axis))

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Groups and members that are worked on at a time."""
        count, members = self._rows.shape
        step = max(1, _CHUNK // max(members, 1))
        for row in range(0, count, step):
            for member in range(0, members, _CHUNK):
                yield slice(row, row + step), slice(member, member + _CHUNK)

    def values(self, part: tuple[slice, slice]) -> tuple[Array, Array]:
        """Weights and what a squared error of each costs, float64."""
        rows = self._rows[part].astype(np.float64)
        return rows, np.ones(rows.shape) if self._moments is None else self._moments[part].astype(np.float64)

    def sums(self, function: Callable[[Array, Array, slice], Array]) -> Array:
        """Sums over each group of what ``function`` makes of weights, costs and the slice of groups; (groups,)."""
        total = np.zeros(len(self._rows))
        for part in self.parts():
            total[part[0]] += function(*self.values(part), part[0]).sum(axis=1)
        return total

    def usable(self, scale: Array) -> Array:
        """Scales as they can be stored: float32, positive, and that of zeros where a group has nothing else."""
        scale = np.maximum(scale, LEAST_SCALE).astype(np.float32).astype(np.float64)
        return np.where(self._largest > 0.0, scale, SCALE_OF_ZEROS)

    def codes(self, levels: Array, scale: Array) -> Array:
        """Indices of the nearest levels, (groups, members)."""
        codes = np.empty(self._rows.shape, dtype=np.uint8)
        for part in self.parts():
            codes[part] = nearest_levels(levels, self._rows[part] / scale[part[0], None])
        return codes

    def refit(self, levels: Array, scale: Array) -> Array:
        """The scale of least squared error as long as each weight keeps its level."""

        def nearest(rows: Array, groups: slice) -> Array:
            return levels[nearest_levels(levels, rows / scale[groups, None])]

        above = self.sums(lambda rows, costs, groups: costs * rows * nearest(rows, groups))
        below = self.sums(lambda rows, costs, groups: costs * nearest(rows, groups) ** 2)
        return self.usable(np.where((above > 0.0) & (below > 0.0), above / np.where(below > 0.0, below, 1.0), scale))

    def search_scale(self, levels: Array) -> Array:
        """The best of scales that put the largest level near the largest weight, then refitted."""
        best, least = self.usable(self._largest / levels[-1]), np.full(len(self._rows), np.inf)
        for octave in _OCTAVES:
            scale = self.usable(self._largest / levels[-1] * 2.0**octave)
            error = self.error(levels, scale)
            best = np.where(error < least, scale, best)
            least = np.minimum(error, least)
        refitted = self.refit(levels, best)
        return np.where(self.error(levels, refitted) < least, refitted, best)

    def error(self, levels: Array, scale: Array) -> Array:
        """Squared error of each group, (groups,)."""

        def squares(rows: Array, costs: Array, groups: slice) -> Array:
            step = scale[groups, None]
            return np.asarray(costs * np.square(rows - step * levels[nearest_levels(levels, rows / step)]))

        return self.sums(squares)

    def fit_levels(self, count: int) -> tuple[Array, Array]:
        """Levels and scales in turn, from groups brought to the same root mean square."""
        energy = self.sums(lambda rows, costs, groups: costs * rows**2)
        scale = self.usable(np.sqrt(energy / np.maximum(self.sums(lambda rows, costs, groups: costs), LEAST_SCALE)))
        levels = start_levels(*self.histogram(scale), count)
        for _ in range(_ROUNDS):
            levels = lloyd(*self.histogram(scale), levels)
            scale = self.refit(levels, scale)
        return levels, scale

    def histogram(self, scale: Array) -> tuple[Array, Array]:
        """Cost in each bin of weight / scale, and cost times weight / scale."""
        mass, moment = np.zeros(BINS), np.zeros(BINS)
        for part in self.parts():
            rows, costs = self.values(part)
            step = scale[part[0], None]
            bins = bins_of(rows / step).ravel()
            costs *= step**2
            mass += np.bincount(bins, costs.ravel(), BINS)
            moment += np.bincount(bins, (costs * (rows / step)).ravel(), BINS)
        return mass, moment
