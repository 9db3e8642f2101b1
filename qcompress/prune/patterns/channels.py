"""Masks of what goes with whole channels; which channels go is decided elsewhere."""

from __future__ import annotations

import numpy as np

from qcompress.quantize import Layout, from_rows, inputs_of
from qcompress.types import Array


def without_inputs(gone: Array, shape: tuple[int, ...], layout: Layout, groups: int = 1) -> Array:
    """The mask of a weight that loses inputs.

    Args:
        gone: (inputs,) or (groups, inputs / groups), whether an input goes, in the order of ``to_rows``.
        shape: of the weight.
        layout: which axes are inputs.
        groups: as ``to_rows`` takes them.
    """
    inputs = inputs_of(shape, layout, groups)
    kept = ~np.asarray(gone, dtype=bool).reshape(groups, 1, inputs)
    outputs = int(np.prod(shape, dtype=np.int64)) // max(groups * inputs, 1)
    return np.array(from_rows(np.broadcast_to(kept, (groups, outputs, inputs)), shape, layout, groups))


def without_indices(indices: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The mask of a weight that loses ``indices`` of one of its own axes."""
    kept = np.ones(shape[axis], dtype=bool)
    kept[np.ravel(indices)] = False
    return np.array(np.broadcast_to(kept.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))]), shape))
