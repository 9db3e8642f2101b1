"""Cut channels out of a model: constants are sliced, and every number that says how many there are is rewritten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from qcompress.graph import Model, Node
from qcompress.graph.edit import Editor, constant_array, set_attribute, set_constant
from qcompress.structure.groups import ChannelGroup, Groups
from qcompress.types import Array


def cut(model: Model, groups: Groups, kept: Mapping[str, Array]) -> None:
    """Remove units, in place: what is left computes what the model computes with zeros for them in all consumers.

    Args:
        model: as it was when the groups were found.
        groups: of ``find_groups``.
        kept: group name -> indices of the units to keep, ascending; groups that are not named stay whole.

    Raises:
        KeyError: there is no such group.
        ValueError: no unit of a group would be left, or there is no such unit.
    """
    removed = {name: _removed(groups[name], units) for name, units in kept.items()}
    removed = {name: units for name, units in removed.items() if len(units)}
    _slice_constants(model, groups, removed)
    _rewrite_numbers(model, groups, removed)
    _shrink_tensors(model, groups, removed)
    nodes = {node.name: node for node in model.graph}
    for node, index in [place for name in removed for place in groups[name].left_out]:
        nodes[node].replace_input_with(index, None)


def _removed(group: ChannelGroup, kept: Array) -> Array:
    kept = np.asarray(kept)
    inside = len(kept) > 0 and kept[0] >= 0 and kept[-1] < group.units
    if not inside or np.any(np.diff(kept) <= 0):
        raise ValueError(f"group {group.name!r} has units 0 to {group.units - 1}: keep some of them, in ascending order")
    return np.setdiff1d(np.arange(group.units), kept)


def _slice_constants(model: Model, groups: Groups, removed: Mapping[str, Array]) -> None:
    gone: dict[str, dict[int, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for name, units in removed.items():
        for piece in groups[name].slices:
            gone[piece.constant][piece.axis].append(piece.indices[units].reshape(-1))
    for constant, axes in gone.items():
        value = model.graph.initializers[constant]
        array = constant_array(value)
        if array is None:
            raise ValueError(f"{constant!r} is not a constant")
        for axis, places in axes.items():
            array = np.delete(array, np.concatenate(places), axis)
        set_constant(value, np.ascontiguousarray(array))


def _rewrite_numbers(model: Model, groups: Groups, removed: Mapping[str, Array]) -> None:
    values: dict[tuple[str, str | int, tuple[str, int] | None], list[int]] = {}
    for name, units in removed.items():
        for number in groups[name].numbers:
            slot = values.setdefault((number.node, number.place, number.reader), list(number.values))
            slot[number.element] -= number.share * len(units)
    if not values:
        return
    nodes, editor = {node.name: node for node in model.graph}, Editor(model.graph)
    for (name, place, reader), numbers in values.items():
        if isinstance(place, str):
            set_attribute(nodes[name], place, numbers[0])
        else:
            node = nodes[name] if reader is None else _own_concat(nodes[reader[0]], reader[1], editor)
            _write_input(node, place, numbers, editor)


def _own_concat(reader: Node, index: int, editor: Editor) -> Node:
    """The Concat that makes a shape for one node, written once more when others read it too."""
    value = reader.inputs[index]
    joined = None if value is None else value.producer()
    if value is None or joined is None:
        raise ValueError(f"{reader.name!r} does not read a computed shape")
    if len(value.uses()) == 1 and not value.is_graph_output():
        return joined
    copy = editor.node("Concat", joined.inputs, value.name or "shape", {"axis": 0})
    copy.type, copy.shape = value.type, value.shape
    editor.place_before(reader, [copy])
    reader.replace_input_with(index, copy)
    return _own_concat(reader, index, editor)


def _write_input(node: Node, index: int, numbers: list[int], editor: Editor) -> None:
    """Give a node a constant of its own as an input; the old one may be read by others."""
    old = node.inputs[index] if index < len(node.inputs) else None
    types = [value.dtype.numpy() for value in (old, *node.inputs) if value is not None and value.dtype is not None]
    integers = [dtype for dtype in types if np.issubdtype(dtype, np.integer)]
    array = np.asarray(numbers, dtype=integers[0] if integers else np.int64)
    stem = (old.name if old is not None else None) or f"{node.name}/sizes"
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, editor.constant(stem, array))
    if node.op_type == "Split":
        node.attributes.pop("num_outputs", None)


def _shrink_tensors(model: Model, groups: Groups, removed: Mapping[str, Array]) -> None:
    """Rewrite the sizes that the model says of tensors between nodes, where it says numbers."""
    made = {value.name: value for node in model.graph for value in node.outputs}
    for name, units in removed.items():
        for extent in groups[name].tensors:
            value = made[extent.tensor]
            size = None if value.shape is None else value.shape[extent.axis]
            if value.shape is not None and isinstance(size, int):
                if value.shape.frozen:
                    value.shape = value.shape.copy()
                value.shape[extent.axis] = size - extent.share * len(units)
