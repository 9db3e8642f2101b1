"""What a model file holds, read without changing it: nodes, bytes of weights, files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qcompress.graph.external import external_location, external_tensors
from qcompress.graph.model import dtype_name, load_model, read_proto
from qcompress.graph.tensors import stored_tensors


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node of any graph of the model; ``weight_dtypes``: element types of its constant inputs, in input order."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_dtypes: tuple[str, ...]


def list_nodes(path: Path, bodies: bool = True) -> list[NodeFacts]:
    """Every node of the file, those of subgraphs and functions included; the file need not pass the checker.

    ``bodies`` False: of the main graph alone.
    """
    proto = read_proto(path)
    if not bodies:
        return [_facts(node, {}) for node in proto.graph.node]
    facts = list(_nodes_of(proto.graph, {}))
    for function in proto.functions:
        facts += [_facts(node, {}) for node in function.node]
    return facts


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of stored tensors by element type, sorted by name; 2- and 4-bit types count packed."""
    totals: dict[str, int] = {}
    for tensor in stored_tensors(load_model(path).ir):
        name = dtype_name(tensor.dtype)
        totals[name] = totals.get(name, 0) + tensor.nbytes
    return dict(sorted(totals.items()))


def model_files(path: Path) -> list[Path]:
    """The model file and the files of its external data, sorted after it."""
    locations = {external_location(tensor) for tensor in external_tensors(read_proto(path))}
    return [path, *sorted(path.parent / location for location in locations)]


def digest(path: Path) -> str:
    """SHA-256 over the model file and its external data, in hexadecimal."""
    sha = hashlib.sha256()
    for file in model_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                sha.update(block)
    return sha.hexdigest()


def _nodes_of(graph: onnx.GraphProto, outer: dict[str, str]) -> Iterator[NodeFacts]:
    dtypes = dict(outer)
    dtypes.update({tensor.name: dtype_name(ir.DataType(tensor.data_type)) for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            dtypes[node.output[0]] = dtype_name(ir.DataType(node.attribute[0].t.data_type))
        yield _facts(node, dtypes)
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _nodes_of(body, dtypes)


def _facts(node: onnx.NodeProto, dtypes: dict[str, str]) -> NodeFacts:
    weights = tuple(dtypes[name] for name in node.input if name in dtypes)
    return NodeFacts(node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output), weights)
