"""Initializers as the forms expect them: not behind Identity, and inputs only where a caller may really feed them."""

from __future__ import annotations

import onnx_ir as ir

from qcompress.graph.edit import bypass, is_constant
from qcompress.graph.model import Model


def tidy_initializers(model: Model) -> int:
    """Read constants through Identity nodes, and drop initializers from the inputs of old exports.

    Case 1: every initializer is also an input. The exporter listed them all (IR version 3 demanded it); none was meant
    to be fed, so they become plain constants.
    Case 2: only some are. A caller may feed them: they stay inputs, and their weights are kept.
    """
    graph = model.graph
    listed = [value for value in graph.inputs if value.name in graph.initializers]
    changed = 0
    if listed and len(listed) == len(graph.initializers):  # Case 1
        for value in listed:
            graph.inputs.remove(value)
        changed += len(listed)
    model.ir.ir_version = max(model.ir.ir_version, 4)  # before 4 every initializer had to be an input
    for node in list(graph.all_nodes()):
        if node.op_type == "Identity" and node.domain == "" and isinstance(node.graph, ir.Graph):
            source = node.inputs[0]
            if is_constant(source) and source is not None and not node.outputs[0].is_graph_output():
                bypass(node, source)
                changed += 1
    return changed
