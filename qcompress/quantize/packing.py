"""Codes of fewer than 8 bits packed into bytes, several widths as planes: 3 bits are 2 bits and 1 bit.

A byte holds the codes of one plane that follow each other in C order, the first in the lowest bits:

    byte = code[0] + code[1] * 2^p + code[2] * 2^2p + ..        p bits a code, 8 / p codes a byte

    code = plane[0] + plane[1] * 2^p0 + plane[2] * 2^(p0 + p1)  the planes of a code, the first its lowest bits
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompress.types import Array, PerTensor, QuantizedTensor, QuantScheme

LEAST_HALVES = 48
"""From this many numbers on, two bytes each and a Cast are smaller than four."""

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
        filled = part[..., ::per_byte].copy()
        for place in range(1, per_byte):
            filled |= part[..., place::per_byte] << np.uint8(place * plane)
        packed.append(filled)
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
        return elements * next(width for width in (1, 2, 4) if bits <= 8 * width)
    rows = shape[0] if by_rows and shape else 1
    width = elements // max(rows, 1)
    return rows * padded(width, bits) * bits // 8


def has_short_scales(scheme: QuantScheme, count: int) -> bool:
    """Whether ``count`` scales of a scheme are worth two bytes each, and steps coarse enough for that."""
    return scheme.bits <= 8 and not isinstance(scheme.granularity, PerTensor) and count >= LEAST_HALVES


def with_short_scales(quantized: QuantizedTensor) -> QuantizedTensor:
    """The same codes with scales rounded to float16, or to float16 times a power of two, when there are many.

    At 4 bits in blocks of 32 scales are a ninth of what is stored with float16, a fifth with float32. A scale moves by 2^-11 of
    itself at most: the largest value of 4 bits by 1 / 256 of a step, that of 8 bits by 1 / 16. Scales are left alone when
    float16 does not reach from the smallest to the largest.
    """
    scale, halves = quantized.scale, np.finfo(np.float16)
    if not has_short_scales(quantized.scheme, scale.size):
        return quantized
    fits = np.min(scale) >= halves.smallest_normal and np.max(scale) <= halves.max
    power = 0 if fits else _power(scale)
    if not fits and np.ldexp(np.min(scale), power) < halves.smallest_normal:
        return quantized
    return replace(quantized, scale=np.ldexp(np.ldexp(scale, power).astype(np.float16).astype(np.float32), -power))


def short_scales(scale: Array) -> tuple[Array, int] | None:
    """Scales as float16 and the power p, when scale = float16 / 2^p exactly and there are enough of them; else None."""
    if scale.size < LEAST_HALVES:
        return None
    for power in (0, _power(scale)):
        with np.errstate(over="ignore"):
            halves = np.ldexp(scale, power).astype(np.float16)
        if np.array_equal(np.ldexp(halves.astype(np.float32), -power), scale):
            return halves, power
    return None


def _power(scale: Array) -> int:
    """The largest p for which scale * 2^p is at most 2^15, the same before and after scales are rounded."""
    return int(np.floor(15.0 - np.log2(float(np.max(scale)))))
