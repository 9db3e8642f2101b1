"""A number that a tensor is multiplied by, or that is added to it, moves into the convolutions that read the tensor.

``conv(g x) = (g W) x``; ``conv(x + c) = W x + c sum(W)`` where nothing is padded. In ``g x + c`` before a padded convolution
the gain moves and ``x + c / g`` stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompress.graph.edit import (
    Editor,
    bypass,
    constant_array,
    constant_number,
    ints_attribute,
    only_user,
    set_constant,
    string_attribute,
)
from qcompress.graph.model import Model

_LEAST_GAIN = 1e-3
"""A smaller gain does not change places with a shift: dividing the shift by it would lose digits."""


def fold_scales(model: Model) -> int:
    """Fold single numbers into the convolutions behind them; weights that others read stay as they are."""
    editor = Editor(model.graph)
    changed = 0
    for node in list(model.graph):
        if node.graph is model.graph and not node.domain and node.op_type in ("Mul", "Div", "Add", "Sub"):
            changed += _fold_gain(node, editor) if node.op_type in ("Mul", "Div") else _fold_shift(node, editor)
    return changed


def _operand(node: ir.Node) -> tuple[ir.Value, float] | None:
    """What the node does arithmetic on, and the float32 number it does it with; Div and Sub count as Mul and Add."""
    first = constant_number(node.inputs[0]) is not None
    value, constant = (node.inputs[1], node.inputs[0]) if first else (node.inputs[0], node.inputs[1])
    array, number = constant_array(constant), constant_number(constant)
    if value is None or array is None or number is None or array.dtype != np.float32 or array.ndim > 1:
        return None
    if first and node.op_type in ("Div", "Sub"):
        return None
    if node.op_type == "Div":
        return None if number == 0.0 else (value, 1.0 / number)
    return value, -number if node.op_type == "Sub" else number


def _convolutions(value: ir.Value) -> list[ir.Node]:
    """The users of a tensor when they all are convolutions with weights and biases of their own, else none."""
    users = [use.node for use in value.uses()]
    fits = all(_is_own_convolution(user, value) for user in users) and not value.is_graph_output()
    return users if fits and len(set(users)) == len(users) else []


def _is_own_convolution(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type != "Conv" or node.domain or node.inputs[0] is not source:
        return False
    for value in node.inputs[1:]:
        array = constant_array(value)
        shared = value is not None and (len(value.uses()) != 1 or value.is_graph_output())
        if value is not None and (shared or array is None or array.dtype != np.float32):
            return False
    return True


def _is_padded(node: ir.Node) -> bool:
    return any(ints_attribute(node, "pads")) or string_attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _fold_gain(node: ir.Node, editor: Editor) -> int:
    """Case 1: convolutions read the product. Case 2: they read the product plus a number."""
    found = _operand(node)
    if found is None or node.outputs[0].is_graph_output():
        return 0
    source, gain = found
    readers = _convolutions(node.outputs[0])
    shift = None
    if not readers and (add := only_user(node.outputs[0])) is not None and add.op_type in ("Add", "Sub") and not add.domain:
        shift = _operand(add)  # Case 2
        readers = [] if shift is None or abs(gain) < _LEAST_GAIN else _convolutions(add.outputs[0])
    if not readers or not _scale_weights(readers, gain):
        return 0
    if shift is not None and add is not None:
        constant = editor.constant(f"{add.outputs[0].name}_shift", np.asarray(shift[1] / gain, dtype=np.float32))
        moved = editor.node("Add", [source, constant], f"{add.outputs[0].name}_moved")
        editor.name_node(moved)
        editor.place_before(add, [moved])
        bypass(add, moved)
        editor.graph.remove(node, safe=True)
        if (added := moved.producer()) is not None:
            _fold_shift(added, editor)
        return 1
    bypass(node, source)
    return 1


def _scale_weights(readers: list[ir.Node], gain: float) -> bool:
    scaled = [(reader.inputs[1], constant_array(reader.inputs[1])) for reader in readers]
    with np.errstate(all="ignore"):
        arrays = [
            (value, (array * gain).astype(np.float32)) for value, array in scaled if value is not None and array is not None
        ]
    if not all(np.all(np.isfinite(array)) for _, array in arrays):
        return False
    for value, array in arrays:
        set_constant(value, array)
    return True


def _fold_shift(node: ir.Node, editor: Editor) -> int:
    found = _operand(node)
    readers = _convolutions(node.outputs[0])
    if found is None or not readers or any(_is_padded(reader) for reader in readers):
        return 0
    source, shift = found
    for reader in readers:
        weight, bias = constant_array(reader.inputs[1]), constant_array(reader.inputs[2] if len(reader.inputs) > 2 else None)
        if weight is None:
            raise ValueError(f"{reader.name} has no weight")
        moved = shift * weight.reshape(len(weight), -1).astype(np.float64).sum(axis=1)  # (out, in, ..) -> (out,)
        total = np.asarray(moved if bias is None else moved + bias, dtype=np.float32)
        target = reader.inputs[2] if len(reader.inputs) > 2 else None
        if target is not None:
            set_constant(target, total)
            continue
        if len(reader.inputs) < 3:
            reader.resize_inputs(3)
        reader.replace_input_with(2, editor.constant(f"{reader.name}_bias", total))
    bypass(node, source)
    return 1
