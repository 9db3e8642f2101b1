"""Model-local functions become ordinary nodes, so that the weights they use are found."""

from __future__ import annotations

from onnx_ir.passes import common

from qcompress.graph.model import Model


def inline_functions(model: Model) -> int:
    """Put the body of every function in place of its calls; returns how many functions there were.

    Left as they are: functions the inliner refuses (another operator set than the model's, graphs as attributes). What
    they use then counts as used by an unknown operator.
    """
    functions = len(model.ir.functions)
    if functions:
        inlined = model.ir.clone()  # the inliner may give up half way
        try:
            common.InlinePass()(inlined)
        except Exception:  # ValueError wrapped in classes of the pass machinery
            return 0
        model.ir = inlined
    return functions
