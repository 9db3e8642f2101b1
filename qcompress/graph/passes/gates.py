"""``x + x * h`` becomes ``x * (h + 1)``: where h is a gate of one number a channel, one pass over x instead of two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompress.graph.edit import Editor, bypass, is_constant, only_user
from qcompress.graph.model import Model


def join_gates(model: Model) -> int:
    """Rewrite residual gates of the main graph; no other order of the operands costs more than before."""
    editor = Editor(model.graph)
    changed = 0
    for add in list(model.graph):
        found = _residual(add)
        if found is None:
            continue
        product, index = found
        gate = product.inputs[index]
        name = f"{product.outputs[0].name}_gate"
        one = editor.constant(f"{name}_one", np.asarray(1.0, dtype=np.float32))
        raised = editor.node("Add", [gate, one], name)
        editor.name_node(raised)
        editor.place_before(product, [raised])
        product.replace_input_with(index, raised)
        bypass(add, product.outputs[0])
        changed += 1
    return changed


def _residual(add: ir.Node) -> tuple[ir.Node, int] | None:
    """The product ``x * h`` in ``x + x * h`` and which of its inputs is h, a sigmoid in float32."""
    if add.op_type != "Add" or add.domain or add.outputs[0].is_graph_output():
        return None
    for term, other in ((add.inputs[0], add.inputs[1]), (add.inputs[1], add.inputs[0])):
        product = None if term is None else term.producer()
        if term is None or product is None or product.op_type != "Mul" or product.domain or only_user(term) is not add:
            continue
        for index in (0, 1):
            if product.inputs[1 - index] is other and not is_constant(other) and _is_sigmoid(product.inputs[index]):
                return product, index
    return None


def _is_sigmoid(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type in ("Sigmoid", "HardSigmoid") and not producer.domain
