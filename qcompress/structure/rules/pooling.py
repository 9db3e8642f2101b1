"""Pooling and resizing of images: channels go through, positions do not."""

from __future__ import annotations

from qcompress.graph import Node
from qcompress.graph.edit import constant_array, ints_attribute, string_attribute
from qcompress.structure.rules.common import block_axes, block_node, block_outputs, block_pair, given
from qcompress.structure.trace import Trace, label


def pool(node: Node, trace: Trace) -> None:
    """MaxPool, AveragePool, LpPool and the global ones."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return
    block_outputs(node, trace, f"{label(node)} writes positions", first=1)
    if any(value.name for value in node.outputs[1:]):
        block_node(node, trace, f"{label(node)} writes positions")
        return
    trace.tie((x, 0), (y, 0))
    trace.tie((x, 1), (y, 1))
    for value in (x, y):
        block_axes(value, range(2, trace.rank(value)), trace, f"{label(node)}: positions under a window")


def resize(node: Node, trace: Trace) -> None:
    """Axes of scale 1 go through."""
    x, y = node.inputs[0], node.outputs[0]
    plain = string_attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if x is None or not plain or string_attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        block_node(node, trace, f"{label(node)} crops, or chooses a size")
        return
    rank = trace.rank(y)
    axes = [axis % rank for axis in ints_attribute(node, "axes")] or list(range(rank))
    sizes, factors = given(node, 3), constant_array(given(node, 2))
    for axis in range(rank):
        place = axes.index(axis) if axis in axes else None
        if sizes is not None and place is not None and trace.size((x, axis)) == trace.size((y, axis)):
            trace.tie((x, axis), (y, axis))
            trace.follow_shape(node, 3, place, (y, axis))
        elif place is None or (sizes is None and factors is not None and factors.reshape(-1)[place] == 1.0):
            trace.tie((x, axis), (y, axis))
        else:
            block_pair((x, axis), (y, axis), trace, f"{label(node)} resizes it")
