"""Zero padding in a node of its own moves into the convolution or pooling behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompress.graph.edit import bypass, constant_array, float_attribute, ints_attribute, string_attribute
from qcompress.graph.model import Model


def fold_pads(model: Model) -> int:
    """Fold Pad into every Conv that reads it, when it pads spatial axes with constant zeros.

    Left alone: negative or computed pads, padded batch or channel axes, other modes and values, other readers.
    """
    changed = 0
    for node in list(model.graph):
        if node.op_type != "Pad" or node.domain or node.outputs[0].is_graph_output():
            continue
        pads = _zero_pads(node)
        readers = [user for user, _ in node.outputs[0].uses()]
        if pads is None or not readers or not all(_can_pad(reader, node) for reader in readers):
            continue
        rank = len(pads) // 2
        begins, ends = pads[2:rank], pads[rank + 2 :]
        if any(pads[:2]) or any(pads[rank : rank + 2]) or min(pads) < 0:
            continue
        for reader in readers:
            own = ints_attribute(reader, "pads") or (0,) * (2 * (rank - 2))
            reader.attributes.pop("auto_pad", None)  # VALID would overrule the pads
            total = [int(a + b) for a, b in zip(own, [*begins, *ends], strict=True)]
            reader.attributes["pads"] = ir.AttrInt64s("pads", total)
        source = node.inputs[0]
        if source is not None:
            bypass(node, source)
            changed += 1
    return changed


def _can_pad(reader: ir.Node, pad: ir.Node) -> bool:
    automatic = string_attribute(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return reader.op_type == "Conv" and not reader.domain and not automatic and reader.inputs[0] is pad.outputs[0]


def _zero_pads(node: ir.Node) -> tuple[int, ...] | None:
    """(begin per axis, end per axis) of a constant zero padding, or None."""
    if string_attribute(node, "mode", "constant") != "constant":
        return None
    if len(node.inputs) < 2:
        zero = float_attribute(node, "value", 0.0) == 0.0
        return (ints_attribute(node, "pads") or None) if zero else None  # before opset 11 attributes
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        value = constant_array(node.inputs[2])
        if value is None or np.any(value != 0):
            return None
    pads = constant_array(node.inputs[1])
    return None if pads is None else tuple(int(pad) for pad in pads.ravel())
