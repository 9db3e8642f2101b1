"""Remove nodes nobody reads and initializers nobody uses."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qcompress.graph.edit import ADDED
from qcompress.graph.model import Model


def remove_unused(model: Model) -> int:
    """Drop dead nodes, initializers and functions; returns 1 when anything changed."""
    changed = bool(common.RemoveUnusedNodesPass()(model.ir).modified)
    functions: ir.passes.InPlacePass = common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]  # of onnx_ir
    changed |= bool(functions(model.ir).modified)
    for body in model.graph.subgraphs():  # the pass looks after the initializers of the main graph only
        for value in list(body.initializers.values()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del body.initializers[value.name or ""]
                changed = True
    return int(changed)


def forget_made_up_names(model: Model) -> None:
    """Let added nodes go without the names the graph library gave them; their outputs have names of their own."""
    for graph in model.ir.graphs():
        for node in graph:
            if node.meta.get(ADDED):
                node.name = None
