"""Folded form: codes decoded by ordinary operators, which the runtime evaluates once when it loads the model."""

from __future__ import annotations

from qcompress.decisions import Quantize
from qcompress.graph import Value
from qcompress.graph.edit import FLOAT, INT32, replace_uses, set_constant
from qcompress.operators import Layer
from qcompress.rewrite.chain import Chain, shape_of
from qcompress.rewrite.context import Context, encode
from qcompress.rewrite.forms.parts import as_float, broadcastable, floats, zeros_of
from qcompress.rewrite.sparse import put_back, take_out
from qcompress.rewrite.storage import numbers, plain, scales, store
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
        decoded = _widened(chain, layer, encoded)
    if decoded is not layer.weight:
        replace_uses(layer.weight, decoded)
    chain.place_first()


def _affine(chain: Chain, layer: Layer, quantized: QuantizedTensor) -> Value:
    """(code - zero_point) * scale, in the shape of the weight."""
    name = layer.name
    codes, scale, zero_point = broadcastable(quantized)
    symmetric = quantized.scheme.symmetric and quantized.scheme.signed
    several = None if symmetric or zero_point.size == 1 else chain.constant(f"{name}/z", zero_point)
    stored = store(chain, name, quantized, codes, zeros_of(quantized, several))
    counted = numbers(chain, stored, name, FLOAT)
    zeros = None if symmetric else as_float(chain, zero_point if several is None else several, name)
    decoded = floats(chain, quantized.scheme, counted, stored.lowest, zeros)
    decoded = chain.node("Mul", [decoded, scales(chain, scale, name)], f"{name}/dq")
    if codes.shape != layer.shape:
        decoded = chain.node("Reshape", [decoded, shape_of(chain, layer.shape)], f"{name}_shaped")
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


def _widened(chain: Chain, layer: Layer, encoded: NarrowTensor) -> Value:
    """The numbers, as float32; those that are float32 and of which too few are zero stay where they are."""
    name, is_narrow = layer.name, encoded.scheme.bits < 32
    taken = take_out(chain, name, encoded, encoded.values)
    if taken is None and not is_narrow:
        set_constant(layer.weight, encoded.values)
        return layer.weight
    values = chain.constant(f"{name}/{'half' if is_narrow else 'q'}", encoded.values if taken is None else taken[0])
    if is_narrow:
        values = chain.node("Cast", [values], f"{name}/dq", {"to": FLOAT})
    return values if taken is None else put_back(chain, taken[1], values, name)
