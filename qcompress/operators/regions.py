"""Channel regions: all that changes when the channels of one tensor are divided by positive factors.

Where y = relu(W x + b) is read by V y alone, dividing y by a factor per channel is dividing the rows of W and b, and V, whose
columns are multiplied, undoes it: the model computes what it did. A region holds every constant that has to change for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from qcompress.graph import Graph, Model, Node, Value
from qcompress.graph.edit import constant_array, is_constant
from qcompress.operators.channels import (
    RECURRENT,
    BlockedError,
    Edit,
    View,
    concatenated,
    is_homogeneous,
    parts,
    ranked,
    read_value,
    reader_edit,
    transposed,
    vector_edit,
    writer_edits,
)
from qcompress.types import Array


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
            edit = reader_edit(use.node, use.idx, seed) if use.node.graph is model.graph else None
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
                edit = reader_edit(node, use.idx, probe)
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
            if not known.holds(view):
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
        edit = reader_edit(node, index, view)
        if edit is not None:
            self.edits.append(edit)
        elif is_homogeneous(node, index, view):
            self.visit(node.outputs[0], view)
        elif node.op_type in ("Add", "Sub") and not node.domain:
            self.visit(node.outputs[0], ranked(node.outputs[0], view))
        elif node.op_type in ("Mul", "Div") and not node.domain and (node.op_type == "Mul" or index == 0):
            value = read_value(node, index)
            if self.through.setdefault(node, value) is not value or node.inputs[0] is node.inputs[1]:
                raise BlockedError(f"{node.op_type} {node.name!r} would be scaled twice")
            self.visit(node.outputs[0], ranked(node.outputs[0], view))
        elif node.op_type == "MatMul" and not node.domain and index == 1 and view.axis == -1:
            self.visit(node.outputs[0], ranked(node.outputs[0], view))
        elif node.op_type == "Transpose":
            self.visit(node.outputs[0], transposed(node, view, forward=True))
        elif node.op_type == "Concat" and not node.domain:
            self.visit(node.outputs[0], concatenated(node, index, view))
        elif node.op_type != "Shape":
            raise BlockedError(f"{node.op_type} {node.name!r} reads {read_value(node, index).name!r} too")

    def _write(self, value: Value, view: View) -> None:
        """Case by case how what writes a scaled tensor can write it scaled."""
        node = value.producer()
        if node is None or node.graph is not self.graph:
            raise BlockedError(f"tensor {value.name!r} is an input")
        if value is not node.outputs[0]:
            raise BlockedError(f"{node.op_type} {node.name!r} writes several tensors")
        own = writer_edits(node, view)
        if own:
            self.edits += own
        elif is_homogeneous(node, 0, view):
            self.visit(read_value(node, 0), view)
        elif node.op_type in ("Add", "Sub") and not node.domain:
            for index in range(2):
                self._part(node, index, view)
        elif node.op_type in ("Mul", "Div") and not node.domain:
            self._product(node, view)
        elif node.op_type == "MatMul" and view.axis == -1 and not is_constant(node.inputs[1]):
            self.visit(read_value(node, 1), ranked(read_value(node, 1), view))
        elif node.op_type == "Transpose":
            self.visit(read_value(node, 0), transposed(node, view, forward=False))
        elif node.op_type == "Concat" and not node.domain:
            for index, part in parts(node, view):
                self.visit(read_value(node, index), part)
        else:
            raise BlockedError(f"{node.op_type} {node.name!r} writes it")

    def _part(self, node: Node, index: int, view: View) -> None:
        """A summand is scaled with the sum."""
        if is_constant(node.inputs[index]):
            self.edits.append(vector_edit(node, index, view))
        else:
            self.visit(read_value(node, index), ranked(read_value(node, index), view))

    def _product(self, node: Node, view: View) -> None:
        """One factor of a product is scaled: a constant, or the first activation that can be."""
        if node in self.through:
            return
        reasons = []
        for index in range(2 if node.op_type == "Mul" else 1):
            value = read_value(node, index)
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
