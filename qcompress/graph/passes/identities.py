"""Constants behind Identity nodes are read directly, so that shared weights are seen as shared."""

from __future__ import annotations

import onnx_ir as ir

from qcompress.graph.edit import bypass, is_constant
from qcompress.graph.model import Model


def read_identities(model: Model) -> int:
    """Let the users of an Identity of a constant read the constant."""
    changed = 0
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Identity" and node.domain == "" and isinstance(node.graph, ir.Graph):
            source = node.inputs[0]
            if is_constant(source) and source is not None and not node.outputs[0].is_graph_output():
                bypass(node, source)
                changed += 1
    return changed
