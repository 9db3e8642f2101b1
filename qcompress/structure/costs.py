"""How many products each node sums: what channels cost."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from qcompress.graph import Model, Node
from qcompress.graph.edit import int_attribute
from qcompress.structure.rules.recurrent import GATES

Shape = tuple[int, ...]


def multiply_adds(model: Model, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Node -> multiply-adds of one run at these shapes, for every Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN.

    Nodes of which a shape is not known are left out.
    """
    found: dict[str, int] = {}
    for node in model.graph:
        known = [_shape(node, index, shapes) for index in range(min(len(node.inputs), 3))]
        output = next((shapes.get(value.name) for value in node.outputs if value.name), None)
        if node.domain or len(known) < 2 or known[0] is None or known[1] is None:
            continue
        count = _products(node, known[0], known[1], output)
        if count is not None:
            found[node.name or ""] = count
    return found


def _products(node: Node, left: Shape, right: Shape, output: Shape | None) -> int | None:
    if node.op_type in GATES:  # (sequence, batch, in), (directions, gates * hidden, in)
        hidden = int_attribute(node, "hidden_size", right[1] // GATES[node.op_type])
        return prod(left[:2]) * prod(right[:2]) * (right[2] + hidden)
    if node.op_type == "ConvTranspose":
        return prod(left) * prod(right[1:])
    if output is None:
        return None
    if node.op_type == "Conv":
        return prod(output) * prod(right[1:])
    if node.op_type == "Gemm":
        return prod(output) * left[0 if int_attribute(node, "transA", 0) else 1]
    return prod(output) * left[-1] if node.op_type == "MatMul" else None


def _shape(node: Node, index: int, shapes: Mapping[str, Shape]) -> Shape | None:
    value = node.inputs[index]
    if value is None:
        return None
    return tuple(value.const_value.shape.numpy()) if value.const_value is not None else shapes.get(value.name or "")
