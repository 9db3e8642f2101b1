"""Operators that join, split and select along one axis: Concat, Split, Slice, Gather, Pad."""

from __future__ import annotations

import numpy as np

from qcompress.graph import Node
from qcompress.graph.edit import int_attribute
from qcompress.structure.rules.common import block_node, block_pair, given, integers
from qcompress.structure.trace import Slot, Trace, label

FAR = 1 << 30
"""An end that is this large means the end of the axis."""


def concat(node: Node, trace: Trace) -> None:
    """Positions of each input lie behind those of the inputs before it."""
    y = node.outputs[0]
    joined, offset = int_attribute(node, "axis", 0) % trace.rank(y), 0
    for x in node.inputs:
        if x is None:
            continue
        size = trace.size((x, joined))
        for axis in range(trace.rank(y)):
            if axis == joined:
                trace.tie((x, axis), (y, axis), None, np.arange(offset, offset + size))
            else:
                trace.tie((x, axis), (y, axis))
        offset += size
    if all(x is not None and trace.is_steady((x, joined)) for x in node.inputs):
        trace.steady((y, joined))


def split(node: Node, trace: Trace) -> None:
    """The outputs are consecutive positions of the input; their sizes are rewritten."""
    x = node.inputs[0]
    if x is None:
        return
    outputs = [output for output in node.outputs if output.name]
    cut, offset = int_attribute(node, "axis", 0) % trace.rank(x), 0
    sizes = tuple(trace.size((output, cut)) for output in node.outputs if trace.shape(output) is not None)
    known = len(sizes) == len(node.outputs) and (given(node, 1) is None or trace.vector(given(node, 1)) is not None)
    if not known or trace.is_traced(given(node, 1)):
        trace.block((x, cut), f"{label(node)}: its sizes are computed at run time")
    for place, output in enumerate(outputs):
        for axis in range(trace.rank(x)):
            if axis != cut:
                trace.tie((x, axis), (output, axis))
        size = trace.size((output, cut))
        trace.tie((output, cut), (x, cut), None, np.arange(offset, offset + size))
        if known:
            trace.follow(Slot(node, 1, sizes, place), (output, cut))
        if trace.is_steady((x, cut)):
            trace.steady((output, cut))
        offset += size


def slice_(node: Node, trace: Trace) -> None:
    """Axes of which nothing is left out go through."""
    x, y = node.inputs[0], node.outputs[0]
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    axes, steps = integers(node, 3, "axes"), integers(node, 4, "steps")
    if x is None or axes is None:
        block_node(node, trace, f"{label(node)}: what is selected is computed at run time")
        return
    rank = trace.rank(x)
    chosen = [axis % rank for axis in axes] or list(range(len(starts) if starts is not None else rank))
    for axis in range(rank):
        whole = axis not in chosen
        if not whole and starts is not None and ends is not None and steps is not None:
            place = chosen.index(axis)
            step = steps[place] if steps else 1
            whole = starts[place] == 0 and step == 1 and ends[place] >= min(FAR, trace.size((x, axis)))
        if whole:
            trace.tie((x, axis), (y, axis))
        else:
            block_pair((x, axis), (y, axis), trace, f"{label(node)} selects along it")


def gather(node: Node, trace: Trace) -> None:
    """Entries along one axis are looked up; the other axes go through: a table of embeddings produces channels."""
    table, indices, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if table is None or indices is None:
        return
    chosen, found = int_attribute(node, "axis", 0) % trace.rank(table), trace.rank(indices)
    trace.block((table, chosen), f"{label(node)} looks up along it")
    for axis in range(trace.rank(table)):
        target = axis if axis < chosen else axis - 1 + found
        if axis != chosen and trace.is_weight(table):
            trace.produce(table, axis, (y, target))
        elif axis != chosen:
            trace.tie((table, axis), (y, target))
    for axis in range(found):
        trace.tie((indices, axis), (y, chosen + axis))


def pad(node: Node, trace: Trace) -> None:
    """Axes without padding go through."""
    x, y = node.inputs[0], node.outputs[0]
    pads, axes = integers(node, 1, "pads"), integers(node, 3, "axes")
    if x is None or pads is None or axes is None:
        block_node(node, trace, f"{label(node)}: the padding is computed at run time")
        return
    rank = trace.rank(x)
    chosen = [axis % rank for axis in axes] or list(range(rank))
    for axis in range(rank):
        place = chosen.index(axis) if axis in chosen else None
        if place is None or (pads[place] == 0 and pads[place + len(chosen)] == 0):
            trace.tie((x, axis), (y, axis))
        else:
            block_pair((x, axis), (y, axis), trace, f"{label(node)} pads it")
