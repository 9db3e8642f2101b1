"""Codes in a graph: a byte each, or packed in planes that the runtime takes apart when it loads the model.

Packed codes count from 0: what 0 stands for is kept beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcompress.graph import Value
from qcompress.graph.edit import FLOAT, INT8, INT32, UINT8
from qcompress.quantize import PLANES, pack, short_scales
from qcompress.rewrite.chain import Chain, shape_of
from qcompress.rewrite.sparse import Gaps, Zeros, put_back, take_out
from qcompress.rewrite.unpack import taken_apart
from qcompress.types import Array, CodebookTensor, QuantizedTensor


@dataclass(frozen=True, slots=True)
class Stored:
    """Codes as initializers.

    ``planes``: one array of codes when they are not packed; else (bytes) for each plane, or (rows, bytes) ``by_rows``, where
    each row of the first axis starts with a new byte. ``shape``: of the codes. ``lowest``: the code that a stored 0 is.
    ``gaps``: where zeros are that are not stored, None when all codes are.
    """

    planes: tuple[Value, ...]
    bits: int
    shape: tuple[int, ...]
    lowest: int = 0
    by_rows: bool = False
    gaps: Gaps | None = None

    @property
    def is_packed(self) -> bool:
        """Whether a byte holds several codes."""
        return self.bits in PLANES

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of what is packed together: a row, or all."""
        return self.shape[1:] if self.by_rows else self.shape

    @property
    def is_padded(self) -> bool:
        """Whether the last bytes hold more codes than there are."""
        unit = 8 // min(PLANES[self.bits])
        return bool(int(np.prod(self.row, dtype=np.int64)) % unit)


def plain(quantized: QuantizedTensor) -> QuantizedTensor:
    """The same numbers with signed codes when they are symmetric, unsigned ones else; bytes are left as they are."""
    return quantized if quantized.scheme.bits >= 8 else with_sign(quantized, quantized.scheme.symmetric)


def with_sign(quantized: QuantizedTensor, signed: bool) -> QuantizedTensor:
    """The same numbers with signed or unsigned codes."""
    scheme = quantized.scheme
    if scheme.signed is signed:
        return quantized
    other = replace(scheme, signed=signed)
    shift = other.qmin - scheme.qmin
    codes, zero_point = (_moved(array, shift, other.storage) for array in (quantized.codes, quantized.zero_point))
    return QuantizedTensor(codes, quantized.scale, zero_point, other)


def _moved(codes: Array, shift: int, dtype: np.dtype[Any]) -> Array:
    """``codes + shift``, of at most 8 bits before and after, in bytes that wrap around: a large table needs no wider copy."""
    return np.asarray(np.asarray(codes.astype(np.uint8)) + np.uint8(shift % 256)).astype(dtype)


def store(
    chain: Chain,
    name: str,
    encoded: QuantizedTensor | CodebookTensor,
    codes: Array,
    zeros: Zeros | None = None,
) -> Stored:
    """Store codes, ``codes``, of the type and width that ``encoded`` has, without those of zeros where that is smaller.

    ``zeros``: the zero points when they are not all the same.
    """
    return store_sparse(chain, name, encoded, codes, zeros) or store_all(chain, name, encoded, codes)


def store_sparse(
    chain: Chain, name: str, encoded: QuantizedTensor | CodebookTensor, codes: Array, zeros: Zeros | None = None
) -> Stored | None:
    """Store the codes that are not zeros, None where all of them take less."""
    taken = take_out(chain, name, encoded, codes, zeros)
    if taken is None:
        return None
    values, gaps = taken
    return replace(store_all(chain, name, encoded, values), shape=codes.shape, gaps=gaps)


def store_all(
    chain: Chain, name: str, encoded: QuantizedTensor | CodebookTensor, codes: Array, by_rows: bool = False
) -> Stored:
    """Store every code."""
    bits = encoded.scheme.bits
    if bits not in PLANES:
        return Stored((chain.constant(f"{name}/q", codes),), bits, codes.shape, by_rows=by_rows)
    lowest = encoded.scheme.qmin if isinstance(encoded, QuantizedTensor) else 0
    counted = _moved(codes, -lowest, np.dtype(np.uint8))
    packed = pack(counted.reshape(codes.shape[0], -1) if by_rows else counted.reshape(-1), bits)
    names = [f"{name}/q{index or ''}" for index in range(len(packed))]
    planes = (chain.constant(label, plane) for label, plane in zip(names, packed, strict=True))
    return Stored(tuple(planes), bits, codes.shape, lowest, by_rows)


def integers(chain: Chain, stored: Stored, name: str) -> Value:
    """All codes as int8 or uint8, whichever their scheme has."""
    if not stored.is_packed:
        return _whole(chain, stored, stored.planes[0], name)
    if stored.lowest:
        counted = _numbers(chain, stored, name, INT32)
        lowest = chain.shared(f"lowest/{stored.bits}", np.asarray(stored.lowest, dtype=np.int32))
        codes = chain.node("Cast", [chain.node("Add", [counted, lowest], f"{name}_signed")], f"{name}_codes", {"to": INT8})
    elif len(stored.planes) == 1:
        codes = _numbers(chain, stored, name, UINT8)
    else:
        codes = chain.node("Cast", [_numbers(chain, stored, name, INT32)], f"{name}_codes", {"to": UINT8})
    return _whole(chain, stored, codes, name)


def numbers(chain: Chain, stored: Stored, name: str, element: int) -> Value:
    """All codes as numbers of a type, counted from ``lowest``; packed ones of one plane can also be UINT8."""
    return _whole(chain, stored, _numbers(chain, stored, name, element), name, element)


def _whole(chain: Chain, stored: Stored, values: Value, name: str, element: int | None = None) -> Value:
    """The stored values with the zeros between them; ``element``: their type when it is not that of codes."""
    return values if stored.gaps is None else put_back(chain, stored.gaps, values, name, element)


def _numbers(chain: Chain, stored: Stored, name: str, element: int) -> Value:
    """What is stored, as numbers of a type; in a row, perhaps with more behind it, when zeros are not."""
    if not stored.is_packed:
        return chain.node("Cast", [stored.planes[0]], f"{name}_cast", {"to": element})
    if stored.gaps is not None:
        return _combined(chain, stored, stored.planes, shape_of(chain, (-1,)), (name, element))
    outer = stored.shape[:1] if stored.by_rows else ()
    if not stored.is_padded:
        return _combined(chain, stored, stored.planes, shape_of(chain, stored.shape), (name, element))
    flat = _combined(chain, stored, stored.planes, shape_of(chain, (*outer, -1)), (name, element))
    exact = _cut(chain, stored, flat, name)
    return (
        exact
        if stored.shape == (*outer, -1)
        else chain.node("Reshape", [exact, shape_of(chain, stored.shape)], f"{name}_all")
    )


def row_numbers(chain: Chain, stored: Stored, indices: Value, name: str, element: int) -> tuple[Value, Value | None]:
    """The codes of looked-up rows, (*indices, *row); the shape of the indices when it had to be computed."""
    picked = [
        chain.node("Gather", [plane, indices], f"{name}/q{number or ''}", {"axis": 0})
        for number, plane in enumerate(stored.planes)
    ]
    if not stored.is_packed:
        found = chain.node("Cast", picked, f"{name}_cast", {"to": element})
        if len(stored.shape) == len(stored.planes[0].shape or ()):
            return found, None
        outer = chain.node("Shape", [indices], f"{name}_indices")
        return chain.node("Reshape", [found, behind(chain, outer, stored.row, f"{name}_shape")], f"{name}_split"), outer
    outer = chain.node("Shape", [indices], f"{name}_indices")
    tail = (-1,) if stored.is_padded else stored.row
    found = _combined(chain, stored, picked, behind(chain, outer, tail, f"{name}_shape"), (name, element))
    if not stored.is_padded:
        return found, outer
    exact = _cut(chain, stored, found, name)
    if len(stored.row) == 1:
        return exact, outer
    return chain.node("Reshape", [exact, behind(chain, outer, stored.row, f"{name}_exact")], f"{name}_all"), outer


def behind(chain: Chain, outer: Value, tail: tuple[int, ...], name: str) -> Value:
    """The shape ``outer``, a computed one, with fixed axes behind it."""
    return chain.node("Concat", [outer, shape_of(chain, tail)], name, {"axis": 0})


def scales(chain: Chain, array: Array, name: str) -> Value:
    """The scales: float16, a Cast and perhaps a power of two where that is exact and smaller."""
    short = short_scales(array)
    if short is None:
        return chain.constant(f"{name}/s", array)
    halves, power = short
    wide = chain.node("Cast", [chain.constant(f"{name}/s", halves)], f"{name}_scales", {"to": FLOAT})
    if not power:
        return wide
    factor = chain.shared(f"power/{power}", np.ldexp(np.float32(1), -power))
    return chain.node("Mul", [wide, factor], f"{name}_scaled")


def _combined(chain: Chain, stored: Stored, planes: Sequence[Value], shape: Value, what: tuple[str, int]) -> Value:
    """Planes taken apart, in ``shape``, and put together: the first has the lowest bits."""
    name, element = what
    total: Value | None = None
    offset = 0
    for plane, bits in zip(planes, PLANES[stored.bits], strict=True):
        part = chain.node("Reshape", [taken_apart(chain, plane, bits, name), shape], f"{name}_unpacked")
        if element != UINT8:
            part = chain.node("Cast", [part], f"{name}_part", {"to": element})
        if offset:
            dtype = np.float32 if element == FLOAT else np.int32
            factor = chain.shared(f"times/{1 << offset}/{dtype.__name__}", np.asarray(1 << offset, dtype=dtype))
            part = chain.node("Mul", [part, factor], f"{name}_shifted")
        total = part if total is None else chain.node("Add", [total, part], f"{name}_sum")
        offset += bits
    if total is None:
        raise ValueError(f"{name}: no planes")
    return total


def _cut(chain: Chain, stored: Stored, padded: Value, name: str) -> Value:
    """The codes along the last axis without those that fill the last byte."""
    count = int(np.prod(stored.row, dtype=np.int64))
    bounds = [shape_of(chain, (bound,)) for bound in (0, count, -1)]
    return chain.node("Slice", [padded, *bounds], f"{name}_cut")
