"""Pieces that several forms are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcompress.graph import Value
from qcompress.graph.edit import FLOAT
from qcompress.rewrite.chain import Chain
from qcompress.rewrite.sparse import Zeros
from qcompress.rewrite.storage import integers, scales, store
from qcompress.types import Array, PerBlock, PerChannel, PerTensor, QuantizedTensor, QuantScheme


def dequantize(chain: Chain, quantized: QuantizedTensor, name: str, write_zeros: bool = False) -> list[Value]:
    """What DequantizeLinear reads: codes, scales and zero points.

    Zero points that are 0 are left out unless ``write_zeros``: the operator implies them, but Gemm fuses only with them.
    """
    written = write_zeros or not (quantized.scheme.symmetric and quantized.scheme.signed)
    zero_points = chain.constant(f"{name}/z", quantized.zero_point) if written else None
    stored = store(chain, name, quantized, quantized.codes, zeros_of(quantized, zero_points))
    inputs = [integers(chain, stored, name), scales(chain, quantized.scale, name)]
    return inputs if zero_points is None else [*inputs, zero_points]


def zeros_of(quantized: QuantizedTensor, zero_points: Value | None) -> Zeros | None:
    """The zero points as sparse storage wants them; ``zero_points``: a constant that holds them."""
    if zero_points is None:
        return None
    parts = broadcastable(quantized)
    return Zeros(zero_points, parts.zero_point, parts.codes.shape)


def dequantize_attributes(quantized: QuantizedTensor) -> dict[str, int]:
    """The attributes of DequantizeLinear for the axis and blocks of a scheme."""
    granularity = quantized.scheme.granularity
    if isinstance(granularity, PerBlock):
        return {"axis": granularity.axis, "block_size": granularity.size}
    return {"axis": granularity.axis} if isinstance(granularity, PerChannel) else {}


class Broadcastable(NamedTuple):
    """What multiplies by broadcasting."""

    codes: Array
    scale: Array
    zero_point: Array


def broadcastable(quantized: QuantizedTensor) -> Broadcastable:
    """Codes, scale and zero point in shapes that multiply by broadcasting; blocks get an axis of their own."""
    granularity = quantized.scheme.granularity
    codes, scale, zero_point = quantized.codes, quantized.scale, quantized.zero_point
    if isinstance(granularity, PerTensor):
        return Broadcastable(codes, scale, zero_point)
    axis = granularity.axis % codes.ndim
    if isinstance(granularity, PerChannel):
        shape = [1] * codes.ndim
        shape[axis] = -1
        return Broadcastable(
            codes, scale.reshape(shape), zero_point.reshape(shape)
        )  # (channels,) -> (1, .., channels, .., 1)
    blocks = scale.shape[axis]
    if blocks == 1:
        return Broadcastable(codes, scale, zero_point)
    if blocks * granularity.size != codes.shape[axis]:  # a partial last block cannot be reshaped: one scale an element
        return Broadcastable(codes, quantized.spread(scale), quantized.spread(zero_point))
    split = (*codes.shape[:axis], blocks, granularity.size, *codes.shape[axis + 1 :])
    return Broadcastable(codes.reshape(split), np.expand_dims(scale, axis + 1), np.expand_dims(zero_point, axis + 1))


def as_float(chain: Chain, zero_point: Array | Value, name: str) -> Value:
    """Zero points as floats: a vector keeps its integers in the file, and is there already."""
    if isinstance(zero_point, Value):
        return chain.node("Cast", [zero_point], f"{name}_zeros", {"to": FLOAT})
    return chain.constant(f"{name}/z", zero_point.astype(np.float32))


def floats(chain: Chain, scheme: QuantScheme, numbers: Value, lowest: int, zeros: Value | None) -> Value:
    """Numbers counted from ``lowest`` as codes minus zero points; ``zeros``: as floats, None when they are 0."""
    name = f"{numbers.name}_shifted"
    if zeros is not None:
        return chain.node("Sub", [numbers, zeros], name)
    if not lowest:
        return numbers
    return chain.node("Sub", [numbers, chain.shared(f"middle/{scheme.bits}", np.asarray(-lowest, dtype=np.float32))], name)
