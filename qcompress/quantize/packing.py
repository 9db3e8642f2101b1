"""Codes of fewer than 8 bits packed into bytes, several widths as planes: 3 bits are 2 bits and 1 bit.

A byte holds the codes of one plane that follow each other in C order, the first in the lowest bits:

    byte = code[0] + code[1] * 2^p + code[2] * 2^2p + ..        p bits a code, 8 / p codes a byte

    code = plane[0] + plane[1] * 2^p0 + plane[2] * 2^(p0 + p1)  the planes of a code, the first its lowest bits
"""

from __future__ import annotations

import numpy as np

from qcompress.quantize.weights import scale_shape
from qcompress.types import Array, CodebookScheme, FloatScheme, PerChannel, QuantScheme, Scheme

PLANES: dict[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""Bits of a code -> bits of its planes, lowest first. Each divides 8, so that no code crosses a byte."""


def padded(count: int, bits: int) -> int:
    """The codes that fill whole bytes in every plane, ``count`` or a few more."""
    unit = 8 // min(PLANES[bits])
    return -(-count // unit) * unit


def pack(codes: Array, bits: int) -> list[Array]:
    """Pack codes along the last axis.

    Args:
        codes: (.., n), not negative, below 2^bits.
        bits: 2 to 7.

    Returns:
        One array for each plane, uint8, (.., padded n * p / 8); codes that are not there are 0.
    """
    count = codes.shape[-1]
    rest = np.zeros((*codes.shape[:-1], padded(count, bits)), np.uint8)
    rest[..., :count] = codes
    packed = []
    for plane in PLANES[bits]:
        per_byte = 8 // plane
        part = rest & np.uint8((1 << plane) - 1)
        rest = rest >> np.uint8(plane)
        split = part.reshape(*part.shape[:-1], part.shape[-1] // per_byte, per_byte)
        shifted = split << (np.arange(per_byte, dtype=np.uint8) * np.uint8(plane))
        packed.append(np.bitwise_or.reduce(shifted, axis=-1).astype(np.uint8))
    return packed


def unpack(packed: list[Array], bits: int, count: int) -> Array:
    """The codes, (.., count), uint8, that ``pack`` made these planes of."""
    codes = np.zeros((*packed[0].shape[:-1], count), np.uint8)
    offset = 0
    for plane, array in zip(PLANES[bits], packed, strict=True):
        per_byte = 8 // plane
        split = array[..., None] >> (np.arange(per_byte, dtype=np.uint8) * np.uint8(plane))
        part = (split & np.uint8((1 << plane) - 1)).reshape(*array.shape[:-1], -1)[..., :count]
        codes |= part << np.uint8(offset)
        offset += plane
    return codes


def code_bytes(shape: tuple[int, ...], bits: int, by_rows: bool = False) -> int:
    """Bytes of codes; ``by_rows``: every row of the first axis starts with a new byte."""
    elements = int(np.prod(shape, dtype=np.int64))
    if bits not in PLANES:
        return elements * (1 if bits <= 8 else 2)
    rows = shape[0] if by_rows and shape else 1
    width = elements // max(rows, 1)
    return rows * padded(width, bits) * bits // 8


def stored_bytes(shape: tuple[int, ...], scheme: Scheme, by_rows: bool = False, scale_bytes: int = 4) -> int:
    """Bytes of a weight as it is stored: codes, scales, zero points and levels; nodes that decode them left out.

    Args:
        shape: of the weight.
        scheme: with its granularity on the weight's own axes.
        by_rows: whether rows are looked up in the stored codes, so that each has bytes of its own.
        scale_bytes: 2 when every scale is a float16 and there is one per block.
    """
    codes = code_bytes(shape, scheme.bits, by_rows)
    if isinstance(scheme, FloatScheme):
        return codes
    if isinstance(scheme, CodebookScheme):
        # one scale for all is multiplied into the levels
        scales = shape[scheme.granularity.axis] if isinstance(scheme.granularity, PerChannel) else 0
        return codes + 4 * (scales + (1 << scheme.bits))
    return codes + _parameter_bytes(shape, scheme, scale_bytes)


def _parameter_bytes(shape: tuple[int, ...], scheme: QuantScheme, scale_bytes: int) -> int:
    groups = int(np.prod(scale_shape(shape, scheme), dtype=np.int64))
    return groups * (scale_bytes + (0 if scheme.symmetric else scheme.storage.itemsize))
