"""Cut the main graph into consecutive segments at narrow places, and make any run of them a model of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from qcompress.graph.edit import node_graphs, values_read
from qcompress.graph.model import Model, dtype_name
from qcompress.types import TensorSignature

REACH = 0.4
"""How far, in shares of a segment's cost, a cut may lie from where the costs would be equal, to find a narrower place."""

_IR_NAMES = {"float32": ir.DataType.FLOAT, "float64": ir.DataType.DOUBLE, "str": ir.DataType.STRING}


@dataclass(frozen=True, slots=True)
class CutSettings:
    """Where to cut: into about ``count`` segments.

    ``costs``: node -> cost, 1 where it is not known. ``sizes``: tensor -> bytes, 1 where it is not known. ``inner``:
    names of tensors that must not cross a cut.
    """

    count: int
    costs: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    inner: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """Some consecutive nodes of the main graph by name, and the tensors that cross into and out of them.

    ``inputs``: model inputs and outputs of earlier nodes. ``outputs``: what later nodes read, and outputs of the model.
    """

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Segments:
    """A prepared model cut into segments, from the first node to the last; the model must not be changed meanwhile.

    Nodes that compute constants from constants belong to no segment: every segment that reads their outputs has its own.
    """

    def __init__(self, model: Model, settings: CutSettings) -> None:
        self._model = model
        self._reads = {node: values_read(node) for node in model.graph}
        self._constant = _constant_values(model, self._reads)
        self._nodes = [node for node in model.graph if not all(output in self._constant for output in node.outputs)]
        self._position = {node: index for index, node in enumerate(self._nodes)}
        self._last = {value: index for index, node in enumerate(self._nodes) for value in self._reads[node]}
        self._wanted = set(model.graph.outputs)
        self._starts = self._choose_starts(settings)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def crossing(self) -> tuple[str, ...]:
        """Names of all tensors that cross a cut, in graph order; model inputs are not among them."""
        found = {name for index in range(len(self)) for name in self.between(index, index).inputs}
        return tuple(output.name or "" for node in self._nodes for output in node.outputs if output.name in found)

    def index(self) -> dict[str, int]:
        """Node name -> number of its segment; nodes in bodies are where the node with the body is."""
        found: dict[str, int] = {}
        for number, start in enumerate(self._starts):
            for node in self._nodes[start : self._end(number)]:
                found.update({inner.name or "": number for inner in _with_bodies(node)})
        return found

    def between(self, first: int, last: int) -> Segment:
        """The segments ``first`` to ``last``, both included, as one."""
        inputs, outputs = self._boundary(first, last)
        nodes = self._nodes[self._starts[first] : self._end(last)]
        return Segment(tuple(node.name or "" for node in nodes), _names(inputs), _names(outputs))

    def extract(self, first: int, last: int, types: Mapping[str, TensorSignature]) -> Model:
        """The segments ``first`` to ``last`` as a model that keeps every name and shares the weights.

        Args:
            first: number of a segment.
            last: number of the same or a later one; both are included.
            types: element types and shapes of crossing tensors, for those of which the file does not say them.
        """
        inputs, outputs = self._boundary(first, last)
        nodes = set(self._nodes[self._starts[first] : self._end(last)])
        waiting = list(nodes)
        constants: set[ir.Value] = {value for value in outputs if value in self._constant}
        while waiting:  # nodes that compute constants come along
            for value in self._reads[waiting.pop()]:
                if value in self._constant and value not in constants:
                    constants.add(value)
                    producer = value.producer()
                    if producer is not None and producer not in nodes:
                        nodes.add(producer)
                        waiting.append(producer)
        stored = [value for value in self._model.graph.initializers.values() if value in constants]
        listed = [value for value in stored if value.is_graph_input()]  # a caller may feed them: they stay what they are
        view = ir.GraphView(
            [*inputs, *listed],
            outputs,
            nodes=[node for node in self._model.graph if node in nodes],
            initializers=stored,
            opset_imports=self._model.graph.opset_imports,
            name=self._model.graph.name,
        )
        graph = view.clone()
        for value in [*graph.inputs, *graph.outputs]:
            _declare(value, types.get(value.name or ""))
        functions = [function.clone() for function in self._model.ir.functions.values()]
        return Model(ir.Model(graph, ir_version=self._model.ir.ir_version, functions=functions), self._model.path)

    def _end(self, number: int) -> int:
        return self._starts[number + 1] if number + 1 < len(self._starts) else len(self._nodes)

    def _boundary(self, first: int, last: int) -> tuple[list[ir.Value], list[ir.Value]]:
        """What the segments read from before them and what is wanted of them behind them, each in graph order."""
        start, end = self._starts[first], self._end(last)
        inside = self._nodes[start:end]
        made_here = (value for node in inside for value in node.outputs)
        outputs = [value for value in made_here if value in self._wanted or self._last.get(value, -1) >= end]
        made = {value for node in inside for value in node.outputs}
        read = {value for node in inside for value in self._reads[node]} - made - self._constant
        inputs = [value for value in self._model.graph.inputs if value in read]
        inputs += [value for node in self._nodes[:start] for value in node.outputs if value in read]
        return inputs, outputs

    def _choose_starts(self, settings: CutSettings) -> list[int]:
        """Positions where segments start: near equal costs, where the fewest bytes cross."""
        costs = [max(settings.costs.get(node.name or "", 1.0), 0.0) for node in self._nodes]
        before = [0.0]
        for cost in costs:
            before.append(before[-1] + cost)
        widths = self._widths(settings)
        count = max(1, min(settings.count, len(self._nodes)))
        step = before[-1] / count
        starts = [0]
        for number in range(1, count):
            ideal = number * step
            near = (
                (width, abs(before[position] - ideal), position)
                for position, width in enumerate(widths)
                if width is not None and position > starts[-1] and abs(before[position] - ideal) <= REACH * step
            )
            best = min(near, default=None)
            if best is not None:
                starts.append(best[2])
        return starts

    def _widths(self, settings: CutSettings) -> list[int | None]:
        """Bytes that cross in front of each node, None where no cut is allowed."""
        size = len(self._nodes)
        steps, forbidden = [0] * (size + 1), [0] * (size + 1)
        inner = frozenset(settings.inner)
        for index, node in enumerate(self._nodes):
            for value in node.outputs:
                last = self._last.get(value, index)
                bytes_ = settings.sizes.get(value.name or "", 1)
                for table, amount in ((steps, bytes_), (forbidden, int(value.name in inner))):
                    table[index + 1] += amount
                    table[last + 1] -= amount
        widths: list[int | None] = []
        width = blocked = 0
        for position in range(size):
            width, blocked = width + steps[position], blocked + forbidden[position]
            widths.append(None if blocked or position == 0 else width)
        return widths


def stated_types(model: Model) -> dict[str, str]:
    """Tensor of the main graph -> element type, where the file states it; ``""`` for sequences, maps and optional values."""
    found: dict[str, str] = {}
    for value in [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]:
        if value.name and isinstance(value.type, ir.TensorType):
            found[value.name] = dtype_name(value.type.dtype)
        elif value.name and value.type is not None:
            found[value.name] = ""
    return found


def _constant_values(model: Model, reads: Mapping[ir.Node, set[ir.Value]]) -> set[ir.Value]:
    """Initializers, and outputs of nodes that read nothing else and make no output of the model."""
    constant = set(model.graph.initializers.values())
    wanted = set(model.graph.outputs)
    for node in model.graph:
        if reads[node] and reads[node] <= constant and not wanted & set(node.outputs):
            constant |= set(node.outputs)
    return constant


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in node_graphs(node):
        for inner in body:
            yield from _with_bodies(inner)


def _declare(value: ir.Value, known: TensorSignature | None) -> None:
    """Give a crossing tensor the type and rank that are known, where the file says nothing."""
    if known is None:
        return
    if value.dtype is None:
        dtype = _IR_NAMES[known.dtype] if known.dtype in _IR_NAMES else ir.DataType[known.dtype.upper()]
        value.type = ir.TensorType(dtype)
    if value.shape is None and known.shape is not None:
        value.shape = ir.Shape(known.shape)


def _names(values: list[ir.Value]) -> tuple[str, ...]:
    return tuple(value.name or "" for value in values)
