"""How many bytes a weight takes as it is stored, from its shape and scheme alone."""

from __future__ import annotations

import numpy as np

from qcompress.quantize.packing import code_bytes, has_short_scales
from qcompress.quantize.sparse import sparse_saves
from qcompress.quantize.weights import scale_shape
from qcompress.types import CodebookScheme, FloatScheme, PerChannel, QuantScheme, Scheme


def stored_bytes(shape: tuple[int, ...], scheme: Scheme, by_rows: bool = False, kept: float = 1.0) -> int:
    """Bytes of a weight as it is stored: codes, scales, zero points and levels; nodes that decode them left out.

    Args:
        shape: of the weight.
        scheme: with its granularity on the weight's own axes.
        by_rows: whether rows are looked up in the stored codes, so that each has bytes of its own, and zeros theirs.
        kept: the share of numbers that are not zero.
    """
    codes = code_bytes(shape, scheme.bits, by_rows)
    if kept < 1.0 and not by_rows:
        elements = int(np.prod(shape, dtype=np.int64))
        codes -= sparse_saves(elements, round(kept * elements), scheme.bits)
    if isinstance(scheme, FloatScheme):
        return codes
    if isinstance(scheme, CodebookScheme):
        # one scale for all is multiplied into the levels
        scales = shape[scheme.granularity.axis] if isinstance(scheme.granularity, PerChannel) else 0
        return codes + 4 * (scales + (1 << scheme.bits))
    return codes + _parameter_bytes(shape, scheme)


def _parameter_bytes(shape: tuple[int, ...], scheme: QuantScheme) -> int:
    groups = int(np.prod(scale_shape(shape, scheme), dtype=np.int64))
    scale_bytes = 2 if has_short_scales(scheme, groups) else 4
    return groups * (scale_bytes + (0 if scheme.symmetric else scheme.storage.itemsize))
