"""What rules of several families are made of."""

from __future__ import annotations

from collections.abc import Iterable

from qcompress.graph import Node, Value
from qcompress.graph.edit import constant_array, ints_attribute
from qcompress.structure.positions import At
from qcompress.structure.trace import Trace


def same_axes(source: Value, output: Value, trace: Trace) -> None:
    """Tie every axis of the output with the same axis of the input."""
    for axis in range(trace.rank(output)):
        trace.tie((source, axis), (output, axis))


def block_axes(value: Value, axes: Iterable[int], trace: Trace, reason: str) -> None:
    """Let some axes of a tensor stay."""
    for axis in axes:
        trace.block((value, axis), reason)


def block_pair(one: At, other: At, trace: Trace, reason: str) -> None:
    """Let an axis of an input and one of the output stay."""
    trace.block(one, reason)
    trace.block(other, reason)


def block_outputs(node: Node, trace: Trace, reason: str, first: int = 0) -> None:
    """Let all outputs from the ``first`` on stay."""
    for value in node.outputs[first:]:
        if value.name:
            trace.block_tensor(value, reason)


def block_node(node: Node, trace: Trace, reason: str) -> None:
    """Let everything stay that a node reads and writes."""
    for value in node.inputs:
        if value is not None:
            trace.block_tensor(value, reason)
    block_outputs(node, trace, reason)


def given(node: Node, index: int) -> Value | None:
    """An optional input."""
    return node.inputs[index] if index < len(node.inputs) else None


def integers(node: Node, index: int, attribute: str) -> tuple[int, ...] | None:
    """A list of integers from an attribute or a constant input: empty when there is neither, None when it is computed."""
    value = given(node, index)
    if value is None:
        return ints_attribute(node, attribute)
    array = constant_array(value)
    return None if array is None else tuple(int(number) for number in array.reshape(-1))
