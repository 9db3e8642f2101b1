"""The main graph of a prepared model as plain tables: what times are charged to, and what an estimate is computed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qcompress.graph import Graph, Model, Node, Value
from qcompress.graph.edit import is_constant, node_graphs
from qcompress.operators import Layer
from qcompress.operators.flow import needs_integer_output, settled


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Nodes of the main graph in order, and the tensors between them.

    ``inputs``: node -> tensors it reads, constants left out. ``outputs``: node -> tensors it writes. ``producers``:
    tensor -> node. ``readers``: tensor -> nodes. ``settled``: tensor -> the tensor that stands for it, behind the Relu or Clip that a layer absorbs.
    ``weights``: node -> its weights (biases left out) and their elements; weights inside a body belong to the node that has the body.
    ``whole``: nodes whose integer kernel must write integers. ``convertible``: nodes whose float weight the runtime quantizes
    itself when both neighbours are integers. ``entries``: inputs of the model. ``exits``: its outputs.
    """

    nodes: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    producers: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    settled: Mapping[str, str]
    weights: Mapping[str, Mapping[str, int]]
    whole: frozenset[str]
    convertible: frozenset[str]
    entries: frozenset[str]
    exits: frozenset[str]


def anatomy(model: Model, layers: Sequence[Layer]) -> Anatomy:
    """Take a prepared model apart; ``layers`` are its own."""
    graph = model.graph
    entries = {_name(value): None for value in graph.inputs}
    nodes = {_name(node): node for node in graph}
    outer = {inner: node for node in graph for inner in _inner_nodes(node)}
    weights: dict[str, dict[str, int]] = {}
    for layer in layers:
        size = 1
        for dim in layer.shape:
            size *= dim
        for use in (use for use in layer.uses if use.is_weight):
            weights.setdefault(_name(outer.get(use.node, use.node)), {})[layer.name] = size
    inputs = {name: tuple(dict.fromkeys(_name(value) for value in _read(node))) for name, node in nodes.items()}
    readers: dict[str, tuple[str, ...]] = {}
    for name, tensors in inputs.items():
        for tensor in tensors:
            readers[tensor] = (*readers.get(tensor, ()), name)
    return Anatomy(
        nodes=tuple(nodes),
        inputs=inputs,
        outputs={name: tuple(_name(value) for value in node.outputs if value.name) for name, node in nodes.items()},
        producers={_name(value): name for name, node in nodes.items() for value in node.outputs if value.name},
        readers=readers,
        settled={_name(value): _name(settled(value)) for node in nodes.values() for value in node.outputs if value.name}
        | {name: name for name in entries},
        weights=weights,
        whole=frozenset(name for name, node in nodes.items() if needs_integer_output(node)),
        convertible=frozenset(name for name, node in nodes.items() if _is_convertible(node)),
        entries=frozenset(entries),
        exits=frozenset(_name(value) for value in graph.outputs),
    )


def _is_convertible(node: Node) -> bool:
    return (
        not node.domain
        and node.op_type in ("Conv", "Gemm")
        and all(is_constant(value) for value in node.inputs[1:] if value)
    )


def _read(node: Node) -> Iterator[Value]:
    """The values a node and its bodies read from the main graph."""
    for each in (node, *_inner_nodes(node)):
        for value in each.inputs:
            if value is not None and not is_constant(value) and (each is node or value.graph is node.graph):
                yield value


def _inner_nodes(node: Node) -> list[Node]:
    bodies: list[Graph] = node_graphs(node)
    return [inner for body in bodies for inner in body.all_nodes()]


def _name(item: Node | Value) -> str:
    return item.name or ""
