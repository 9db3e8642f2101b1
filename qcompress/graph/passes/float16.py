"""A float16 graph computes in float32: the CPU provider has no float16 kernels and casts around every node itself."""

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

HALF_STORED = "qcompress.float16"
"""Mark on an initializer that was float16 in the file; what is not compressed is stored as float16 again."""


def widen_float16(model: Model) -> int:
    """Make every float16 tensor of the main graph float32, keeping the types of inputs and outputs by Cast nodes."""
    halves = [
        value for graph in model.ir.graphs() for value in graph.initializers.values() if value.dtype == ir.DataType.FLOAT16
    ]
    if not halves and not any(value.dtype == ir.DataType.FLOAT16 for value in [*model.graph.inputs, *model.graph.outputs]):
        return 0
    common.ShapeInferencePass()(model.ir)
    _keep_interface(model)
    for value in halves:
        array = constant_array(value)
        if array is not None:
            set_constant(value, array.astype(np.float32))
            value.meta[HALF_STORED] = True
    for graph in model.ir.graphs():
        _widen_nodes(graph)
    return len(halves)


def narrow_float16(model: Model) -> int:
    """Store what is still float32 but was float16 in the file as float16 behind a Cast the runtime folds at load."""
    narrowed = 0
    names = taken_names(model.graph)
    for graph in model.ir.graphs():
        editor = Editor(graph, names)
        for value in list(graph.initializers.values()):
            array = constant_array(value)
            half_stored = array is not None and value.meta.get(HALF_STORED) and array.dtype == np.float32
            if array is None or not half_stored or not value.uses() or value.is_graph_output():
                continue
            with np.errstate(over="ignore"):
                half = array.astype(np.float16)
            if not np.array_equal(half.astype(np.float32), array) or array.size < 64:
                continue
            stored = editor.constant(f"{value.name}_half", half)
            cast = editor.node("Cast", [stored], f"{value.name}_float", {"to": FLOAT})
            replace_uses(value, cast)
            graph.insert_before(graph[0], [node for node in [cast.producer()] if node is not None])
            del graph.initializers[value.name or ""]
            narrowed += 1
    return narrowed


def _keep_interface(model: Model) -> None:
    """Cast float16 inputs to float32 behind the input, and back to float16 before the output."""
    graph = model.graph
    editor = Editor(graph)
    for value in graph.inputs:
        value.meta["interface"] = True
        if value.dtype == ir.DataType.FLOAT16 and value.uses():
            uses = list(value.uses())
            wide = editor.node("Cast", [value], f"{value.name}_float", {"to": FLOAT})
            replace_uses(value, wide, [(use.node, use.idx) for use in uses])
            graph.insert_before(graph[0], [node for node in [wide.producer()] if node is not None])
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype != ir.DataType.FLOAT16 or value.is_graph_input():
            continue
        name, value.name = value.name or "", editor.name(f"{value.name}_float")
        narrow = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        narrow.meta["interface"] = True
        cast = ir.Node(
            "",
            "Cast",
            [value],
            [ir.AttrInt64("to", int(ir.DataType.FLOAT16))],
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
            if int_attribute(node, attribute_name, 0) == int(ir.DataType.FLOAT16):
                node.attributes[attribute_name] = ir.AttrInt64(attribute_name, int(ir.DataType.FLOAT))
        filled = node.attributes.get("value")
        if filled is not None and filled.type == ir.AttributeType.TENSOR and filled.as_tensor().dtype == ir.DataType.FLOAT16:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filled.as_tensor().numpy().astype(np.float32)))
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT16:
                output.type = float_type
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT16 and not value.meta.get("interface"):
            value.type = float_type
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        to_float = node.op_type == "Cast" and not node.domain and int_attribute(node, "to", 0) == FLOAT
        if to_float and source is not None and source.dtype == ir.DataType.FLOAT and not node.outputs[0].is_graph_output():
            bypass(node, source)
