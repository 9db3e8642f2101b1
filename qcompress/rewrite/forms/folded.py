"""Folded form: codes decoded by ordinary operators, which the runtime evaluates once when it loads the model."""

from __future__ import annotations

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph import Value
from qcompress.graph.edit import FLOAT, INT32, replace_uses
from qcompress.operators import Layer
from qcompress.rewrite.context import Context, encode
from qcompress.rewrite.forms.parts import as_float, broadcastable, floats
from qcompress.rewrite.storage import Chain, numbers, plain, scales, store
from qcompress.types import CodebookTensor, NarrowTensor, PerTensor, QuantizedTensor, spread


def write_folded(context: Context, layer: Layer, decision: Quantize) -> None:
    """Store the codes and decode them in front of every user."""
    encoded = encode(context, layer, decision)
    chain = Chain(context, layer.graph)
    if isinstance(encoded, QuantizedTensor):
        decoded = _affine(chain, layer, plain(encoded))
    elif isinstance(encoded, CodebookTensor):
        decoded = _looked_up(chain, layer.name, encoded)
    else:
        decoded = _widened(chain, layer.name, encoded)
    replace_uses(layer.weight, decoded)
    chain.place_first()


def _affine(chain: Chain, layer: Layer, quantized: QuantizedTensor) -> Value:
    """(code - zero_point) * scale, in the shape of the weight."""
    name = layer.name
    codes, scale, zero_point = broadcastable(quantized)
    stored = store(chain, name, quantized, codes)
    counted = numbers(chain, stored, name, FLOAT)
    symmetric = quantized.scheme.symmetric and quantized.scheme.signed
    zeros = None if symmetric else as_float(chain, zero_point, name)
    decoded = floats(chain, quantized.scheme, counted, stored.lowest, zeros)
    decoded = chain.node("Mul", [decoded, scales(chain, quantized, scale, name)], f"{name}/dq")
    if codes.shape != layer.shape:
        shape = chain.constant(f"{name}_shape", np.asarray(layer.shape, dtype=np.int64))
        decoded = chain.node("Reshape", [decoded, shape], f"{name}_shaped")
    return decoded


def _looked_up(chain: Chain, name: str, encoded: CodebookTensor) -> Value:
    """levels[code] * scale; one scale for all is multiplied with the levels here."""
    one_scale = isinstance(encoded.scheme.granularity, PerTensor)
    indices = numbers(chain, store(chain, name, encoded, encoded.codes), name, INT32)
    levels = chain.constant(f"{name}/levels", encoded.levels * encoded.scale if one_scale else encoded.levels)
    decoded = chain.node("Gather", [levels, indices], f"{name}_levels", {"axis": 0})
    if one_scale:
        return decoded
    scale = spread(encoded.scale, encoded.codes.shape, encoded.scheme.granularity)
    return chain.node("Mul", [decoded, chain.constant(f"{name}/s", scale)], f"{name}/dq")


def _widened(chain: Chain, name: str, encoded: NarrowTensor) -> Value:
    """The numbers, as float32."""
    return chain.node("Cast", [chain.constant(f"{name}/half", encoded.values)], f"{name}/dq", {"to": FLOAT})
