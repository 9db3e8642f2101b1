"""A graph in float16 or bfloat16 computes in float32, and what is not compressed is stored in its own type.

The CPU provider has no kernels of either type: around float16 nodes it casts by itself, and graphs in bfloat16 it does not
load (onnxruntime 1.31.1); a Cast of either is all it can do. So activations become float32, weights are compressed from
their own values, which float32 holds exactly, and inputs and outputs keep their types behind Cast nodes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from qcompress.graph.edit import (
    FLOAT,
    Editor,
    bypass,
    constant_array,
    int_attribute,
    replace_uses,
    set_constant,
    taken_names,
)
from qcompress.graph.model import Model
from qcompress.types import Array

HALF_STORED = "qcompress.half"
"""Mark on an initializer that was in a half type in the file, and which: what is not compressed is stored in it again."""

_HALVES = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}

_LEAST_NARROWED = 64
"""Elements from which the half type saves more than a Cast node takes."""


def widen_halves(model: Model) -> int:
    """Make every float16 and bfloat16 tensor float32, keeping the types of inputs and outputs by Cast nodes."""
    halves = [value for graph in model.ir.graphs() for value in graph.initializers.values() if value.dtype in _HALVES]
    if not halves and not any(value.dtype in _HALVES for value in [*model.graph.inputs, *model.graph.outputs]):
        return 0
    common.ShapeInferencePass()(model.ir)
    _keep_interface(model)
    for value in halves:
        array = constant_array(value)
        if array is not None and value.dtype is not None:
            half = _HALVES[value.dtype]
            set_constant(value, array.astype(np.float32))
            value.meta[HALF_STORED] = half
    for graph in model.ir.graphs():
        _widen_nodes(graph)
    return len(halves)


def narrow_halves(model: Model) -> int:
    """Store what is still float32 but was a half type in the file in that type, behind a Cast the runtime folds at load."""
    narrowed = 0
    names = taken_names(model.graph)
    for graph in model.ir.graphs():
        editor = Editor(graph, names)
        for value in list(graph.initializers.values()):
            if HALF_STORED not in value.meta or not value.uses() or value.is_graph_output():
                continue
            half = _narrowed(constant_array(value), value.meta[HALF_STORED])
            if half is None:
                continue
            stored = editor.constant(f"{value.name}_half", half)
            cast = editor.node("Cast", [stored], f"{value.name}_float", {"to": FLOAT})
            replace_uses(value, cast)
            graph.insert_before(graph[0], [node for node in [cast.producer()] if node is not None])
            del graph.initializers[value.name or ""]
            narrowed += 1
    return narrowed


def _narrowed(array: Array | None, name: str) -> Array | None:
    """A float32 array in a half type, None where that would change it or save nothing."""
    if array is None or array.dtype != np.float32 or array.size < _LEAST_NARROWED:
        return None
    (dtype,) = (dtype for dtype, known in _HALVES.items() if known == name)
    with np.errstate(over="ignore"):
        half: Array = array.astype(dtype.numpy())
    return half if np.array_equal(half.astype(np.float32), array) else None


def _keep_interface(model: Model) -> None:
    """Cast half inputs to float32 behind the input, and back before the output."""
    graph = model.graph
    editor = Editor(graph)
    for value in graph.inputs:
        value.meta["interface"] = True
        if value.dtype in _HALVES and value.uses():
            uses = list(value.uses())
            wide = editor.node("Cast", [value], f"{value.name}_float", {"to": FLOAT})
            replace_uses(value, wide, [(use.node, use.idx) for use in uses])
            graph.insert_before(graph[0], [node for node in [wide.producer()] if node is not None])
    for index, value in enumerate(list(graph.outputs)):
        half = value.dtype
        if half is None or half not in _HALVES or value.is_graph_input():
            continue
        name, value.name = value.name or "", editor.name(f"{value.name}_float")
        narrow = ir.Value(name=name, shape=value.shape, type=ir.TensorType(half))
        narrow.meta["interface"] = True
        cast = ir.Node(
            "",
            "Cast",
            [value],
            [ir.AttrInt64("to", int(half))],
            outputs=[narrow],
            name=editor.name(f"{name}_half"),
        )
        graph.append(cast)
        graph.outputs[index] = narrow


def _widen_nodes(graph: ir.Graph) -> None:
    float_type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        if any(output.meta.get("interface") for output in node.outputs):
            continue
        for attribute_name in ("to", "dtype"):
            if int_attribute(node, attribute_name, 0) in map(int, _HALVES):
                node.attributes[attribute_name] = ir.AttrInt64(attribute_name, int(ir.DataType.FLOAT))
        filled = node.attributes.get("value")
        if filled is not None and filled.type == ir.AttributeType.TENSOR and filled.as_tensor().dtype in _HALVES:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filled.as_tensor().numpy().astype(np.float32)))
        for output in node.outputs:
            if output.dtype in _HALVES:
                output.type = float_type
    for value in graph.inputs:
        if value.dtype in _HALVES and not value.meta.get("interface"):
            value.type = float_type
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        to_float = node.op_type == "Cast" and not node.domain and int_attribute(node, "to", 0) == FLOAT
        if to_float and source is not None and source.dtype == ir.DataType.FLOAT and not node.outputs[0].is_graph_output():
            bypass(node, source)
