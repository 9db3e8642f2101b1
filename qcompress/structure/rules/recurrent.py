"""LSTM, GRU and RNN: a hidden unit is a row of every gate, a column of the recurrence and a place in the state."""

from __future__ import annotations

import numpy as np

from qcompress.graph import Node, Value
from qcompress.graph.edit import constant_array, int_attribute
from qcompress.structure.positions import At
from qcompress.structure.rules.common import block_node, given
from qcompress.structure.trace import Slot, Trace, label

MOVING = ("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose output is zeros when their input is."""

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(node: Node, trace: Trace) -> None:
    """Inputs are summed by W; hidden units are made by W, R and the biases, and summed by R."""
    x, weight, recurrence = node.inputs[:3]
    if x is None or weight is None or recurrence is None or int_attribute(node, "layout", 0):
        block_node(node, trace, f"{label(node)}: its layout has no rule")
        return
    if not trace.is_weight(weight) or not trace.is_weight(recurrence):
        block_node(node, trace, f"{label(node)}: its weights are not constants")
        return
    hidden: At = (recurrence, 2)
    trace.consume(weight, 2, (x, 2))
    trace.mark_consumer(hidden)
    trace.mark_producer((weight, 1))
    for value, axis in ((weight, 1), (recurrence, 1), (given(node, 3), 1), (given(node, 7), 1)):
        if value is not None:
            places = np.arange(trace.size((value, axis)))
            trace.tie((value, axis), hidden, places, places % trace.size(hidden))
    for index in (5, 6):
        if _is_zeros(given(node, index)):
            trace.leave_out(node, index, hidden)
        else:
            _state(given(node, index), 1, trace, hidden, x)
    for state in node.outputs[1:]:
        _state(state, 1, trace, hidden, x)
    _state(node.outputs[0], 2, trace, hidden, x)
    for value in (weight, recurrence, given(node, 3), given(node, 5), given(node, 6), given(node, 7), *node.outputs):
        _directions(node, value, trace)
    lengths = given(node, 4)
    if lengths is not None:
        trace.tie((lengths, 0), (x, 1))
    if node.outputs[0].name:
        trace.tie((x, 0), (node.outputs[0], 0))
    trace.follow(Slot(node, "hidden_size", (trace.size(hidden),), 0), hidden)


def _is_zeros(value: Value | None) -> bool:
    """Whether an initial state is zeros, as it is without: then states of several layers, made at once, need not go together."""
    if value is None:
        return False
    node = value.producer()
    if node is None:
        array = constant_array(value)
        return array is not None and not array.any()
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return fill is None or not fill.as_tensor().numpy().any()
    return node.domain == "" and node.op_type in MOVING and _is_zeros(node.inputs[0])


def _state(value: Value | None, batch: int, trace: Trace, hidden: At, x: Value) -> None:
    """A state: (directions, batch, hidden), the first output with the sequence before it."""
    if value is not None and value.name:
        trace.tie((x, 1), (value, batch))
        trace.tie(hidden, (value, batch + 1))


def _directions(node: Node, value: Value | None, trace: Trace) -> None:
    if value is not None and value.name:
        axis = 1 if value is node.outputs[0] else 0
        trace.block((value, axis), f"{label(node)}: its directions")
