"""Remove nodes nobody reads and initializers nobody uses."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qcompress.graph.model import Model


def remove_unused(model: Model) -> int:
    """Drop dead nodes, initializers and functions; returns 1 when anything changed."""
    changed = bool(common.RemoveUnusedNodesPass()(model.ir).modified)
    functions: ir.passes.InPlacePass = common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]  # of onnx_ir
    changed |= bool(functions(model.ir).modified)
    return int(changed)
