"""Dynamic form: the activation is quantized as it comes, multiplied by MatMulInteger and scaled back.

y = (a_scale * w_scale) * MatMulInteger(a_codes, w_codes, a_zero_point): standard operators which onnxruntime fuses.
"""

from __future__ import annotations

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph import Graph, Node, Value
from qcompress.graph.edit import FLOAT, take_over
from qcompress.operators import Layer
from qcompress.rewrite.chain import Chain
from qcompress.rewrite.context import Context, encode_integers
from qcompress.rewrite.storage import integers, plain, scales, store


def write_dynamic(context: Context, layer: Layer, decision: Quantize) -> None:
    """Replace every product with the weight by an integer product; codes are stored (in, out)."""
    quantized = plain(encode_integers(context, layer, decision))
    turned = layer.axis == 0
    codes = np.ascontiguousarray(quantized.codes.T) if turned else quantized.codes
    chain = Chain(context, layer.graph)
    weight = integers(chain, store(chain, layer.name, quantized, codes), layer.name)
    scale = scales(chain, quantized.scale, layer.name)
    chain.place_first()
    for use in layer.uses:
        _write_product(context, use.node, weight, scale)


def _write_product(context: Context, node: Node, weight: Value, weight_scale: Value) -> None:
    graph = node.graph
    source = node.inputs[0]
    if source is None or not isinstance(graph, Graph):
        raise ValueError(f"{node.name}: a product without an input")
    editor = context.editor(graph)
    name = node.name or node.op_type
    codes, scale, zero_point = _quantized_input(context, node, source)
    product = editor.node("MatMulInteger", [codes, weight, zero_point], f"{name}_integer")
    cast = editor.node("Cast", [product], f"{name}_cast", {"to": FLOAT})
    scales = editor.node("Mul", [scale, weight_scale], f"{name}_scales")
    steps = [product, cast, scales, editor.node("Mul", [cast, scales], f"{name}_product")]
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        steps.append(editor.node("Add", [steps[-1], bias], f"{name}_biased"))
    editor.place_before(node, steps)
    take_over(node, steps[-1])


def _quantized_input(context: Context, node: Node, source: Value) -> tuple[Value, Value, Value]:
    """The dynamically quantized input, shared by all products of one graph that read it."""
    known = context.dynamic_inputs.get(source)
    if known is not None and known[0].graph is node.graph:
        return known
    graph = node.graph
    if not isinstance(graph, Graph):
        raise TypeError("a product outside every graph")
    editor = context.editor(graph)
    base = source.name or "input"
    names = [f"{base}_{part}" for part in ("codes", "scale", "zero_point")]
    codes, scale, zero_point = editor.node_with_outputs("DynamicQuantizeLinear", [source], names)
    editor.place_after(source, [codes])
    context.dynamic_inputs[source] = (codes, scale, zero_point)
    return codes, scale, zero_point
