"""The model as nodes, weights and uses; the only room that imports onnx and onnx_ir."""

from onnx_ir import Graph, Node, Value

from qcompress.graph.facts import NodeFacts, digest, list_nodes, model_files, weight_bytes
from qcompress.graph.model import Model, load_model
from qcompress.graph.saving import extend, message, save_model

__all__ = [
    "Graph",
    "Model",
    "Node",
    "NodeFacts",
    "Value",
    "digest",
    "extend",
    "list_nodes",
    "load_model",
    "message",
    "model_files",
    "save_model",
    "weight_bytes",
]
