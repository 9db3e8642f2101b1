"""Operators on the sizes of tensors: what number of a computed shape is the size of which axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qcompress.graph import Node
from qcompress.graph.edit import constant_array, int_attribute
from qcompress.structure.rules.common import given, integers
from qcompress.structure.trace import Element, Trace, Vector


def shape(node: Node, trace: Trace) -> Vector | None:
    """Shape: the sizes of the axes from ``start`` to ``end``."""
    x = node.inputs[0]
    sizes = None if x is None else trace.shape(x)
    if x is None or sizes is None:
        return None
    axes = range(len(sizes))[slice(int_attribute(node, "start", 0), int_attribute(node, "end", len(sizes)))]
    return tuple(Element(sizes[axis], (x, axis), trace.is_steady((x, axis))) for axis in axes)


def same(node: Node, trace: Trace) -> Vector | None:
    """Identity, Squeeze, Unsqueeze, Reshape of a vector to a vector or number: the same numbers."""
    return trace.take(node, 0)


def cast(node: Node, trace: Trace) -> Vector | None:
    """Cast: the same numbers, but a constant of another type cannot be written behind it."""
    vector = trace.take(node, 0)
    return None if vector is None else tuple(replace(element, fixed=False) for element in vector)


def gather(node: Node, trace: Trace) -> Vector | None:
    """Gather by constant indices."""
    indices, vector = constant_array(given(node, 1)), trace.take(node, 0)
    if indices is None or indices.ndim > 1 or vector is None:
        return None
    return _chosen(vector, [int(index) for index in indices.reshape(-1)])


def slice_(node: Node, trace: Trace) -> Vector | None:
    """Slice between constants."""
    bounds = [integers(node, index, name) for index, name in ((1, "starts"), (2, "ends"), (4, "steps"))]
    vector = trace.take(node, 0)
    if vector is None or any(bound is None for bound in bounds[:2]) or bounds[2] is None:
        return None
    starts, ends, steps = (bound or (1,) for bound in bounds)
    return vector[slice(starts[0], ends[0], steps[0])]


def concat(node: Node, trace: Trace) -> Vector | None:
    """Concat: the numbers of all inputs, each with the place where it can be rewritten."""
    vectors = [trace.placed(node, index) for index in range(len(node.inputs))]
    return None if any(vector is None for vector in vectors) else tuple(item for vector in vectors for item in vector or ())


def _chosen(vector: Vector, indices: Sequence[int]) -> Vector | None:
    size = len(vector)
    return tuple(vector[index] for index in indices) if all(-size <= index < size for index in indices) else None
