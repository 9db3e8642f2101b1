"""Walk a graph from its outputs back and let the rule of every operator add its gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcompress.gradient.rules import RULES
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tape, Tensor
from qcompress.graph import Node, Value
from qcompress.graph.edit import node_graphs, values_read


@dataclass(slots=True)
class Differentiation:
    """The backward pass of one graph, written to a tape.

    ``stops``: tensors whose gradient would be incomplete, and why: something they flow into has no rule.
    """

    tape: Tape
    dependent: set[Value]
    parts: dict[Value, list[Tensor]] = field(default_factory=dict)
    stops: dict[Value, str] = field(default_factory=dict)

    def gradient(self, value: Value) -> Tensor | None:
        """The gradient of a tensor, None where nothing or only something incomplete flows to it."""
        parts = self.parts.get(value)
        if parts is None or value in self.stops:
            return None
        if len(parts) > 1:
            parts[:] = [self.tape.total(parts)]
        (whole,) = parts
        return Tensor(self.tape, whole.value, whole.dtype, self.tape.tensor(value).dims)

    def visit(self, node: Node) -> None:
        """Pass the gradients of a node's outputs on to its inputs."""
        reached = [value for value in node.outputs if value in self.parts or value in self.stops]
        sources = [value for value in values_read(node) if value in self.dependent] if reached else []
        if not sources:
            return
        reason = next((self.stops[value] for value in node.outputs if value in self.stops), "")
        found: Gradients = {}
        if not reason:
            try:
                found = self._apply(node)
            except NoGradientError as error:
                reason = f"{describe(node)} {error}"
        for index, value in enumerate(node.inputs):
            if value in self.dependent and value is not None and index in found:
                self.parts.setdefault(value, []).append(found[index])
            elif value in self.dependent and value is not None:
                self.stops.setdefault(value, reason or f"{describe(node)} has no rule for its input {index}")
        for value in sources:
            if value not in node.inputs:
                self.stops.setdefault(value, reason)

    def _apply(self, node: Node) -> Gradients:
        if node_graphs(node):
            raise NoGradientError("has a body: gradients do not flow through it")
        if node.domain not in ("", "ai.onnx") or node.op_type not in RULES:
            raise NoGradientError("has no rule")
        upstream = [self.gradient(value) for value in node.outputs]
        return RULES[node.op_type](Step(self.tape, node, upstream, self.dependent))


def differentiate(tape: Tape, wanted: Sequence[Value], seeds: Mapping[Value, Tensor]) -> Differentiation:
    """Write the backward pass behind the model.

    Args:
        tape: of the model.
        wanted: tensors whose gradients are asked for.
        seeds: output of the model -> the gradient of the loss with respect to it.
    """
    nodes = list(tape.graph)
    walk = Differentiation(tape, _dependent(tape, nodes, wanted))
    for value, seed in seeds.items():
        if value in walk.dependent:
            walk.parts[value] = [seed]
    for node in reversed(nodes):
        walk.visit(node)
    return walk


def _dependent(tape: Tape, nodes: Sequence[Node], wanted: Sequence[Value]) -> set[Value]:
    """The wanted tensors and all float tensors that are computed from them through floats."""
    found = set(wanted)
    for node in nodes:
        if not found.isdisjoint(values_read(node)):
            found.update(value for value in node.outputs if tape.facts.is_float(value.name or ""))
    return found


def why_not(tape: Tape, value: Value, seeded: Sequence[Value]) -> str:
    """Why nothing flows from the outputs to a tensor although every rule on the way is there."""
    nodes = [node for node in tape.graph if not (node.outputs[0].name or "").startswith("qcompress/gradient/")]
    found: set[Value] = {value}
    stop = ""
    for node in nodes:
        if not found.isdisjoint(values_read(node)):
            floats = [output for output in node.outputs if tape.facts.is_float(output.name or "")]
            found.update(node.outputs)
            if not floats and not stop:
                stop = f"{describe(node)} stops it: its result is no float"
    return stop if stop and not found.isdisjoint(seeded) else "no seeded output depends on it"


def describe(node: Node) -> str:
    """The operator and the name of a node, in words."""
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{operator} {node.name!r}"
