"""How many products each node sums: what channels cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from qcompress.graph import Model, Node
from qcompress.graph.edit import int_attribute
from qcompress.structure.groups import Groups
from qcompress.structure.rules.recurrent import GATES

Shape = tuple[int, ...]


def multiply_adds(model: Model, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Node -> multiply-adds of one run at these shapes, for every Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN.

    Nodes of which a shape is not known are left out. ``shapes``: of tensors; those of constants count, where there are any, as
    if the constants had them.
    """
    found: dict[str, int] = {}
    for node in model.graph:
        known = [_shape(node, index, shapes) for index in range(min(len(node.inputs), 3))]
        output = next((shapes.get(value.name) for value in node.outputs if value.name), None)
        if node.domain or len(known) < 2 or known[0] is None or known[1] is None:
            continue
        count = _products(node, known, output)
        if count is not None:
            found[node.name or ""] = count
    return found


def shapes_after(model: Model, groups: Groups, shapes: Mapping[str, Shape], counts: Mapping[str, int]) -> dict[str, Shape]:
    """The shapes of all tensors and constants when so many units of each group stay, without cutting.

    Args:
        model: uncut.
        groups: of ``find_groups``.
        shapes: tensor -> shape in the uncut model.
        counts: group -> units that stay; groups that are not named stay whole.
    """
    found = {name: list(shape) for name, shape in shapes.items()}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            found[name] = list(value.const_value.shape.numpy())
    for group in groups.groups:
        gone = group.units - counts.get(group.name, group.units)
        for piece in group.slices:
            found[piece.constant][piece.axis] -= gone * piece.indices.shape[1]
        for extent in group.tensors:
            found[extent.tensor][extent.axis] -= gone * extent.share
    return {name: tuple(shape) for name, shape in found.items()}


def _products(node: Node, known: Sequence[Shape | None], output: Shape | None) -> int | None:
    left, right = known[0] or (), known[1] or ()
    if (
        node.op_type in GATES
    ):  # (sequence, batch, in), (directions, gates * hidden, in), (directions, gates * hidden, hidden)
        return None if known[2] is None else prod(left[:2]) * prod(right[:2]) * (right[2] + known[2][2])
    if node.op_type == "ConvTranspose":
        return prod(left) * prod(right[1:])
    if output is None:
        return None
    if node.op_type == "Conv":
        return prod(output) * prod(right[1:])
    if node.op_type == "Gemm":
        return prod(output) * left[0 if int_attribute(node, "transA", 0) else 1]
    return prod(output) * left[-1] if node.op_type == "MatMul" else None


def _shape(node: Node, index: int, shapes: Mapping[str, Shape]) -> Shape | None:
    value = node.inputs[index]
    if value is None:
        return None
    shape = shapes.get(value.name or "")
    return tuple(value.const_value.shape.numpy()) if shape is None and value.const_value is not None else shape
