"""Numbers stored without those that are zero: one bit each that says whether it is there, and the others one after the other.

    numbers 5 0 0 7 0 3 0 0   ->   mask 0b00101001 (the first number in the lowest bit), values 0 5 7 3

A zero stands in front of the values: position ``cumsum(mask) * mask`` has every number.
"""

from __future__ import annotations

import numpy as np

from qcompress.quantize.packing import code_bytes
from qcompress.types import Array, CodebookTensor, EncodedTensor, QuantizedTensor

SPARSE_NODES = 330
"""About as many bytes the nodes take that put the zeros back."""

LEAST_SAVED = 32
"""Sparse storage has to save more than this part of the codes: it takes longer to load."""


def sparse_bytes(elements: int, kept: int, bits: int) -> int:
    """Bytes of a mask and of ``kept`` numbers, and of the zero in front of them."""
    return -(-elements // 8) + code_bytes((kept + 1,), bits)


def sparse_saves(elements: int, kept: int, bits: int) -> int:
    """Bytes that sparse storage saves of all the codes; 0 where it is not worth its nodes."""
    dense = code_bytes((elements,), bits)
    saved = dense - sparse_bytes(elements, kept, bits)
    return saved if saved > SPARSE_NODES + dense // LEAST_SAVED else 0


def without_zeros(numbers: Array, kept: Array, zero: int) -> tuple[Array, Array]:
    """Take numbers apart.

    Args:
        numbers: of any shape.
        kept: of the same shape, bool; False where there is a zero.
        zero: what a zero is.

    Returns:
        The mask, (bytes,), uint8; the values, (kept + 1,), of the numbers' type, the first of them ``zero``.
    """
    flat = kept.reshape(-1)
    values = np.empty(np.count_nonzero(flat) + 1, numbers.dtype)
    values[0] = zero
    values[1:] = numbers.reshape(-1)[flat]
    return np.packbits(flat, bitorder="little"), values


def zero_code(encoded: EncodedTensor) -> int | None:
    """The code that stands for zero everywhere, None when there is none or every group has its own."""
    if isinstance(encoded, QuantizedTensor):
        low, high = int(encoded.zero_point.min()), int(encoded.zero_point.max())
        return low if low == high else None
    if isinstance(encoded, CodebookTensor):
        found = np.flatnonzero(encoded.levels == 0.0)
        return int(found[0]) if found.size else None
    return 0


def zero_share(encoded: EncodedTensor) -> float:
    """The share of numbers that are zero."""
    if isinstance(encoded, QuantizedTensor):
        zeros = encoded.codes == encoded.spread(encoded.zero_point)
    elif isinstance(encoded, CodebookTensor):
        zeros = (encoded.levels == 0.0)[encoded.codes]
    else:
        zeros = encoded.values == 0
    return float(np.count_nonzero(zeros) / max(zeros.size, 1))
