"""Place QuantizeLinear and DequantizeLinear around the tensors that carry scales."""

from __future__ import annotations

import numpy as np

from qcompress.errors import RecipeError
from qcompress.graph import Node, Value
from qcompress.operators.flow import activation_inputs, clip_bounds, needs_integer_output
from qcompress.rewrite.context import Context


def write_activations(context: Context) -> None:
    """Quantize every tensor of the plan.

    Case 1: the producer computes on integers: everybody, model outputs included, reads the decoded tensor.
    Case 2: the producer computes in float: only integer nodes read the decoded tensor.
    """
    values = _values(context)
    for name in context.plan.activations:
        value = values.get(name)
        if value is None:
            raise RecipeError(f"the plan names tensor {name!r}, which the model does not have", "make the plan again")
        integer_users = [(use.node, use.idx) for use in value.uses() if _reads_activation(context, use.node, value)]
        whole = _is_integer_product(context, value, len(integer_users))
        if integer_users or whole:
            _write(context, value, _all_uses(value) if whole else integer_users, whole)


def _write(context: Context, value: Value, users: list[tuple[Node, int]], whole: bool) -> None:
    editor = context.main
    name = value.name or ""
    parameters = [context.activation_scale(name), context.activation_zero_point(name)]
    quantized = editor.node(
        "QuantizeLinear", [_before_absorbed(context, value) if whole else value, *parameters], f"{name}/q"
    )
    decoded = editor.node("DequantizeLinear", [quantized, *parameters], f"{name}/dq")
    for node, index in users:
        node.replace_input_with(index, decoded)
    editor.place_after(value, [quantized, decoded])
    if whole and value.is_graph_output():
        outputs = context.model.graph.outputs
        outputs[outputs.index(value)] = decoded
        value.name, decoded.name = editor.name(f"{name}/exact"), name
        decoded.type, decoded.shape = value.type, value.shape


def _before_absorbed(context: Context, value: Value) -> Value:
    """What to quantize: the input of a Relu or Clip that saturation makes superfluous, else the value itself.

    A code can only stand for (least - zero_point) * scale to (largest - zero_point) * scale, by its storage type; when that lies inside the bounds,
    clipping first changes no code.
    """
    producer = value.producer()
    if (
        producer is None
        or producer.op_type not in ("Relu", "Clip")
        or (len(value.uses()) == 0 and not value.is_graph_output())
    ):
        return value
    codes, activation = np.iinfo(context.plan.activation_scheme.storage), context.plan.activations[value.name or ""]
    low, high = clip_bounds(producer)
    tolerance = 1e-5 * activation.scale
    inside = (int(codes.min) - activation.zero_point) * activation.scale >= low - tolerance
    inside &= (int(codes.max) - activation.zero_point) * activation.scale <= high + tolerance
    source = producer.inputs[0]
    return source if inside and source is not None and not context.is_integer(producer) else value


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
