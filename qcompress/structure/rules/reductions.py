"""Reductions: the reduced axes stay, the others go through."""

from __future__ import annotations

from qcompress.graph import Node
from qcompress.graph.edit import int_attribute
from qcompress.structure.rules.common import block_axes, block_node, block_pair, integers, same_axes
from qcompress.structure.trace import Trace, label

OPERATORS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)


def reduction(node: Node, trace: Trace) -> None:
    """The axes that are reduced are an attribute or a constant input; none means all."""
    x = node.inputs[0]
    axes = integers(node, 1, "axes")
    if x is None or axes is None:
        block_node(node, trace, f"{label(node)}: which axes are reduced is computed at run time")
        return
    rank = trace.rank(x)
    if not axes and int_attribute(node, "noop_with_empty_axes", 0):
        same_axes(x, node.outputs[0], trace)
    else:
        _reduce(node, {axis % rank for axis in axes} or set(range(rank)), trace)


def arg_reduction(node: Node, trace: Trace) -> None:
    """ArgMax and ArgMin reduce one axis."""
    x = node.inputs[0]
    if x is not None:
        _reduce(node, {int_attribute(node, "axis", 0) % trace.rank(x)}, trace)


def cumulative(node: Node, trace: Trace) -> None:
    """CumSum sums along one axis and keeps it."""
    x, axes = node.inputs[0], integers(node, 1, "axis")
    if x is None or not axes:
        block_node(node, trace, f"{label(node)}: the axis is computed at run time")
        return
    block_axes(x, axes, trace, f"{label(node)} sums along it")
    same_axes(x, node.outputs[0], trace)


def top_k(node: Node, trace: Trace) -> None:
    """TopK selects along one axis."""
    x = node.inputs[0]
    if x is None:
        return
    chosen = int_attribute(node, "axis", -1) % trace.rank(x)
    for y in node.outputs:
        for axis in range(trace.rank(x) if y.name else 0):
            if axis == chosen:
                block_pair((x, axis), (y, axis), trace, f"{label(node)} selects along it")
            else:
                trace.tie((x, axis), (y, axis))


def _reduce(node: Node, axes: set[int], trace: Trace) -> None:
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return
    kept, behind = int_attribute(node, "keepdims", 1), 0
    for axis in range(trace.rank(x)):
        if axis in axes:
            trace.block((x, axis), f"{label(node)} reduces it")
            if kept:
                trace.block((y, behind), f"{label(node)} reduces it")
        else:
            trace.tie((x, axis), (y, behind))
        behind += int(axis not in axes or bool(kept))
