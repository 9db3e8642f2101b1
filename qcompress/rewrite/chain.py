"""Nodes and constants written one after the other, and placed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompress.graph import Graph, Node, Value
from qcompress.graph.edit import AttributeValue
from qcompress.rewrite.context import Context
from qcompress.types import Array


@dataclass(slots=True)
class Chain:
    """Nodes written one after the other into one graph, not yet placed."""

    context: Context
    graph: Graph
    steps: list[Value] = field(default_factory=list)

    def node(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        output: str,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Value:
        """A node behind the last one; returns its output."""
        self.steps.append(self.context.editor(self.graph).node(op_type, inputs, output, attributes))
        return self.steps[-1]

    def constant(self, name: str, array: Array) -> Value:
        """A new initializer of the graph."""
        return self.context.editor(self.graph).constant(name, array)

    def shared(self, name: str, array: Array) -> Value:
        """A small initializer, the same for every weight of the graph that asks for this name."""
        return self.context.shared_constant(self.graph, name, array)

    def place_first(self) -> None:
        """Put the nodes in front of all others."""
        if self.steps:
            self.context.editor(self.graph).place_before(self.graph[0], self.steps)

    def place_before(self, node: Node) -> None:
        """Put the nodes right before ``node``."""
        if self.steps:
            self.context.editor(self.graph).place_before(node, self.steps)


def shape_of(chain: Chain, shape: tuple[int, ...]) -> Value:
    """A shape, one constant for all that want it."""
    return chain.shared(f"shape/{'x'.join(map(str, shape))}", np.asarray(shape, dtype=np.int64))
