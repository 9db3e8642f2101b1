"""Initializers are inputs only where a caller may really feed them."""

from __future__ import annotations

from qcompress.graph.model import Model


def unlist_initializers(model: Model) -> int:
    """Drop initializers from the inputs of old exports; comes before any pass that adds initializers.

    Case 1: every initializer is also an input. The exporter listed them all (IR version 3 demanded it); none was meant
    to be fed, so they become plain constants.
    Case 2: only some are. A caller may feed them: they stay inputs, and their weights are kept.
    """
    graph = model.graph
    listed = [value for value in graph.inputs if value.name in graph.initializers]
    model.ir.ir_version = max(model.ir.ir_version, 4)  # before 4 every initializer had to be an input
    if len(listed) != len(graph.initializers):  # Case 2
        return 0
    for value in listed:
        graph.inputs.remove(value)
    return len(listed)
