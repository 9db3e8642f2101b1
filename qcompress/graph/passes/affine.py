"""BatchNormalization, and Mul and Add by per-channel constants, fold into the layer before them.

For a layer ``y = W x + b`` and an affine map ``a y + c`` per output channel: ``W' = a W``, ``b' = a b + c``. For
BatchNormalization ``a = gamma / sqrt(variance + epsilon)`` and ``c = beta - a mean``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qcompress.graph.edit import Editor, bypass, constant_array, float_attribute, int_attribute, only_user, set_constant
from qcompress.graph.model import Model
from qcompress.types import Array


@dataclass(frozen=True, slots=True)
class _Affine:
    """``gain * y + offset`` with one entry per channel, or one for all; None is 1 or 0."""

    gain: Array | None
    offset: Array | None


def fold_affine(model: Model) -> int:
    """Fold affine nodes behind Conv and ConvTranspose until none is left; layers keep their names."""
    editor = Editor(model.graph)
    changed = 0
    for layer in list(model.graph):
        if layer.op_type not in ("Conv", "ConvTranspose") or layer.domain:
            continue
        while (follower := only_user(layer.outputs[0])) is not None:
            affine = _affine_of(follower, layer)
            if affine is None or not _apply(layer, affine, editor):
                break
            bypass(follower, layer.outputs[0])
            changed += 1
    return changed


def _affine_of(node: ir.Node, layer: ir.Node) -> _Affine | None:
    """What a node does to the layer's channels, when it is affine per channel with constants."""
    if node.domain or len([output for output in node.outputs if output.uses() or output.is_graph_output()]) > 1:
        return None
    if node.op_type == "BatchNormalization":
        return None if int_attribute(node, "training_mode", 0) else _batch_norm(node)
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is layer.outputs[0]
    if not first and node.op_type in ("Sub", "Div"):
        return None
    operand = constant_array(node.inputs[1] if first else node.inputs[0])
    weight = constant_array(layer.inputs[1])
    if operand is None or weight is None or operand.dtype != np.float32:
        return None
    vector = _per_channel(operand, weight.ndim, _out_channels(layer, weight))
    if vector is None:
        return None
    if node.op_type in ("Mul", "Div"):
        with np.errstate(divide="ignore"):  # infinite gains are refused with the products they make
            return _Affine(vector if node.op_type == "Mul" else 1.0 / vector, None)
    return _Affine(None, vector if node.op_type == "Add" else -vector)


def _batch_norm(node: ir.Node) -> _Affine | None:
    arrays = [constant_array(value) for value in node.inputs[1:5]]
    gamma, beta, mean, variance = (None if array is None else array.astype(np.float64) for array in arrays)
    if gamma is None or beta is None or mean is None or variance is None or gamma.ndim != 1:
        return None
    with np.errstate(all="ignore"):  # what is not finite is refused later
        gain = gamma / np.sqrt(variance + float_attribute(node, "epsilon", 1e-5))
        return _Affine(gain, beta - gain * mean)


def _per_channel(operand: Array, rank: int, channels: int) -> Array | None:
    """A constant that broadcasts over all but the channel axis of a rank-``rank`` tensor, as a vector; else None."""
    if operand.ndim > rank:
        return None
    shape = (1,) * (rank - operand.ndim) + operand.shape
    if any(dim != 1 for axis, dim in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return operand.astype(np.float64).reshape(-1)  # (1, channels, 1, ..) -> (channels,)


def _out_channels(layer: ir.Node, weight: Array) -> int:
    return int(weight.shape[0] if layer.op_type == "Conv" else weight.shape[1] * int_attribute(layer, "group", 1))


def _apply(layer: ir.Node, affine: _Affine, editor: Editor) -> bool:
    """Change the layer's weight and bias; False when they cannot be changed without touching another layer."""
    weight_value = layer.inputs[1]
    bias_value = layer.inputs[2] if len(layer.inputs) > 2 else None
    weight = constant_array(weight_value)
    bias = constant_array(bias_value)
    if weight is None or weight_value is None or weight.dtype != np.float32 or (bias_value is not None and bias is None):
        return False
    with np.errstate(all="ignore"):
        new_bias = np.zeros(_out_channels(layer, weight)) if bias is None else bias.astype(np.float64)
        new_bias = new_bias if affine.gain is None else new_bias * affine.gain
        new_bias = (new_bias if affine.offset is None else new_bias + affine.offset).astype(np.float32)
    if not np.all(np.isfinite(new_bias)):
        return False
    if affine.gain is not None:
        if layer.op_type == "ConvTranspose" and int_attribute(layer, "group", 1) != 1 and affine.gain.size != 1:
            return False
        axis = 0 if layer.op_type == "Conv" else 1
        gain_shape = [1] * weight.ndim
        gain_shape[axis] = -1
        with np.errstate(all="ignore"):  # gain: (channels,) -> (1, .., channels, .., 1)
            scaled = (weight * affine.gain.reshape(gain_shape)).astype(np.float32)
        if not np.all(np.isfinite(scaled)):
            return False
        _replace_input(layer, 1, weight_value, scaled, editor)
    if bias_value is not None or np.any(new_bias):
        _replace_input(layer, 2, bias_value, new_bias, editor)
    return True


def _replace_input(layer: ir.Node, index: int, value: ir.Value | None, array: Array, editor: Editor) -> None:
    """Put ``array`` into an input of the layer: in place when the constant is its own, else under a new name."""
    if value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        set_constant(value, array)
        return
    fresh = editor.constant(value.name if value is not None and value.name else f"{layer.name}_bias", array)
    if len(layer.inputs) <= index:
        layer.resize_inputs(index + 1)
    layer.replace_input_with(index, fresh)
