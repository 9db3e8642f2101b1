"""Raise the default operator set, only as far as a form needs."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from qcompress.graph.external import embed_external_data
from qcompress.graph.model import Model, check_proto, first_words
from qcompress.graph.tensors import IN_MEMORY

_IR_VERSION = {7: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 19: 9, 21: 10, 23: 11}
"""Operator set -> the IR version it came with. Source: onnx/docs/Versioning.md, released versions."""


def raise_opset(model: Model, wanted: int) -> str:
    """Convert the model to operator set ``wanted`` in place; returns "" or the reason it could not be done."""
    if model.opset >= wanted:
        return ""
    if model.ir.functions:
        return f"operator set {model.opset} cannot be raised to {wanted}: the model has functions that cannot be inlined"
    try:
        proto = _without_weights(model.ir)
        converted = version_converter.convert_version(proto, wanted)
        if not proto.graph.value_info:
            del converted.graph.value_info[:]  # the converter infers shapes; runtimes do that themselves
        converted.ir_version = max(converted.ir_version, model.ir.ir_version, ir_version_of(wanted))
        check_proto(converted, model.path)
        content = ir.from_proto(converted)
        _restore_weights(content, model.ir)
        model.ir = content
    except Exception as error:  # the converter raises RuntimeError for operators it has no adapter for
        return f"operator set {model.opset} cannot be raised to {wanted}: {first_words(error)}"
    return ""


def ir_version_of(opset: int) -> int:
    """The IR version that the operator set came with."""
    return max(version for first, version in _IR_VERSION.items() if first <= max(opset, min(_IR_VERSION)))


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model with large weights as inputs that nobody feeds, since the converter copies what it is given."""
    content = model.clone()
    for name, value in list(content.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= IN_MEMORY or value.is_graph_input() or value.is_graph_output():
            continue
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        del content.graph.initializers[name]
        value.const_value = None
        content.graph.inputs.append(value)
    proto = ir.to_proto(content)
    embed_external_data(proto)  # of bodies, and what is small
    stored = {tensor.name for tensor in proto.graph.initializer}
    needed = [info for info in proto.graph.value_info if info.name not in stored]  # a tensor knows its type itself
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(needed)
    return proto


def _restore_weights(content: ir.Model, original: ir.Model) -> None:
    """Make initializers of the inputs that were some, in their old order."""
    given = {value.name for value in original.graph.inputs}
    inputs = {value.name or "": value for value in content.graph.inputs if value.name not in given}
    stored = content.graph.initializers
    for name, value in original.graph.initializers.items():
        mine = stored.pop(name) if name in stored else inputs.get(name)
        if mine is None:
            continue
        if name in inputs:
            content.graph.inputs.remove(mine)
            mine.const_value = value.const_value
        content.graph.register_initializer(mine)
