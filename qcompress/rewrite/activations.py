"""Place QuantizeLinear and DequantizeLinear around the tensors that carry scales."""

from __future__ import annotations

import numpy as np

from qcompress.decisions import ActivationPlan
from qcompress.graph import Node, Value
from qcompress.operators.flow import activation_inputs, needs_integer_output
from qcompress.rewrite.context import Context


def write_activations(context: Context) -> None:
    """Quantize every tensor of the plan.

    Case 1: the producer computes on integers: everybody, model outputs included, reads the decoded tensor.
    Case 2: the producer computes in float: only integer nodes read the decoded tensor.
    """
    values = _values(context)
    for name, activation in context.plan.activations.items():
        value = values[name]
        integer_users = [(use.node, use.idx) for use in value.uses() if _reads_activation(context, use.node, value)]
        whole = _is_integer_product(context, value, len(integer_users))
        if integer_users or whole:
            _write(context, value, activation, list(_all_uses(value)) if whole else integer_users, whole)


def _write(context: Context, value: Value, activation: ActivationPlan, users: list[tuple[Node, int]], whole: bool) -> None:
    editor = context.main
    name = value.name or ""
    dtype = context.plan.activation_scheme.storage
    parameters = [
        editor.constant(f"{name}_scale", np.asarray(activation.scale, dtype=np.float32)),
        editor.constant(f"{name}_zero_point", np.asarray(activation.zero_point, dtype=dtype)),
    ]
    quantized = editor.node("QuantizeLinear", [value, *parameters], f"{name}_quantized")
    decoded = editor.node("DequantizeLinear", [quantized, *parameters], f"{name}_decoded")
    for node, index in users:
        node.replace_input_with(index, decoded)
    if whole and value.is_graph_output():
        outputs = context.model.graph.outputs
        outputs[outputs.index(value)] = decoded
        value.name, decoded.name = editor.name(f"{name}_exact"), name
        decoded.type = value.type
    editor.place_after(value, [quantized, decoded])


def _is_integer_product(context: Context, value: Value, integer_users: int) -> bool:
    """Case 1: written by an integer kernel, directly or through the Relu or Clip it absorbs."""
    producer = value.producer()
    if producer is not None and producer.op_type in ("Relu", "Clip") and not context.is_integer(producer):
        source = producer.inputs[0]
        producer = source.producer() if source is not None and len(source.uses()) == 1 else None
    if producer is None or not context.is_integer(producer):
        return False
    return needs_integer_output(producer) or (integer_users == len(value.uses()) and not value.is_graph_output())


def _reads_activation(context: Context, node: Node, value: Value) -> bool:
    return context.is_integer(node) and any(source is value for source in activation_inputs(node))


def _all_uses(value: Value) -> list[tuple[Node, int]]:
    return [(use.node, use.idx) for use in value.uses()]


def _values(context: Context) -> dict[str, Value]:
    values = {value.name or "": value for value in context.model.graph.inputs}
    for node in context.model.graph:
        values.update({output.name or "": output for output in node.outputs})
    return values
