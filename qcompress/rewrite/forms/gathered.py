"""Gathered form: rows of codes are looked up first, and only those are decoded."""

from __future__ import annotations

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph import Graph, Node, Value
from qcompress.graph.edit import FLOAT, take_over
from qcompress.operators import Layer
from qcompress.rewrite.context import Context, encode_integers
from qcompress.types import Array, PerTensor, QuantizedTensor


def write_gathered(context: Context, layer: Layer, decision: Quantize) -> None:
    """Gather codes and scales of the rows, then multiply; the table itself is never decoded."""
    quantized = encode_integers(context, layer, decision)
    shared: tuple[Value | None, Value | None] = (None, None)
    for use in layer.uses:
        shared = gather_rows(context, layer, use.node, quantized, shared)


def gather_rows(
    context: Context, layer: Layer, node: Node, quantized: QuantizedTensor, shared: tuple[Value | None, Value | None]
) -> tuple[Value | None, Value | None]:
    """Replace a Gather of a float table by one of codes; returns the constants for the next look-up of the same table.

    The scale is (rows,) and becomes (rows, 1, ..) so that gathering it gives (*indices, 1, ..), which broadcasts.
    """
    if not isinstance(node.graph, Graph):
        raise TypeError("a look-up outside every graph")
    store, editor = context.editor(layer.graph), context.editor(node.graph)  # a body reads constants of the graph around it
    indices, name, rows = node.inputs[1], layer.name, node.name or layer.name
    codes = shared[0] or store.constant(f"{name}/q", quantized.codes)
    picked = editor.node("Gather", [codes, indices], f"{rows}/q", {"axis": 0})
    steps = [picked, editor.node("Cast", [picked], f"{rows}_cast", {"to": FLOAT})]
    if not (quantized.scheme.symmetric and quantized.scheme.signed):
        steps += _shifted(context, layer, node, quantized, steps[-1])
    numbers, scale = steps[-1], shared[1]
    if isinstance(quantized.scheme.granularity, PerTensor):
        factor = scale = scale or store.constant(f"{name}/s", quantized.scale)
    else:
        if scale is None or len(scale.shape or ()) != quantized.codes.ndim:
            scale = store.constant(f"{name}/rows", _column(quantized.scale, quantized))
        factor = editor.node("Gather", [scale, indices], f"{rows}_scales", {"axis": 0})
        steps.append(factor)
    steps.append(editor.node("Mul", [numbers, factor], f"{rows}_rows"))
    editor.place_before(node, steps)
    take_over(node, steps[-1])
    return codes, scale


def _shifted(context: Context, layer: Layer, node: Node, quantized: QuantizedTensor, codes: Value) -> list[Value]:
    """Subtract the zero points of the gathered rows from their codes; the steps, in order."""
    if not isinstance(node.graph, Graph):
        raise TypeError("a look-up outside every graph")
    editor = context.editor(node.graph)
    zeros = quantized.zero_point.astype(np.float32)
    store = context.editor(layer.graph)
    if isinstance(quantized.scheme.granularity, PerTensor):
        return [editor.node("Sub", [codes, store.constant(f"{layer.name}/z", zeros)], f"{layer.name}_shifted")]
    table = store.constant(f"{layer.name}/z", _column(zeros, quantized))
    offsets = editor.node("Gather", [table, node.inputs[1]], f"{layer.name}_offsets", {"axis": 0})
    return [offsets, editor.node("Sub", [codes, offsets], f"{layer.name}_shifted")]


def _column(parameter: Array, quantized: QuantizedTensor) -> Array:
    """(rows,) -> (rows, 1, ..), which broadcasts against rows of the table."""
    return parameter.reshape((-1,) + (1,) * (quantized.codes.ndim - 1))
