"""Pieces that several forms are made of."""

from __future__ import annotations

from qcompress.graph import Value
from qcompress.graph.edit import Editor
from qcompress.types import PerChannel, QuantizedTensor


def dequantize(editor: Editor, quantized: QuantizedTensor, name: str, copies: int, write_zeros: bool = False) -> list[Value]:
    """``copies`` DequantizeLinear outputs, not yet placed, over one set of codes; kernels fuse only with one of their own.

    Zero points that are 0 are left out unless ``write_zeros``: the operator implies them, but Gemm fuses only with them.
    """
    inputs: list[Value | None] = [
        editor.constant(f"{name}/q", quantized.codes),
        editor.constant(f"{name}/s", quantized.scale),
    ]
    if write_zeros or not (quantized.scheme.symmetric and quantized.scheme.signed):
        inputs.append(editor.constant(f"{name}/z", quantized.zero_point))
    granularity = quantized.scheme.granularity
    attributes = {"axis": granularity.axis} if isinstance(granularity, PerChannel) else {}
    return [editor.node("DequantizeLinear", inputs, f"{name}/dq", attributes) for _ in range(copies)]
