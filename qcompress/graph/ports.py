"""Inputs and outputs given to a graph: a new input, an initializer that callers feed from now on, other outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

_TYPES = {"float32": ir.DataType.FLOAT, "float64": ir.DataType.DOUBLE}


def add_input(graph: ir.Graph, name: str, dtype: str) -> ir.Value:
    """A new float input of any shape; ``dtype``: float32 or float64."""
    value = ir.Value(name=name, type=ir.TensorType(_TYPES[dtype]))
    graph.inputs.append(value)
    return value


def feed_initializer(graph: ir.Graph, name: str) -> ir.Value:
    """Make an input of an initializer; type and shape stay."""
    value = graph.initializers.pop(name)
    tensor = value.const_value
    if tensor is not None:
        value.type = ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(tensor.shape.numpy())
    value.const_value = None
    if not value.is_graph_input():
        graph.inputs.append(value)
    return value


def replace_outputs(graph: ir.Graph, outputs: Sequence[ir.Value]) -> None:
    """Let these values be the graph's outputs, and nothing else."""
    del graph.outputs[:]
    graph.outputs.extend(outputs)
