"""Which outputs of a model count: the last ones, not inner feature maps from which others are computed."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qcompress.graph.edit import values_read
from qcompress.graph.model import Model

_ONLY_SHAPE = ("Shape", "Size")
"""Operators that read nothing of a tensor but its shape."""

_SAME_NUMBERS = ("Cast", "Identity")
"""Operators behind which a tensor is still the same tensor."""

_RECURRENT = ("LSTM", "GRU", "RNN")

_FLOATS = ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")


def judged_outputs(model: Model, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the outputs that a compressed model is judged by, in the model's order.

    Case 1: the named ones, when there are any.
    Case 2: float outputs from which no other float output is computed. What an output shares with another through its
        shape alone does not count; an output that is a Cast of an inner tensor is that tensor.
    Case 3: all tensors among the outputs of a model without float outputs.
    """
    graph = model.graph
    computed = [value for value in graph.outputs if value.producer() is not None]
    if named:  # Case 1
        return tuple(value.name or "" for value in computed if value.name in named)
    floats = [value for value in computed if value.dtype is not None and value.dtype.name in _FLOATS]
    if not floats:  # Case 3
        return tuple(value.name or "" for value in computed if value.type is None or isinstance(value.type, ir.TensorType))
    origins = {value: _origin(value) for value in floats}
    inner: set[ir.Value] = set()
    for origin in set(origins.values()):
        inner |= _ancestors(origin)
    return tuple(value.name or "" for value in floats if origins[value] not in inner)  # Case 2


def states(model: Model) -> frozenset[str]:
    """Names of the outputs that are written by a recurrent operator itself: states, never class scores."""
    producers = {value.name or "": _origin(value).producer() for value in model.graph.outputs}
    return frozenset(name for name, node in producers.items() if node is not None and node.op_type in _RECURRENT)


def _origin(value: ir.Value) -> ir.Value:
    """The tensor of which ``value`` is a Cast or a copy."""
    producer = value.producer()
    while (
        producer is not None and not producer.domain and producer.op_type in _SAME_NUMBERS and producer.inputs[0] is not None
    ):
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _ancestors(value: ir.Value) -> set[ir.Value]:
    """Every tensor whose numbers ``value`` is computed from, itself left out."""
    found: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        producer = waiting.pop().producer()
        if producer is None or (not producer.domain and producer.op_type in _ONLY_SHAPE):
            continue
        read = values_read(producer) - found
        found |= read
        waiting.extend(read)
    return found
