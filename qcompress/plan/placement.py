"""Where integers flow: which nodes compute on them and which tensors carry scales, given the layers that shall.

A layer with an integer kernel needs a quantized input; a convolution also needs a quantized output. Between such layers
other operators join when an integer kernel or none at all is cheaper than going to float and back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from qcompress.graph import Graph, Model, Node, Value
from qcompress.graph.edit import is_constant, string_attribute
from qcompress.operators import OPERATORS, Role
from qcompress.operators.flow import activation_inputs, needs_integer_output, settled

Shapes = Mapping[str, tuple[int, ...]]

_GATE_RATIO = 8
"""An operand that is this many times smaller than the result may be quantized for the sake of an integer kernel."""


@dataclass(frozen=True, slots=True)
class Placement:
    """``nodes``: names of nodes that compute on integers, in graph order. ``tensors``: names of quantized tensors, in order.

    ``follows``: tensor -> tensor whose scale it shares, because the operator between them only moves numbers.
    """

    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    follows: Mapping[str, str]


def place(model: Model, layers: Collection[Node], shapes: Shapes) -> Placement:
    """Grow the integer part of the main graph around ``layers``."""
    graph = model.graph
    chosen = set(layers)
    available = {settled(node.outputs[0]) for node in chosen if needs_integer_output(node)}
    wanted = {value for node in chosen for value in activation_inputs(node)}
    candidates: dict[Node, None] = {}
    for node in graph:
        if node not in chosen and _can_join(node, available, wanted, shapes):
            candidates[node] = None
            available.add(settled(node.outputs[0]))
    joined: set[Node] = set()
    for node in reversed(candidates):  # keep what leads to an integer consumer
        if settled(node.outputs[0]) in wanted:
            joined.add(node)
            wanted.update(activation_inputs(node))
    inside = chosen | joined
    produced = {settled(node.outputs[0]) for node in inside if needs_integer_output(node)}
    quantized = wanted | produced
    ordered = _in_order(graph, quantized)
    follows = {
        _name(settled(node.outputs[0])): _name(activation_inputs(node)[0])
        for node in graph
        if node in joined and OPERATORS[node.op_type].role is Role.SAME_SCALE
    }
    return Placement(tuple(node.name or "" for node in graph if node in inside), tuple(map(_name, ordered)), follows)


def _can_join(node: Node, available: set[Value], wanted: set[Value], shapes: Shapes) -> bool:
    row = OPERATORS.get(node.op_type) if node.domain == "" else None
    if row is None or row.role not in (Role.INTEGER, Role.SAME_SCALE) or len(node.outputs) != 1:
        return False
    inputs = activation_inputs(node)
    ready = [value for value in inputs if value in available]
    if not ready:
        return False
    if row.role is Role.SAME_SCALE:
        plain = node.op_type != "Resize" or string_attribute(node, "mode", "nearest") == "nearest"
        return plain and settled(node.outputs[0]) is not None
    constants = [value for value in node.inputs if value is not None and is_constant(value)]
    if constants and node.op_type in ("Add", "Mul", "Concat"):
        return False
    if node.op_type == "Mul":
        size = _size(node.outputs[0], shapes)
        late = [value for value in inputs if value not in available]
        return all(size is not None and (_size(value, shapes) or size) * _GATE_RATIO <= size for value in late)
    if node.op_type == "Sigmoid":
        return any(use.node.op_type == "Mul" for use in node.outputs[0].uses())
    return True


def _size(value: Value, shapes: Shapes) -> int | None:
    shape = shapes.get(_name(value))
    return None if shape is None else int(np.prod(shape, dtype=np.int64))


def _in_order(graph: Graph, values: set[Value]) -> list[Value]:
    ordered = [value for value in graph.inputs if value in values]
    return ordered + [output for node in graph for output in node.outputs if output in values]


def _name(value: Value) -> str:
    return value.name or ""
