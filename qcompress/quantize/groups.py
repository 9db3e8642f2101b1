"""Weights cut into pieces that hold whole groups, and what was found for the groups put together again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompress.types import Array, Granularity, PerBlock, PerChannel, PerTensor

# Elements worked on at a time: the working arrays stay in the processor's second-level cache.
_CHUNK = 1 << 17


def rows_first(values: Array, granularity: Granularity) -> Array:
    """A view that can be cut along axis 0 without cutting a group of channels or a block: blocks run along the last axis."""
    if isinstance(granularity, PerChannel):
        return np.moveaxis(values, granularity.axis, 0)
    if values.ndim < 2:
        return values.reshape(1, -1)
    return np.moveaxis(values, granularity.axis, -1) if isinstance(granularity, PerBlock) else values


def per_row(parameter: Array, rows: int, granularity: Granularity) -> Array:
    """Group parameters cut along axis 0 like the view of ``rows_first``."""
    if isinstance(granularity, PerTensor):
        return np.broadcast_to(parameter, (rows, 1))
    return parameter.reshape(rows, 1) if isinstance(granularity, PerChannel) else rows_first(parameter, granularity)


def parts(rows: Array) -> Iterator[slice]:
    """Runs of rows that hold about as many elements as fit the cache."""
    step = max(1, _CHUNK * len(rows) // max(rows.size, 1))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def members(rows: Array, granularity: Granularity) -> Array:
    """Some rows as (rows, blocks, members), contiguous; a partial last block is filled with zeros, which cost nothing."""
    if not isinstance(granularity, PerBlock):
        return rows.reshape(len(rows), 1, -1)
    length = rows.shape[-1]
    blocks = -(-length // granularity.size)
    flat = np.zeros((rows.size // max(length, 1), blocks * granularity.size), dtype=np.float32)
    flat[:, :length] = rows.reshape(-1, length)
    return flat.reshape(-1, blocks, granularity.size)


def restored(parameter: Array, shape: tuple[int, ...], granularity: Granularity) -> Array:
    """Group parameters cut like the view of ``rows_first``, in the shape of the scale; not per tensor."""
    if isinstance(granularity, PerBlock) and len(shape) > 1:
        return np.moveaxis(parameter, -1, granularity.axis)
    return parameter.reshape(shape)
