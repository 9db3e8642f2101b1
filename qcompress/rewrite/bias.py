"""Shift biases by what rounding the weights takes from each channel's mean, adding a bias where there is none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qcompress.graph import Model, Node
from qcompress.graph.edit import Editor, constant_array, set_constant
from qcompress.operators.flow import bias_holder
from qcompress.types import Array


def shift_biases(model: Model, shifts: Mapping[str, tuple[float, ...]]) -> None:
    """Add the shifts to the biases of the named nodes of the main graph."""
    editor = Editor(model.graph)
    for node in model.graph:
        shift = shifts.get(node.name or "")
        if shift is not None:
            _shift(editor, node, np.asarray(shift, dtype=np.float64))


def _shift(editor: Editor, node: Node, shift: Array) -> None:
    holder = bias_holder(node)
    if holder is None:
        return
    owner, index = holder
    value = owner.inputs[index] if len(owner.inputs) > index else None
    bias = constant_array(value)
    new = (shift if bias is None else bias.astype(np.float64) + shift).astype(np.float32)
    own = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
    if own and value is not None and new.shape == (bias.shape if bias is not None else None):
        set_constant(value, new)
        return
    if len(owner.inputs) <= index:
        owner.resize_inputs(index + 1)
    owner.replace_input_with(index, editor.constant(f"{node.name}_bias", new))
