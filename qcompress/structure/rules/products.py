"""Gemm and MatMul: the summed axis of a weight consumes channels, its other axis produces them."""

from __future__ import annotations

from qcompress.graph import Node
from qcompress.graph.edit import int_attribute
from qcompress.structure.positions import At
from qcompress.structure.rules.common import block_node, given
from qcompress.structure.rules.elementwise import broadcast
from qcompress.structure.trace import Trace, label


def matmul(node: Node, trace: Trace) -> None:
    """(..., m, k) times (..., k, n)."""
    left, right, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if left is None or right is None or min(trace.rank(left), trace.rank(right)) < 2:
        block_node(node, trace, f"{label(node)} multiplies with a vector")
        return
    for value in (left, right):
        for axis in range(trace.rank(value) - 2):
            behind = axis + trace.rank(y) - trace.rank(value)
            if trace.size((value, axis)) == trace.size((y, behind)):
                trace.tie((value, axis), (y, behind))
            else:
                trace.block((value, axis), f"{label(node)} spreads it over an axis")
    _product(node, (left, -1), (right, -2), trace)
    _result(node, (left, -2), (y, -2), trace)
    _result(node, (right, -1), (y, -1), trace)


def gemm(node: Node, trace: Trace) -> None:
    """(m, k) times (k, n), either of them perhaps transposed, and a bias."""
    left, right, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if left is None or right is None:
        return
    rows, columns = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    _product(node, (left, 0 if rows else 1), (right, 1 if columns else 0), trace)
    _result(node, (left, 1 if rows else 0), (y, 0), trace)
    _result(node, (right, 0 if columns else 1), (y, 1), trace)
    bias = given(node, 2)
    if bias is not None:
        broadcast(node, bias, y, trace)


def _product(node: Node, left: At, right: At, trace: Trace) -> None:
    """The axis that is summed over, of both factors."""
    constants = [trace.is_weight(value) for value, _ in (left, right)]
    if sum(constants) != 1:
        for at in (left, right):
            trace.block(at, f"{label(node)} sums over it, and no factor is a weight")
    elif constants[1]:
        trace.consume(right[0], right[1], left)
    else:
        trace.consume(left[0], left[1], right)


def _result(node: Node, factor: At, y: At, trace: Trace) -> None:
    """An axis of a factor that is an axis of the result."""
    if trace.is_weight(factor[0]):
        trace.produce(factor[0], factor[1], y)
    else:
        trace.tie(factor, y)
