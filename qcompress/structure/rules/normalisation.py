"""Normalisation: channel by channel it goes along, over the channels it forbids."""

from __future__ import annotations

from qcompress.graph import Node
from qcompress.graph.edit import int_attribute, ints_attribute
from qcompress.structure.rules.common import block_axes, block_outputs, same_axes
from qcompress.structure.trace import Trace, label


def batch_normalization(node: Node, trace: Trace) -> None:
    """Scale, bias, mean and variance have one number for each channel."""
    x, y = node.inputs[0], node.outputs[0]
    block_outputs(node, trace, "training mode", first=1)
    if x is None:
        return
    same_axes(x, y, trace)
    for parameter in node.inputs[1:]:
        if parameter is not None:
            trace.tie((parameter, 0), (y, 1))


def instance_normalization(node: Node, trace: Trace) -> None:
    """Normalises every channel over its positions; scale and bias have one number for each channel."""
    batch_normalization(node, trace)
    x = node.inputs[0]
    if x is not None:
        block_axes(x, range(2, trace.rank(x)), trace, f"{label(node)} normalises over it")


def group_normalization(node: Node, trace: Trace) -> None:
    """Normalises over the channels of a group."""
    x, y = node.inputs[0], node.outputs[0]
    for value in node.inputs[1:]:
        if value is not None:
            trace.block_tensor(value, f"{label(node)} normalises over it")
    if x is not None:
        block_axes(x, range(1, trace.rank(x)), trace, f"{label(node)} normalises over it")
        same_axes(x, y, trace)


def layer_normalization(node: Node, trace: Trace) -> None:
    """Normalises over all axes from ``axis`` on."""
    x, y = node.inputs[0], node.outputs[0]
    reason = f"{label(node)} normalises over it"
    block_outputs(node, trace, reason, first=1)
    for value in node.inputs[1:]:
        if value is not None:
            trace.block_tensor(value, reason)
    if x is not None:
        rank = trace.rank(x)
        block_axes(x, range(int_attribute(node, "axis", -1) % rank, rank), trace, reason)
        same_axes(x, y, trace)


def softmax(node: Node, trace: Trace) -> None:
    """Normalises over one axis: Softmax, LogSoftmax, Hardmax, LpNormalization."""
    x, y = node.inputs[0], node.outputs[0]
    if x is not None:
        block_axes(x, [int_attribute(node, "axis", -1)], trace, f"{label(node)} normalises over it")
        same_axes(x, y, trace)


def local_response(node: Node, trace: Trace) -> None:
    """Normalises over neighbouring channels."""
    x, y = node.inputs[0], node.outputs[0]
    if x is not None:
        block_axes(x, [1], trace, f"{label(node)} normalises over neighbouring channels")
        same_axes(x, y, trace)


def mean_variance(node: Node, trace: Trace) -> None:
    """Normalises over ``axes``."""
    x, y = node.inputs[0], node.outputs[0]
    if x is not None:
        block_axes(x, ints_attribute(node, "axes") or (0, 2, 3), trace, f"{label(node)} normalises over it")
        same_axes(x, y, trace)
