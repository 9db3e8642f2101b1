"""Folded form: codes decoded by Cast, Sub, Mul and Reshape, which the runtime evaluates once when it loads the model."""

from __future__ import annotations

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph.edit import FLOAT, replace_uses
from qcompress.operators import Layer
from qcompress.rewrite.context import Context, encode_integers
from qcompress.types import Array, PerBlock, PerChannel, QuantizedTensor


def write_folded(context: Context, layer: Layer, decision: Quantize) -> None:
    """Store the codes and decode them in front of every user."""
    quantized = encode_integers(context, layer, decision)
    editor = context.editor(layer.graph)
    codes, scale, zero_point = _broadcastable(quantized)
    steps = [editor.node("Cast", [editor.constant(f"{layer.name}/q", codes)], f"{layer.name}_cast", {"to": FLOAT})]
    if not (quantized.scheme.symmetric and quantized.scheme.signed):
        offset = editor.constant(f"{layer.name}/z", zero_point.astype(np.float32))
        steps.append(editor.node("Sub", [steps[-1], offset], f"{layer.name}_shifted"))
    steps.append(editor.node("Mul", [steps[-1], editor.constant(f"{layer.name}/s", scale)], f"{layer.name}/dq"))
    if codes.shape != layer.shape:
        shape = editor.constant(f"{layer.name}_shape", np.asarray(layer.shape, dtype=np.int64))
        steps.append(editor.node("Reshape", [steps[-1], shape], f"{layer.name}_shaped"))
    replace_uses(layer.weight, steps[-1])
    editor.place_before(editor.graph[0], steps)


def _broadcastable(quantized: QuantizedTensor) -> tuple[Array, Array, Array]:
    """Codes, scale and zero point in shapes that multiply by broadcasting; blocks get an axis of their own."""
    granularity = quantized.scheme.granularity
    codes, scale, zero_point = quantized.codes, quantized.scale, quantized.zero_point
    if isinstance(granularity, PerChannel):
        shape = [1] * codes.ndim
        shape[granularity.axis] = -1
        return codes, scale.reshape(shape), zero_point.reshape(shape)  # (channels,) -> (1, .., channels, .., 1)
    if isinstance(granularity, PerBlock) and scale.shape[granularity.axis] > 1:
        axis = granularity.axis % codes.ndim
        blocks = scale.shape[axis]
        if blocks * granularity.size != codes.shape[axis]:  # a partial last block cannot be reshaped: one scale an element
            return codes, quantized.spread(scale), quantized.spread(zero_point)
        split = (*codes.shape[:axis], blocks, granularity.size, *codes.shape[axis + 1 :])
        return codes.reshape(split), np.expand_dims(scale, axis + 1), np.expand_dims(zero_point, axis + 1)
    return codes, scale, zero_point
