"""Where the channels of a tensor lie, operator by operator, and the edits of constants that scale them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qcompress.graph import Node, Value
from qcompress.graph.edit import constant_array, int_attribute, ints_attribute, is_constant
from qcompress.operators.flow import clip_bounds
from qcompress.types import Array

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}
)
"""Operators with f(a x) = a f(x) for a > 0, channel by channel."""

POOLS = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


class BlockedError(Exception):
    """A region that cannot be scaled; says why."""


@dataclass(frozen=True, slots=True)
class View:
    """Where a region's channels lie in a tensor: ``axis`` from the end, channels ``offset`` to ``offset + count``.

    They are the region's channels from ``start`` on. ``rank`` of the tensor, when it is known; ``width``: all its channels.
    """

    axis: int
    rank: int | None
    start: int
    count: int
    offset: int = 0
    width: int | None = None

    def holds(self, other: View) -> bool:
        """Whether this view gives the channels of the other one the same places."""
        same = (self.axis, self.start - self.offset) == (other.axis, other.start - other.offset)
        return same and self.start <= other.start and other.start + other.count <= self.start + self.count


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """The constant at an input of a node whose channels are divided by the factors (``divide``) or multiplied.

    ``axis``: of the constant. ``groups``: the channels of a grouped convolution run over groups first, then over ``axis``.
    ``reader``: the product that reads the scaled tensor. ``copied``: others read the constant as it is.
    """

    node: Node
    index: int
    axis: int
    view: View
    divide: bool
    groups: int = 1
    reader: Node | None = None
    copied: bool = False

    @property
    def value(self) -> Value:
        """The constant."""
        value = self.node.inputs[self.index]
        if value is None:
            raise ValueError(f"{self.node.name}: input {self.index} is gone")
        return value

    @property
    def layout(self) -> tuple[object, ...]:
        """What two edits of one constant must have in common to be one edit."""
        return (self.axis, self.view.start, self.view.count, self.view.offset, self.divide, self.groups)

    def channels(self, array: Array) -> int:
        """How many channels the constant has."""
        return int(array.shape[self.axis]) * self.groups

    def apply(self, array: Array, factors: Array) -> Array:
        """The constant with its channels divided or multiplied; ``factors``: (channels of the region,)."""
        full = np.ones(self.channels(array))
        view = self.view
        full[view.offset : view.offset + view.count] = factors[view.start : view.start + view.count]
        full = 1.0 / full if self.divide else full
        if self.groups > 1:  # (channels,) -> (other axis, channels / group): every row of a group has the group's channels
            rows = np.repeat(full.reshape(self.groups, -1), array.shape[0] // self.groups, axis=0)
            shaped = rows.reshape(*rows.shape, *(1,) * (array.ndim - 2))
        else:
            spread = [1] * array.ndim
            spread[self.axis] = -1
            shaped = full.reshape(spread)
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(array.astype(np.float64) * shaped).astype(array.dtype)


def ranked(value: Value, view: View) -> View:
    """The view on the other side of an operator that broadcasts, where the rank may be another."""
    return replace(view, rank=None if value.shape is None else len(value.shape))


def read_value(node: Node, index: int) -> Value:
    """The tensor at an input of a node, which must be there."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        raise BlockedError(f"{node.op_type} {node.name!r} has no input {index}")
    return value


def reader_edit(node: Node, index: int, view: View) -> Edit | None:
    """The edit of the weight of a product that sums over the channels."""
    if node.domain:
        return None
    if node.op_type in ("Conv", "ConvTranspose") and index == 0:
        weight = constant_array(node.inputs[1])
        if weight is None or view.axis != 1 - weight.ndim:
            raise BlockedError(f"{node.op_type} {node.name!r} reads it along another axis")
        if node.op_type == "ConvTranspose":
            return Edit(node, 1, 0, view, divide=False, reader=node)
        return Edit(node, 1, 1, view, divide=False, groups=int_attribute(node, "group", 1), reader=node)
    if node.op_type == "MatMul" and index == 0 and view.axis == -1:
        return _matrix(node, 1, -2, view, divide=False)
    if node.op_type == "Gemm" and index == 0 and view.axis == -1 and not int_attribute(node, "transA", 0):
        return _matrix(node, 1, -1 if int_attribute(node, "transB", 0) else -2, view, divide=False)
    if node.op_type in RECURRENT and index == 0 and view.axis == -1 and is_constant(node.inputs[1]):
        return Edit(node, 1, 2, view, divide=False, reader=node)
    return None


def _matrix(node: Node, index: int, axis: int, view: View, divide: bool) -> Edit | None:
    """The edit of a constant matrix, which may come through a Transpose of its own."""
    value = read_value(node, index)
    array = constant_array(value)
    if array is not None:
        return Edit(node, index, axis, view, divide, reader=node) if array.ndim >= 2 else None
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose" or producer.graph is not node.graph or len(value.uses()) != 1:
        return None
    source = constant_array(producer.inputs[0])
    if source is None or source.ndim != 2 or ints_attribute(producer, "perm") not in ((1, 0), ()) or value.is_graph_output():
        return None
    return Edit(producer, 0, -3 - axis, view, divide, reader=node)


def writer_edits(node: Node, view: View) -> list[Edit]:
    """The edits of the constants that give an output its channels; none when the node has no such constants."""
    first: Edit | None = None
    biases: list[int] = []
    if node.op_type in ("Conv", "ConvTranspose") and not node.domain and is_constant(node.inputs[1]):
        weight = constant_array(node.inputs[1])
        if weight is not None and view.axis == 1 - weight.ndim:
            grouped = int_attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1
            first, biases = Edit(node, 1, 0 if node.op_type == "Conv" else 1, view, True, grouped), [2]
    elif node.op_type == "MatMul" and not node.domain and view.axis == -1:
        first = _matrix(node, 1, -1, view, divide=True)
    elif node.op_type == "Gemm" and not node.domain and view.axis == -1:
        first, biases = _matrix(node, 1, -2 if int_attribute(node, "transB", 0) else -1, view, divide=True), [2]
    elif node.op_type in NORMS and view.axis == -1 and int_attribute(node, "axis", -1) == -1 and is_constant(node.inputs[1]):
        first, biases = Edit(node, 1, -1, view, divide=True), [2]
    elif node.op_type == "BatchNormalization" and view.rank is not None and view.axis == 1 - view.rank:
        first, biases = Edit(node, 1, 0, view, divide=True), [2]
    if first is None:
        return []
    flat = replace(view, axis=-1, rank=None)
    held = (index for index in biases if len(node.inputs) > index and node.inputs[index] is not None)
    return [first, *(vector_edit(node, index, flat) for index in held)]


def vector_edit(node: Node, index: int, view: View) -> Edit:
    """The edit of a constant that has the channels on its axis; a single number for all channels stays one."""
    array = constant_array(read_value(node, index))
    if array is None or array.ndim < -view.axis or array.shape[view.axis] < view.offset + view.count:
        raise BlockedError(f"{node.op_type} {node.name!r} has no constant per channel")
    return Edit(node, index, view.axis, view, divide=True)


def is_homogeneous(node: Node, index: int, view: View) -> bool:
    """Whether a node does to scaled channels what it does to the channels, scaled."""
    if node.domain or index != 0 or len([output for output in node.outputs if output.uses()]) > 1:
        return False
    if node.op_type == "Clip":
        return clip_bounds(node) in ((0.0, float("inf")), (float("-inf"), 0.0)) and all(
            value is None or is_constant(value) for value in node.inputs[1:]
        )
    if node.op_type in POOLS and (view.rank is None or view.axis != 1 - view.rank):
        return False
    return node.op_type in HOMOGENEOUS


def transposed(node: Node, view: View, forward: bool) -> View:
    """Where the channels lie on the other side of a Transpose."""
    order = ints_attribute(node, "perm")
    if not order:
        raise BlockedError(f"Transpose {node.name!r} has no order")
    rank = len(order)
    axis = view.axis + rank
    if axis < 0:
        raise BlockedError(f"Transpose {node.name!r} has another rank")
    moved = order.index(axis) if forward else order[axis]
    return View(moved - rank, rank, view.start, view.count, view.offset, view.width)


def concatenated(node: Node, index: int, view: View) -> View:
    """Where the channels of a part lie in the concatenation."""
    if not _along_channels(node, view):
        raise BlockedError(f"Concat {node.name!r} joins another axis")
    before = [_width(value) for value in node.inputs[:index]]
    if any(width is None for width in before):
        raise BlockedError(f"Concat {node.name!r} has parts of unknown width")
    offset = sum(width for width in before if width is not None) + view.offset
    return View(view.axis, view.rank, view.start, view.count, offset, None)


def parts(node: Node, view: View) -> Iterator[tuple[int, View]]:
    """The parts of a concatenation that hold a region's channels."""
    if not _along_channels(node, view):
        raise BlockedError(f"Concat {node.name!r} joins another axis")
    begin = 0
    for index, value in enumerate(node.inputs):
        width = _width(value)
        if width is None:
            raise BlockedError(f"Concat {node.name!r} has parts of unknown width")
        low, high = max(begin, view.offset), min(begin + width, view.offset + view.count)
        if low < high:
            yield index, View(view.axis, view.rank, view.start + low - view.offset, high - low, low - begin, width)
        begin += width


def _along_channels(node: Node, view: View) -> bool:
    axis = int_attribute(node, "axis", 0)
    return axis == view.axis or (view.rank is not None and axis == view.axis + view.rank)


def _width(value: Value | None) -> int | None:
    """The channels that a chain of operators ending in a convolution or product writes."""
    while value is not None and (node := value.producer()) is not None:
        weight = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op_type == "Conv" and weight is not None:
            return int(weight.shape[0])
        if node.op_type == "ConvTranspose" and weight is not None:
            return int(weight.shape[1]) * int_attribute(node, "group", 1)
        if node.op_type == "MatMul" and weight is not None and weight.ndim >= 2:
            return int(weight.shape[-1])
        if node.op_type not in HOMOGENEOUS | {"Clip", "Resize", "BatchNormalization", "Sigmoid", "HardSwish"}:
            return None
        value = node.inputs[0]
    return None
