"""Encoded tensors as rows of units and scales, which rounding works on, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qcompress.quantize.affine import code_range
from qcompress.quantize.descent import Grid, Rounded
from qcompress.quantize.evidence import Evidence
from qcompress.quantize.layouts import from_rows, to_rows
from qcompress.types import Array, CodebookTensor, QuantizedTensor, spread

# Weights worked on at a time where rows have scales of their own: the dozen arrays of float64 beside them stay near 200 MB.
CHUNK = 1 << 22

EVERY = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Where each scale of a tensor belongs.

    ``table``: (owners, segments), index of a scale in the flat array. ``owners``: (groups, outputs). ``segments``: (inputs,).
    ``order``: (inputs,), which input comes at which place, so that inputs that share a scale are neighbours. ``kept``: (groups,
    outputs, inputs), False where a weight is pruned, inputs in their own order; None: none is.
    """

    table: Array
    owners: Array
    segments: Array
    order: Array
    kept: Array | None = None

    @property
    def rows_are_independent(self) -> bool:
        """Whether no two outputs share a scale."""
        return len(self.table) == self.owners.size


def lattice_of(tensor: QuantizedTensor | CodebookTensor, evidence: Evidence, mask: Array | None = None) -> Lattice:
    """Find out which outputs and which inputs of a tensor share scales.

    Every granularity is a product: scale (p, c) is that of the outputs with owner p at the inputs of segment c. ``mask``: shape of
    the tensor, False where a weight is pruned.
    """
    shape = tensor.codes.shape
    numbers = np.arange(tensor.scale.size, dtype=np.int32).reshape(tensor.scale.shape)
    each = np.broadcast_to(spread(numbers, shape, tensor.scheme.granularity), shape)
    rows = to_rows(each, evidence.layout, evidence.groups)
    _, first, segments = np.unique(rows[0, 0], return_index=True, return_inverse=True)
    _, one, owners = np.unique(rows[:, :, 0], return_index=True, return_inverse=True)
    order = np.argsort(segments, kind="stable")
    table = rows.reshape(-1, rows.shape[2])[one][:, first]
    kept = None if mask is None else to_rows(mask, evidence.layout, evidence.groups)
    return Lattice(table, owners.reshape(rows.shape[:2]), segments[order], order, kept)


def parts(lattice: Lattice) -> Iterator[slice]:
    """Outputs of every group that are worked on at a time: all where scales are shared between outputs."""
    groups, outputs = lattice.owners.shape
    step = max(1, CHUNK // max(groups * len(lattice.order), 1)) if lattice.rows_are_independent else outputs
    for output in range(0, outputs, step):
        yield slice(output, min(output + step, outputs))


def sample(lattice: Lattice, count: int) -> tuple[Array, Array]:
    """At most ``count`` groups and of each at most ``count`` outputs, evenly spaced."""
    groups, outputs = lattice.owners.shape
    return _evenly(groups, count), _evenly(outputs, count)


def _evenly(total: int, count: int) -> Array:
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(np.intp))


def rounded(
    weight: Array,
    tensor: QuantizedTensor | CodebookTensor,
    lattice: Lattice,
    evidence: Evidence,
    outputs: slice | Array,
    groups: slice | Array = EVERY,
) -> Rounded:
    """Some outputs of some groups of a tensor as rounding works on them.

    Args:
        weight: the exact values.
        tensor: of the same shape, codes and scales to start from.
        lattice: of the tensor.
        evidence: says which axes are inputs.
        outputs: of each group.
        groups: all unless said.
    """

    def cut(values: Array) -> Array:
        rows = to_rows(values, evidence.layout, evidence.groups)[groups][:, outputs]
        return np.ascontiguousarray(rows[:, :, lattice.order].swapaxes(1, 2), dtype=np.float64)

    owners = lattice.owners[groups][:, outputs]
    _, local = np.unique(owners, return_inverse=True)
    numbers = lattice.table[owners].transpose(2, 0, 1)  # (segments, groups, outputs)
    scale = tensor.scale.ravel()[numbers].astype(np.float64)
    codes = cut(tensor.codes)
    kept = None
    if lattice.kept is not None:
        kept = np.ascontiguousarray(lattice.kept[groups][:, outputs][:, :, lattice.order].transpose(2, 0, 1))
    local = local.reshape(owners.shape)
    if isinstance(tensor, CodebookTensor):
        levels = tensor.levels.astype(np.float64)
        grid = Grid(lattice.segments, local, scale[:0], scale[:0], levels, kept)
        return Rounded(cut(weight), levels[codes.astype(np.intp)], scale, grid)
    zero = tensor.zero_point.ravel()[numbers].astype(np.float64)
    lowest, highest = code_range(tensor.scheme)
    grid = Grid(lattice.segments, local, lowest - zero, highest - zero, kept=kept)
    return Rounded(cut(weight), codes - zero[lattice.segments].swapaxes(0, 1), scale, grid)


class Writer:
    """Puts rounded parts together again as a tensor like the one that rounding started from."""

    def __init__(self, start: QuantizedTensor | CodebookTensor, lattice: Lattice, evidence: Evidence) -> None:
        self._start, self._lattice, self._evidence = start, lattice, evidence
        self._codes = np.empty((*lattice.owners.shape, len(lattice.order)), dtype=start.codes.dtype)
        self._scale = np.array(start.scale, dtype=np.float32).ravel()

    def put(self, outputs: slice, state: Rounded) -> None:
        """Take over the codes and scales of some outputs of every group."""
        units = state.units
        numbers = self._lattice.table[self._lattice.owners[:, outputs]].transpose(2, 0, 1)
        if isinstance(self._start, QuantizedTensor):
            zero = self._start.zero_point.ravel()[numbers].astype(np.float64)
            units = units + zero[self._lattice.segments].swapaxes(0, 1)
        elif state.grid.levels is not None:
            units = np.searchsorted(state.grid.levels, units)
        codes = np.empty((units.shape[0], units.shape[2], units.shape[1]), dtype=self._codes.dtype)
        codes[:, :, self._lattice.order] = units.swapaxes(1, 2)
        self._codes[:, outputs] = codes
        self._scale[numbers] = state.scale

    def tensor(self) -> QuantizedTensor | CodebookTensor:
        """The tensor of all parts."""
        shape = self._start.codes.shape
        codes = from_rows(self._codes, shape, self._evidence.layout, self._evidence.groups)
        scale = self._scale.reshape(self._start.scale.shape)
        return replace(self._start, codes=np.ascontiguousarray(codes), scale=scale)
