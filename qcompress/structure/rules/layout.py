"""Operators that give numbers another order or shape: Transpose, Reshape, Flatten, Squeeze, Unsqueeze, Expand, Tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompress.graph import Node, Value
from qcompress.graph.edit import constant_array, int_attribute, ints_attribute
from qcompress.structure.positions import At
from qcompress.structure.rules.common import block_node, block_pair, integers
from qcompress.structure.rules.elementwise import broadcast
from qcompress.structure.trace import Trace, label
from qcompress.types import Array


@dataclass(frozen=True, slots=True)
class Factor:
    """A run of positions that lies whole within one axis before and one axis behind a Reshape.

    ``size``: how many. ``source`` and ``target``: the axes. ``source_inner`` and ``target_inner``: the product of the
    factors behind it in that axis: position p of the axis is ``p // inner % size`` here.
    """

    size: int
    source: int
    target: int
    source_inner: int
    target_inner: int


def transpose(node: Node, trace: Trace) -> None:
    """Axis ``perm[i]`` of the input is axis i of the output."""
    x, y = node.inputs[0], node.outputs[0]
    if x is not None:
        for axis, source in enumerate(ints_attribute(node, "perm") or tuple(reversed(range(trace.rank(x))))):
            trace.tie((x, source), (y, axis))


def squeeze(node: Node, trace: Trace) -> None:
    """Axes of one element vanish."""
    x, axes = node.inputs[0], integers(node, 1, "axes")
    if x is None or axes is None:
        block_node(node, trace, f"{label(node)}: the axes are computed at run time")
        return
    rank = trace.rank(x)
    gone = {axis % rank for axis in axes} or {axis for axis in range(rank) if trace.size((x, axis)) == 1}
    for axis in gone:
        trace.block((x, axis), f"{label(node)} removes the axis")
    for target, source in enumerate(axis for axis in range(rank) if axis not in gone):
        trace.tie((x, source), (node.outputs[0], target))


def unsqueeze(node: Node, trace: Trace) -> None:
    """Axes of one element appear."""
    x, axes = node.inputs[0], integers(node, 1, "axes")
    if x is None or axes is None:
        block_node(node, trace, f"{label(node)}: the axes are computed at run time")
        return
    y, rank = node.outputs[0], trace.rank(node.outputs[0])
    new = {axis % rank for axis in axes}
    for axis in new:
        trace.block((y, axis), f"{label(node)} adds the axis")
    for source, target in enumerate(axis for axis in range(rank) if axis not in new):
        trace.tie((x, source), (y, target))


def flatten(node: Node, trace: Trace) -> None:
    """Two axes: everything before ``axis``, and everything from it on."""
    x = node.inputs[0]
    if x is not None:
        regroup(node, x, trace)


def reshape(node: Node, trace: Trace) -> None:
    """Axes are split and merged; of every axis only one factor can be cut, and the shape is rewritten."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return
    same = regroup(node, x, trace)
    vector = trace.placed(node, 1)
    for axis in range(trace.rank(y)):
        number = None if vector is None or axis >= len(vector) else vector[axis].number
        fixed = vector is not None and axis < len(vector) and vector[axis].fixed
        if number == 0 and fixed and not int_attribute(node, "allowzero", 0):
            if axis not in same:
                trace.block((y, axis), f"{label(node)} copies the size of another axis")
        elif not (number == -1 and fixed):
            trace.follow_shape(node, 1, axis, (y, axis))
            if fixed:
                trace.steady((y, axis))


def regroup(node: Node, x: Value, trace: Trace) -> set[int]:
    """Tie positions before and behind a change of shape; returns the axes that are the same axis before and behind.

    Of the factors of an axis the outermost that can be cut is: heads rather than what is within a head, channels rather than
    the positions of an image.
    """
    y = node.outputs[0]
    found = factors(trace.shape(x) or (), trace.shape(y) or ())
    if found is None:
        block_node(node, trace, f"{label(node)} mixes axes")
        return set()
    used: set[At] = set()
    for number, factor in enumerate(found):
        before, behind = (x, factor.source), (y, factor.target)
        if (node, number) in trace.refused or used & {before, behind} or trace.why_blocked(before):
            continue
        used |= {before, behind}
        _tie_factor(factor, before, behind, trace)
        trace.chosen[node, number] = before
    reasons = {(y, factor.target): trace.why_blocked((x, factor.source)) for factor in reversed(found)}
    for value in (x, y):
        for at in ((value, axis) for axis in range(trace.rank(value))):
            if at not in used:
                trace.block(at, reasons.get(at, "") or f"{label(node)} joins it with another axis")
    alone = {(factor.source, factor.target) for factor in found}
    return {
        source
        for source, target in alone
        if source == target and sum(pair[0] == source or pair[1] == source for pair in alone) == 1
    }


def factors(source: tuple[int, ...], target: tuple[int, ...]) -> list[Factor] | None:
    """The factors that two shapes of the same numbers have in common, outermost first; None where axes overlap otherwise."""
    before = [(axis, size) for axis, size in enumerate(source) if size != 1]
    behind = [(axis, size) for axis, size in enumerate(target) if size != 1]
    if 0 in source:
        return None
    found: list[Factor] = []
    while before and behind:
        (one, left), (other, right) = before[0], behind[0]
        size = min(left, right)
        if max(left, right) % size:
            return None
        found.append(Factor(size, one, other, left // size, right // size))
        before[:1] = [(one, left // size)] if left > size else []
        behind[:1] = [(other, right // size)] if right > size else []
    return found


def _tie_factor(factor: Factor, before: At, behind: At, trace: Trace) -> None:
    """Positions of both axes go together when they are the same position of the factor."""

    def of(at: At, inner: int) -> Array:
        return np.arange(trace.size(at)) // inner % factor.size

    first = np.arange(factor.size) * factor.source_inner
    for at, inner in ((before, factor.source_inner), (behind, factor.target_inner)):
        trace.tie(at, before, np.arange(trace.size(at)), first[of(at, inner)])


def expand(node: Node, trace: Trace) -> None:
    """Broadcasts to a shape, which is rewritten; an axis that was one element can have any length."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return
    broadcast(node, x, y, trace)
    vector = trace.placed(node, 1)
    offset = trace.rank(y) - len(vector or ())
    for axis in range(trace.rank(y)):
        place = axis - offset
        if vector is not None and (place < 0 or (vector[place].number == 1 and vector[place].fixed)):
            continue
        trace.follow_shape(node, 1, place, (y, axis))


def constant_of_shape(node: Node, trace: Trace) -> None:
    """A tensor of one number: any axis can have any length."""
    y = node.outputs[0]
    for axis in range(trace.rank(y)):
        trace.follow_shape(node, 0, axis, (y, axis))


def tile(node: Node, trace: Trace) -> None:
    """Axes that are not repeated go through."""
    x, y = node.inputs[0], node.outputs[0]
    repeats = constant_array(node.inputs[1])
    if x is None:
        return
    for axis in range(trace.rank(x)):
        if repeats is not None and repeats[axis] == 1:
            trace.tie((x, axis), (y, axis))
        else:
            block_pair((x, axis), (y, axis), trace, f"{label(node)} repeats it")
