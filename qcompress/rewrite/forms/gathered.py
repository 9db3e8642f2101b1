"""Gathered form: rows of codes are looked up first, and only those are decoded."""

from __future__ import annotations

from qcompress.decisions import Quantize
from qcompress.graph import Graph, Node, Value
from qcompress.graph.edit import FLOAT, take_over
from qcompress.operators import Layer
from qcompress.rewrite.context import Context, encode, stored_bytes
from qcompress.types import PerTensor, QuantizedTensor


def write_gathered(context: Context, layer: Layer, decision: Quantize) -> int:
    """Gather codes and scales of the rows, then multiply; the table itself is never decoded."""
    quantized = encode(layer, decision)
    shared: tuple[Value | None, Value | None] = (None, None)
    for use in layer.uses:
        shared = gather_rows(context, use.node, quantized, shared)
    return stored_bytes(quantized)


def gather_rows(
    context: Context, node: Node, quantized: QuantizedTensor, shared: tuple[Value | None, Value | None]
) -> tuple[Value | None, Value | None]:
    """Replace a Gather of a float table by one of codes; returns the constants for the next look-up of the same table.

    The scale is (rows,) and becomes (rows, 1, ..) so that gathering it gives (*indices, 1, ..), which broadcasts.
    """
    graph = node.graph
    if not isinstance(graph, Graph):
        raise TypeError("a look-up outside every graph")
    editor = context.editor(graph)
    table, indices = node.inputs[0], node.inputs[1]
    name = table.name if table is not None and table.name else node.name or "table"
    codes = shared[0] or editor.constant(f"{name}/q", quantized.codes)
    rows = node.name or name
    picked = editor.node("Gather", [codes, indices], f"{rows}/q", {"axis": 0})
    steps = [picked, editor.node("Cast", [picked], f"{rows}_cast", {"to": FLOAT})]
    scale = shared[1]
    if isinstance(quantized.scheme.granularity, PerTensor):
        factor = scale or editor.constant(f"{name}/s", quantized.scale)
        scale = factor
    else:
        if scale is None or len(scale.shape or ()) != quantized.codes.ndim:
            column = quantized.scale.reshape((-1,) + (1,) * (quantized.codes.ndim - 1))  # (rows,) -> (rows, 1, ..)
            scale = editor.constant(f"{name}/rows", column)
        factor = editor.node("Gather", [scale, indices], f"{rows}_scales", {"axis": 0})
        steps.append(factor)
    steps.append(editor.node("Mul", [steps[1], factor], f"{rows}_rows"))
    editor.place_before(node, steps)
    take_over(node, steps[-1])
    return codes, scale
