"""Facts about how numbers flow through a node: which inputs are activations, where its output settles, who holds its bias."""

from __future__ import annotations

import numpy as np

from qcompress.graph import Node, Value
from qcompress.graph.edit import constant_array, float_attribute, int_attribute, is_constant
from qcompress.operators.table import OPERATORS, Role


def activation_inputs(node: Node) -> list[Value]:
    """The inputs of a node that carry activations, constants left out."""
    row = OPERATORS.get(node.op_type)
    if row is None:
        return []
    indices = range(len(node.inputs)) if node.op_type == "Concat" else row.activations
    values = (node.inputs[index] if index < len(node.inputs) else None for index in indices)
    return [value for value in values if value is not None and not is_constant(value)]


def settled(value: Value) -> Value:
    """The tensor to quantize for a layer's output: behind the Relu or Clip that saturation absorbs, else itself."""
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output():
        return value
    (user,) = users
    if user.domain or user.op_type not in ("Relu", "Clip") or user.inputs[0] is not value:
        return value
    if user.op_type == "Clip" and not all(is_constant(bound) for bound in user.inputs[1:] if bound is not None):
        return value
    return user.outputs[0]


def needs_integer_output(node: Node) -> bool:
    """Whether the integer kernel of the node also writes integers (matrix products may write float)."""
    return node.op_type not in ("MatMul", "Gemm")


def bias_holder(node: Node) -> tuple[Node, int] | None:
    """The node and input that carry the bias of a layer: its own, or the constant of the Add behind a MatMul."""
    row = OPERATORS.get(node.op_type)
    if row is not None and row.role is Role.LINEAR and row.bias is not None:
        return node, row.bias
    users = [use.node for use in node.outputs[0].uses()]
    if node.op_type == "MatMul" and len(users) == 1 and users[0].op_type == "Add" and not node.outputs[0].is_graph_output():
        for index, value in enumerate(users[0].inputs):
            array = constant_array(value)
            if array is not None and array.ndim == 1 and array.dtype == np.float32:
                return users[0], index
    return None


def can_shift(node: Node) -> bool:
    """Whether a bias can be shifted without a new operator in the graph."""
    holder = bias_holder(node)
    if holder is None:
        return False
    owner, index = holder
    if owner.op_type == "Gemm" and float_attribute(owner, "beta", 1.0) != 1.0:
        return False
    value = owner.inputs[index] if len(owner.inputs) > index else None
    return value is None or constant_array(value) is not None


def is_plain_product(node: Node) -> bool:
    """Whether a Gemm is a product plus bias and nothing else; MatMul always is."""
    factors = (float_attribute(node, name, 1.0) for name in ("alpha", "beta"))
    return node.op_type == "MatMul" or (not int_attribute(node, "transA", 0) and all(factor == 1.0 for factor in factors))


def can_be_static(node: Node) -> bool:
    """Whether an integer kernel computes the node: its bias, if any, is a constant vector."""
    if node.op_type == "ConvTranspose" or (node.op_type in ("MatMul", "Gemm") and not is_plain_product(node)):
        return False
    if node.op_type in ("MatMul",) or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    bias = constant_array(node.inputs[2])
    return bias is not None and bias.ndim == 1


def clip_bounds(node: Node) -> tuple[float, float]:
    """The bounds of a Relu or Clip, infinite where there is none."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [constant_array(value) for value in node.inputs[1:3]]
    low = float(bounds[0]) if bounds and bounds[0] is not None else float_attribute(node, "min", float("-inf"))
    high = float(bounds[1]) if len(bounds) > 1 and bounds[1] is not None else float_attribute(node, "max", float("inf"))
    return low, high
