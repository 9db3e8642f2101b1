"""Small edits every pass and form is written with: constants, nodes, names, uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qcompress.graph.tensors import make_tensor, tensor_array
from qcompress.types import Array

FLOAT = int(ir.DataType.FLOAT)
"""The element type float32 as Cast's ``to`` wants it."""

INT32, INT8, UINT8 = int(ir.DataType.INT32), int(ir.DataType.INT8), int(ir.DataType.UINT8)
BOOL = int(ir.DataType.BOOL)
INT4, UINT4 = int(ir.DataType.INT4), int(ir.DataType.UINT4)
"""Element types of codes."""

ADDED = "qcompress.added"
"""Mark on nodes that were not in the file; the graph library names them, and saving forgets those names."""

AttributeValue = int | float | str | Sequence[int]


def constant_array(value: ir.Value | None) -> Array | None:
    """The array of a value nobody can change at run time, or None."""
    if value is None or value.const_value is None or not is_constant(value):
        return None
    return tensor_array(value.const_value)


def four_bits(codes: Array) -> Array:
    """Codes as int4 when they are int8, as uint4 else: two of them take a byte in the file."""
    kind = ir.DataType.INT4 if codes.dtype == np.int8 else ir.DataType.UINT4
    return codes.astype(kind.numpy())


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer that is not also a model input."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def constant_number(value: ir.Value | None) -> float | None:
    """The float that a constant of one element holds, whatever its rank, or None."""
    array = None if value is None or value.const_value is None or value.const_value.size != 1 else constant_array(value)
    return None if array is None or not np.issubdtype(array.dtype, np.floating) else float(array.reshape(-1)[0])


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, None when there are more or it is a graph output."""
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def graph_of(value: ir.Value) -> ir.Graph:
    """The graph a value belongs to."""
    graph = value.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError(f"value {value.name!r} lies outside every graph")
    return graph


def taken_names(main: ir.Graph) -> set[str]:
    """The names of all nodes and tensors of a graph and of the bodies in it."""
    names: set[str | None] = {value.name for value in main.inputs} | set(main.initializers)
    for node in main.all_nodes():
        names.add(node.name)
        names.update(value.name for value in node.outputs)
        for body in node_graphs(node):
            names.update(value.name for value in body.inputs)
            names.update(body.initializers)
    return {name for name in names if name}


class Editor:
    """Adds nodes and constants to one graph under names that are free and the same in every run.

    ``names``: names taken anywhere in the model, shared by the editors of all its graphs, since a body must not use a name
    of the graphs around it; the main graph's editor can find them itself.
    """

    def __init__(self, graph: ir.Graph, names: set[str] | None = None) -> None:
        self.graph = graph
        self._names = taken_names(graph) if names is None else names

    def name(self, wanted: str) -> str:
        """``wanted``, or with a number behind it when taken."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def constant(self, wanted: str, array: Array) -> ir.Value:
        """A new initializer holding ``array``."""
        name = self.name(wanted)
        tensor = make_tensor(array, name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> ir.Value:
        """A new node with one output, not yet placed; returns that output."""
        return self.node_with_outputs(op_type, inputs, [output], attributes)[0]

    def node_with_outputs(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> list[ir.Value]:
        """A new node, not yet placed; returns its outputs. It has no name: its outputs have one, and files stay small."""
        results = [ir.Value(name=self.name(output)) for output in outputs]
        given = [ir.Attr(key, _kind(value), value) for key, value in (attributes or {}).items()]
        ir.Node("", op_type, inputs, given, outputs=results).meta[ADDED] = True
        return results

    @staticmethod
    def name_node(value: ir.Value) -> None:
        """Name the producer of ``value`` after it, for plans know nodes by name; saving forgets it."""
        _producer(value).name = value.name

    def place_after(self, anchor: ir.Value, values: Sequence[ir.Value]) -> None:
        """Place the producers of ``values``, in order, right after the producer of ``anchor`` (first if it has none)."""
        nodes = [_producer(value) for value in values]
        producer = anchor.producer()
        if producer is not None and producer.graph is self.graph:
            self.graph.insert_after(producer, nodes)
        elif len(self.graph) > 0:
            self.graph.insert_before(self.graph[0], nodes)
        else:
            self.graph.extend(nodes)

    def place_before(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Place the producers of ``values``, in order, right before ``node``."""
        self.graph.insert_before(node, [_producer(value) for value in values])


def set_constant(value: ir.Value, array: Array) -> None:
    """Give an initializer a new array, in place and under its name."""
    tensor = make_tensor(array, value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(tensor.dtype)


def plain_attributes(node: ir.Node) -> dict[str, int | float | str | tuple[int, ...]]:
    """The numbers and texts among a node's attributes, as a NodeSpec carries them."""
    found: dict[str, int | float | str | tuple[int, ...]] = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.INT:
            found[name] = attribute.as_int()
        elif attribute.type == ir.AttributeType.FLOAT:
            found[name] = attribute.as_float()
        elif attribute.type == ir.AttributeType.STRING:
            found[name] = attribute.as_string()
        elif attribute.type == ir.AttributeType.INTS:
            found[name] = tuple(attribute.as_ints())
    return found


def set_attribute(node: ir.Node, name: str, value: AttributeValue) -> None:
    """Give a node's attribute a value."""
    node.attributes[name] = ir.Attr(name, _kind(value), value)


def replace_uses(old: ir.Value, new: ir.Value, users: Sequence[tuple[ir.Node, int]] | None = None) -> None:
    """Let ``users`` (all of them by default) read ``new`` instead of ``old``; graph outputs are left alone."""
    for node, index in list(old.uses()) if users is None else users:
        node.replace_input_with(index, new)


def bypass(node: ir.Node, source: ir.Value) -> None:
    """Remove a one-output node and let its users, and graph outputs of its name, read ``source``."""
    (output,) = node.outputs
    graph = node.graph
    if output.is_graph_output():
        name = output.name
        for outputs_graph in [graph_of(output)]:
            for index, value in enumerate(outputs_graph.outputs):
                if value is output:
                    outputs_graph.outputs[index] = source
        output.name = None
        source.name = name
        source.type = source.type or output.type
        source.shape = source.shape or output.shape
    replace_uses(output, source)
    if isinstance(graph, ir.Graph):
        graph.remove(node, safe=True)


def take_over(node: ir.Node, source: ir.Value) -> None:
    """Remove a one-output node whose place ``source`` takes, its name too: plans know tensors by name."""
    (output,) = node.outputs
    name = output.name
    bypass(node, source)
    output.name, source.name = None, name


def node_graphs(node: ir.Node) -> list[ir.Graph]:
    """The bodies of an If, Loop or Scan node."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return graphs


def values_read(node: ir.Node) -> set[ir.Value]:
    """What a node reads from the graph it is in or those around it, through its bodies too."""
    read = {value for value in node.inputs if value is not None}
    for body in node_graphs(node):
        read |= set(body.outputs)
        for inner in body:
            read |= values_read(inner)
    for body in node_graphs(node):
        read -= {*body.inputs, *body.initializers.values(), *(value for inner in body for value in inner.outputs)}
    return read


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_float()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...]:
    """A list of integers, empty when the attribute is missing."""
    attribute = node.attributes.get(name)
    return () if attribute is None or attribute.is_ref() else tuple(attribute.as_ints())


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """A string attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_string()


def _producer(value: ir.Value) -> ir.Node:
    producer = value.producer()
    if producer is None:
        raise ValueError(f"value {value.name!r} has no producer to place")
    return producer


def _kind(value: AttributeValue) -> ir.AttributeType:
    if isinstance(value, str):
        return ir.AttributeType.STRING
    if isinstance(value, float):
        return ir.AttributeType.FLOAT
    return ir.AttributeType.INT if isinstance(value, int) else ir.AttributeType.INTS
