"""Whether a region of integer nodes saves more time than its borders cost, from shapes alone, so that plans repeat exactly.

A region is a set of integer nodes joined by quantized tensors. Inside, a product gains; at each border a tensor is quantized
or dequantized, and often turned from one memory layout into the other. The figures were measured on one AVX512-VNNI core with
onnxruntime 1.31.1 by tests/bench/kernels.py; only their proportions matter.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qcompress.graph import Model, Node, Value
from qcompress.graph.edit import int_attribute, is_constant
from qcompress.operators import OPERATORS, Role
from qcompress.operators.flow import activation_inputs, needs_integer_output, settled
from qcompress.plan.placement import Placement, Shapes

GAIN_PER_PRODUCT = 13.0
"""Picoseconds a multiply-add takes less: 18.5 in float, 5.3 in integers (dense convolutions and matrix products)."""

BORDER_PER_ELEMENT = 320.0
"""Picoseconds an element costs at a border: 155 to quantize or dequantize and 105 to 165 to change the layout. The larger sum:
a region that is only just worth it risks accuracy for nothing."""

BORDER_PER_NODE = 4e6
"""Picoseconds every border costs, however small the tensor: two more kernels are called."""

LEAST_CHANNELS = 16
"""Kernels over fewer input channels gain nothing (8 channels, 3x3: 0.91x; depthwise: 0.8x to 1.6x)."""


def losing_nodes(model: Model, placement: Placement, shapes: Shapes) -> set[str]:
    """Names of the integer nodes in regions that would be slower than float."""
    inside = set(placement.nodes)
    nodes = [node for node in model.graph if node.name in inside]
    losing: set[str] = set()
    for region in _regions(nodes):
        if _gain(region, shapes) < 0.0:
            losing.update(node.name or "" for node in region)
    return losing


def _regions(nodes: list[Node]) -> list[list[Node]]:
    """Integer nodes joined by the tensors they write for one another, each region in graph order."""
    owner: dict[Node, Node] = {node: node for node in nodes}

    def root(node: Node) -> Node:
        while owner[node] is not node:
            owner[node] = owner[owner[node]]
            node = owner[node]
        return node

    written = {settled(node.outputs[0]): node for node in nodes if needs_integer_output(node)}
    for node in nodes:
        for value in activation_inputs(node):
            if value in written:
                owner[root(node)] = root(written[value])
    regions: dict[Node, list[Node]] = {}
    for node in nodes:
        regions.setdefault(root(node), []).append(node)
    return list(regions.values())


def _gain(region: list[Node], shapes: Shapes) -> float:
    """Picoseconds the region saves; positive where a shape is unknown, since nothing speaks against it."""
    members = set(region)
    written = {settled(node.outputs[0]) for node in region if needs_integer_output(node)}
    read = {value for node in region for value in activation_inputs(node)}
    leaving = {value for value in written if value.is_graph_output() or any(use.node not in members for use in value.uses())}
    borders = list((read - written) | leaving)
    if any((value.name or "") not in shapes for value in borders):
        return 0.0
    cost = sum(_elements(value, shapes) * BORDER_PER_ELEMENT + BORDER_PER_NODE for value in borders)
    return sum(_products(node, shapes) for node in region) * GAIN_PER_PRODUCT - cost


def _products(node: Node, shapes: Shapes) -> float:
    """Multiply-adds of a node that integers make faster."""
    row = OPERATORS[node.op_type]
    weights: Iterable[Value] = (
        value for index in row.weights if (value := node.inputs[index]) is not None and is_constant(value)
    )
    weight = next(iter(weights), None)
    if row.role is not Role.LINEAR:
        return 0.0
    out = _elements(node.outputs[0], shapes)
    if weight is None or weight.const_value is None:  # a product of two activations
        left = shapes.get(node.inputs[0].name or "", (0,)) if node.inputs[0] is not None else (0,)
        return float(out * (left[-1] if left else 0))
    shape = weight.const_value.shape.numpy()
    if node.op_type == "Conv":
        spatial = int(np.prod(shape[2:], dtype=np.int64))
        gains = shape[1] >= LEAST_CHANNELS or (spatial == 1 and int_attribute(node, "group", 1) == 1)
        return float(out * shape[1] * spatial) if gains else 0.0
    channels = shape[0] if int_attribute(node, "transB", 0) else shape[-1]
    return float(out * (weight.const_value.size // max(channels, 1)))


def _elements(value: Value, shapes: Shapes) -> int:
    return int(np.prod(shapes.get(value.name or "", (0,)), dtype=np.int64))
