"""One name for one thing: plans and reports refer to nodes and tensors by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count

import onnx_ir as ir

from qcompress.graph.edit import ADDED, taken_names
from qcompress.graph.model import Model


def unique_names(model: Model) -> int:
    """Name unnamed nodes after what they compute, and tell apart what has the same name; first come, first kept.

    Two nodes may have the same name, and two bodies (of an If) may use the same names for their own tensors. Inputs and
    outputs of the main graph keep their names in any case. Names that a node did not have are not saved.
    """
    tensors = {value.name or "" for value in [*model.graph.inputs, *model.graph.outputs]}
    settled = {*model.graph.inputs, *model.graph.outputs}
    nodes: set[str] = set()
    changed = 0
    for graph in model.ir.graphs():
        for value in _tensors_of(graph):
            if value.name and value not in settled:
                changed += value.name in tensors
                value.name = _free(value.name, tensors)
        for node in graph:
            if not node.name:
                node.meta[ADDED] = True
                node.name = next((output.name for output in node.outputs if output.name), node.op_type)
            changed += node.name in nodes
            node.name = _free(node.name, nodes)
    return changed


def shorten_names(model: Model, known: Collection[str], constants: Iterable[ir.Value]) -> None:
    """Number what was written into the model: names of tensors are a tenth of a small file.

    Inputs, outputs and whatever else is ``known`` keep their names, and so do all constants but ``constants``.
    """
    taken = taken_names(model.graph)
    numbers = (name for number in count(1) if (name := f"q{number}") not in taken)
    for graph in model.ir.graphs():
        for node in graph:
            for value in node.outputs:
                if value.name and value.name not in known and not value.is_graph_output():
                    value.name = next(numbers)
    for value in constants:
        value.name = next(numbers)


def _tensors_of(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]


def _free(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it when taken; what is returned is taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free
