"""Constants in one place: Constant nodes become initializers, and nodes fed only by small constants are evaluated."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from qcompress.graph.edit import Editor, constant_array, is_constant, node_graphs, replace_uses
from qcompress.graph.model import Model

FOLDED_LIMIT = 1 << 16
"""Bytes above which a computed constant is left to the runtime, so that folding never makes the file much larger."""

_SHAPE_WORK = (
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Range",
    "Reshape",
    "Shape",
    "Slice",
)
_MORE_SHAPE_WORK = ("Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Equal")
_ARITHMETIC = ("Add", "Div", "Floor", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub")
_FOLDABLE = frozenset((*_SHAPE_WORK, *_MORE_SHAPE_WORK, *_ARITHMETIC))


def lift_constants(model: Model) -> int:
    """Turn Constant nodes of every graph into initializers that keep the output's name."""
    return int(bool(common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model.ir).modified))


def fold_constants(model: Model) -> int:
    """Evaluate nodes of the main graph whose inputs are all constant and small, with ONNX's reference evaluator."""
    graph = model.graph
    known: set[ir.Value] = set()
    folded: list[ir.Node] = []
    for node in graph:
        if node.domain or node.op_type not in _FOLDABLE or node_graphs(node) or not node.inputs:
            continue
        if _is_shared_table(node):
            continue
        if all(value is None or value in known or _small(value) for value in node.inputs):
            folded.append(node)
            known.update(node.outputs)
    if not folded:
        return 0
    arrays = _evaluate(model, folded)
    editor = Editor(graph)
    changed = 0
    for node in reversed(folded):
        for output in node.outputs:
            array = arrays.get(output.name or "")
            if array is None or array.nbytes > FOLDED_LIMIT or output.is_graph_output() or not output.uses():
                continue
            replace_uses(output, editor.constant(f"{output.name}_value", array))
            changed += 1
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    return changed


def _is_shared_table(node: ir.Node) -> bool:
    """Whether the node turns a weight that others read too: evaluated, it would be stored twice."""
    source = node.inputs[0]
    return node.op_type == "Transpose" and source is not None and is_constant(source) and len(source.uses()) > 1


def _small(value: ir.Value) -> bool:
    array_like = value.const_value
    return array_like is not None and array_like.nbytes <= FOLDED_LIMIT and constant_array(value) is not None


def _evaluate(model: Model, nodes: list[ir.Node]) -> dict[str, np.ndarray]:
    """Run the constant nodes as a model of their own; empty when the evaluator cannot."""
    inside = {output for node in nodes for output in node.outputs}
    constants = {value for node in nodes for value in node.inputs if value is not None and value not in inside}
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [ir.to_proto(node) for node in nodes],
            "constants",
            [],
            [onnx.ValueInfoProto(name=output.name) for node in nodes for output in node.outputs if output.name],
            [onnx.numpy_helper.from_array(np.asarray(constant_array(value)), value.name) for value in constants],
        ),
        opset_imports=[onnx.helper.make_opsetid("", model.opset)],
    )
    proto.ir_version = model.ir.ir_version
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto).run(None, {})
    except Exception:  # the evaluator lacks an operator or version: the runtime will fold it at load as it did before
        return {}
    names = [output.name or "" for node in nodes for output in node.outputs if output.name]
    return {name: np.asarray(array) for name, array in zip(names, results, strict=True)}
