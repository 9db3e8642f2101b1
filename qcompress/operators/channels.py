"""Channel regions: the tensors and constants that change when the channels of one tensor are divided by positive factors.

Where y = relu(W x + b) is read by V y alone, dividing y by a factor per channel is dividing the rows of W and b, and V, whose
columns are multiplied, undoes it: the model computes what it did. A region holds every constant that has to change for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from qcompress.graph import Graph, Model, Node, Value
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


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Everything that changes when the channels of ``tensor`` are divided.

    ``readers``: products whose weights are multiplied. ``inserted``: nothing before the tensor can take the division: a Mul
    divides a copy of it, which they read.
    ``scaled``: names of tensors whose values change (an inserted copy has no name yet).
    """

    tensor: Value
    axis: int
    channels: int
    edits: tuple[Edit, ...]
    scaled: tuple[str, ...]
    readers: tuple[Node, ...]
    inserted: bool = False

    @property
    def weights(self) -> tuple[Edit, ...]:
        """The weights of products that are multiplied."""
        return tuple(edit for edit in self.edits if not edit.divide)


def find_region(model: Model, tensor: Value) -> Region | str:
    """The region of a tensor that products read, with a Mul of its own where the division has no other place.

    Returns a reason when no product reads the tensor, or its weight cannot be changed.
    """
    seed = _seed(model, tensor)
    if seed is None:
        return f"tensor {tensor.name!r} is not read by a product with a constant weight"
    walk = _Walk(model.graph)
    try:
        walk.visit(tensor, seed)
        edits = walk.checked()
        scaled = tuple(sorted(value.name or "" for value in walk.views))
        return Region(tensor, seed.axis, seed.count, edits, scaled, walk.readers())
    except BlockedError:
        pass
    walk = _Walk(model.graph)
    try:
        for use in tensor.uses():
            edit = _reader(use.node, use.idx, seed) if use.node.graph is model.graph else None
            if edit is not None:
                walk.edits.append(edit)
        return Region(tensor, seed.axis, seed.count, walk.checked(), (), walk.readers(), inserted=True)
    except BlockedError as reason:
        return str(reason)


def _seed(model: Model, tensor: Value) -> View | None:
    """The channel axis that the first product reads the tensor along."""
    for use in tensor.uses():
        node = use.node
        if node.graph is not model.graph:
            continue
        for axis, rank in _reading_axes(node, use.idx):
            probe = View(axis, rank, 0, 0)
            try:
                edit = _reader(node, use.idx, probe)
            except BlockedError:
                continue
            array = None if edit is None else constant_array(edit.value)
            if edit is not None and array is not None:
                channels = edit.channels(array)
                return View(axis, rank, 0, channels, 0, channels)
    return None


def _reading_axes(node: Node, index: int) -> Iterator[tuple[int, int | None]]:
    weight = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type in ("Conv", "ConvTranspose") and weight is not None:
        yield 1 - weight.ndim, weight.ndim
    elif node.op_type in ("MatMul", "Gemm", *RECURRENT) and index == 0:
        yield -1, None


@dataclass
class _Walk:
    """Follows a tensor to everything that must change with it.

    ``through``: product of two activations -> the one that carries the factors.
    """

    graph: Graph
    views: dict[Value, View] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    through: dict[Node, Value] = field(default_factory=dict)

    def visit(self, value: Value, view: View) -> None:
        """Take the tensor into the region, with what writes it and all that read it."""
        known = self.views.get(value)
        if known is not None:
            if (known.axis, known.start, known.count, known.offset) != (view.axis, view.start, view.count, view.offset):
                raise BlockedError(f"tensor {value.name!r} would need two factors")
            return
        if value.is_graph_output():
            raise BlockedError(f"tensor {value.name!r} is an output of the model")
        self.views[value] = view
        for use in value.uses():
            if use.node.graph is not self.graph:
                raise BlockedError(f"tensor {value.name!r} is read in a body")
            self._read(use.node, use.idx, view)
        self._write(value, view)

    def _read(self, node: Node, index: int, view: View) -> None:
        """Case by case what a reader of a scaled tensor must do."""
        edit = _reader(node, index, view)
        if edit is not None:
            self.edits.append(edit)
        elif _is_homogeneous(node, index, view):
            self.visit(node.outputs[0], view)
        elif node.op_type in ("Add", "Sub") and not node.domain:
            self.visit(node.outputs[0], _ranked(node.outputs[0], view))
        elif node.op_type in ("Mul", "Div") and not node.domain and (node.op_type == "Mul" or index == 0):
            value = _input(node, index)
            if self.through.setdefault(node, value) is not value or node.inputs[0] is node.inputs[1]:
                raise BlockedError(f"{node.op_type} {node.name!r} would be scaled twice")
            self.visit(node.outputs[0], _ranked(node.outputs[0], view))
        elif node.op_type == "MatMul" and not node.domain and index == 1 and view.axis == -1:
            self.visit(node.outputs[0], _ranked(node.outputs[0], view))
        elif node.op_type == "Transpose":
            self.visit(node.outputs[0], _transposed(node, view, forward=True))
        elif node.op_type == "Concat" and not node.domain:
            self.visit(node.outputs[0], _concatenated(node, index, view))
        elif node.op_type != "Shape":
            raise BlockedError(f"{node.op_type} {node.name!r} reads {_input(node, index).name!r} too")

    def _write(self, value: Value, view: View) -> None:
        """Case by case how what writes a scaled tensor can write it scaled."""
        node = value.producer()
        if node is None or node.graph is not self.graph:
            raise BlockedError(f"tensor {value.name!r} is an input")
        if value is not node.outputs[0]:
            raise BlockedError(f"{node.op_type} {node.name!r} writes several tensors")
        own = _writers(node, view)
        if own:
            self.edits += own
        elif _is_homogeneous(node, 0, view):
            self.visit(_input(node, 0), view)
        elif node.op_type in ("Add", "Sub") and not node.domain:
            for index in range(2):
                self._part(node, index, view)
        elif node.op_type in ("Mul", "Div") and not node.domain:
            self._product(node, view)
        elif node.op_type == "MatMul" and view.axis == -1 and not is_constant(node.inputs[1]):
            self.visit(_input(node, 1), _ranked(_input(node, 1), view))
        elif node.op_type == "Transpose":
            self.visit(_input(node, 0), _transposed(node, view, forward=False))
        elif node.op_type == "Concat" and not node.domain:
            for index, part in _parts(node, view):
                self.visit(_input(node, index), part)
        else:
            raise BlockedError(f"{node.op_type} {node.name!r} writes it")

    def _part(self, node: Node, index: int, view: View) -> None:
        """A summand is scaled with the sum."""
        if is_constant(node.inputs[index]):
            self.edits.append(_vector(node, index, view))
        else:
            self.visit(_input(node, index), _ranked(_input(node, index), view))

    def _product(self, node: Node, view: View) -> None:
        """One factor of a product is scaled: a constant, or the first activation that can be."""
        if node in self.through:
            return
        reasons = []
        for index in range(2 if node.op_type == "Mul" else 1):
            value = _input(node, index)
            saved = (dict(self.views), list(self.edits), dict(self.through))
            try:
                self.through[node] = value
                self._part(node, index, view)
                return
            except BlockedError as reason:
                reasons.append(str(reason))
                self.views, self.edits, self.through = saved
        raise BlockedError("; ".join(reasons))

    def readers(self) -> tuple[Node, ...]:
        """The products that read scaled tensors."""
        return tuple(dict.fromkeys(edit.reader for edit in self.edits if edit.reader is not None and not edit.divide))

    def checked(self) -> tuple[Edit, ...]:
        """The edits, one for each constant, when every other reader of a constant agrees or can have a copy."""
        by_value: dict[Value, list[Edit]] = {}
        for edit in self.edits:
            by_value.setdefault(edit.value, []).append(edit)
        kept: list[Edit] = []
        for value, edits in by_value.items():
            array = constant_array(value)
            if array is None or array.dtype != np.float32:
                raise BlockedError(f"{value.name!r} is not a float32 constant")
            if value.is_graph_output():
                raise BlockedError(f"{value.name!r} is an output of the model")
            for edit in edits:
                _check_width(edit, array)
            readers = {(use.node, use.idx) for use in value.uses()}
            layouts = {edit.layout: edit for edit in edits}
            if all({(e.node, e.index) for e in edits if e.layout == layout} == readers for layout in layouts):
                kept += layouts.values()
            elif array.size == max(array.shape, default=1) and len(layouts) == 1:
                kept += [replace(edit, copied=True) for edit in edits]
            else:
                raise BlockedError(f"weight {value.name!r} is used elsewhere too")
        return tuple(kept)


def _check_width(edit: Edit, array: Array) -> None:
    view = edit.view
    channels = edit.channels(array)
    if channels < view.offset + view.count or (view.width is not None and channels != view.width):
        raise BlockedError(f"{edit.value.name!r} has {channels} channels, not {view.width or view.offset + view.count}")


def _ranked(value: Value, view: View) -> View:
    """The view on the other side of an operator that broadcasts, where the rank may be another."""
    return replace(view, rank=None if value.shape is None else len(value.shape))


def _input(node: Node, index: int) -> Value:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        raise BlockedError(f"{node.op_type} {node.name!r} has no input {index}")
    return value


def _reader(node: Node, index: int, view: View) -> Edit | None:
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
    value = _input(node, index)
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


def _writers(node: Node, view: View) -> list[Edit]:
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
    return [first, *(_vector(node, index, flat) for index in held)]


def _vector(node: Node, index: int, view: View) -> Edit:
    """The edit of a constant that has the channels on its axis; a single number for all channels stays one."""
    array = constant_array(_input(node, index))
    if array is None or array.ndim < -view.axis or array.shape[view.axis] < view.offset + view.count:
        raise BlockedError(f"{node.op_type} {node.name!r} has no constant per channel")
    return Edit(node, index, view.axis, view, divide=True)


def _is_homogeneous(node: Node, index: int, view: View) -> bool:
    if node.domain or index != 0 or len([output for output in node.outputs if output.uses()]) > 1:
        return False
    if node.op_type == "Clip":
        return clip_bounds(node) in ((0.0, float("inf")), (float("-inf"), 0.0)) and all(
            value is None or is_constant(value) for value in node.inputs[1:]
        )
    if node.op_type in POOLS and (view.rank is None or view.axis != 1 - view.rank):
        return False
    return node.op_type in HOMOGENEOUS


def _transposed(node: Node, view: View, forward: bool) -> View:
    order = ints_attribute(node, "perm")
    if not order:
        raise BlockedError(f"Transpose {node.name!r} has no order")
    rank = len(order)
    axis = view.axis + rank
    if axis < 0:
        raise BlockedError(f"Transpose {node.name!r} has another rank")
    moved = order.index(axis) if forward else order[axis]
    return View(moved - rank, rank, view.start, view.count, view.offset, view.width)


def _concatenated(node: Node, index: int, view: View) -> View:
    """Where the channels of a part lie in the concatenation."""
    if not _along_channels(node, view):
        raise BlockedError(f"Concat {node.name!r} joins another axis")
    before = [_width(value) for value in node.inputs[:index]]
    if any(width is None for width in before):
        raise BlockedError(f"Concat {node.name!r} has parts of unknown width")
    offset = sum(width for width in before if width is not None) + view.offset
    return View(view.axis, view.rank, view.start, view.count, offset, None)


def _parts(node: Node, view: View) -> Iterator[tuple[int, View]]:
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
