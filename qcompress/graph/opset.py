"""Raise the default operator set, only as far as a form needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx import version_converter

from qcompress.graph.model import Model, check_proto, first_words

_IR_VERSION = {13: 7, 14: 7, 15: 8, 19: 9, 21: 10, 23: 11}
"""Operator set -> the IR version it came with. Source: onnx/docs/Versioning.md, released versions."""


def raise_opset(model: Model, wanted: int) -> str:
    """Convert the model to operator set ``wanted`` in place; returns "" or the reason it could not be done."""
    if model.opset >= wanted:
        return ""
    if model.ir.functions:
        return f"operator set {model.opset} cannot be raised to {wanted}: the model has functions that cannot be inlined"
    try:
        proto = model.to_proto()
        converted = version_converter.convert_version(proto, wanted)
        if not proto.graph.value_info:
            del converted.graph.value_info[:]  # the converter infers shapes; runtimes do that themselves
        converted.ir_version = max(converted.ir_version, model.ir.ir_version, _IR_VERSION[wanted])
        check_proto(converted, model.path)
        model.ir = ir.from_proto(converted)
    except Exception as error:  # the converter raises RuntimeError for operators it has no adapter for
        return f"operator set {model.opset} cannot be raised to {wanted}: {first_words(error)}"
    return ""
