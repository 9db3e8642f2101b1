"""Weight-only form: DequantizeLinear in the position from which the runtime multiplies codes without expanding them."""

from __future__ import annotations

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph import Value
from qcompress.graph.edit import FLOAT, INT4, UINT4, four_bits, set_attribute
from qcompress.operators import Layer, Role
from qcompress.operators.support import BLOCKS
from qcompress.rewrite.context import Context, encode_integers
from qcompress.rewrite.forms.gathered import Table, gather_rows
from qcompress.rewrite.forms.parts import dequantize, dequantize_attributes
from qcompress.rewrite.storage import Chain, integers, plain, scales, shape_of
from qcompress.types import Array, PerBlock, PerChannel, QuantizedTensor


def write_weight_only(context: Context, layer: Layer, decision: Quantize) -> None:
    """Put the codes behind DequantizeLinear before the product; look-ups of a tied table gather codes.

    The product reads (in, out), for which alone the runtime has a kernel.

    Case 1: the weight is stored so.
    Case 2: it is stored (out, in), read through a Transpose or by a Gemm with transB: codes are stored transposed.
    Case 3: rows of it are looked up too: the stored codes (out, in) are transposed when the model is loaded.
    """
    quantized = plain(encode_integers(context, layer, decision))
    lookups = [use for use in layer.uses if use.operator is not None and use.operator.role is Role.LOOKUP]
    (product,) = (use for use in layer.uses if use not in lookups)
    chain = Chain(context, layer.graph)
    as_four = quantized.scheme.bits == 4 and context.model.opset >= BLOCKS  # the runtime has a kernel for these
    table = Table(context, layer, quantized)
    as_read = _transposed(quantized) if layer.axis == 0 else quantized
    if lookups:  # Case 3
        inputs = _turned(chain, table, quantized, as_four)
    elif as_four:
        inputs = _four(chain, as_read, layer.name)
    else:
        inputs = dequantize(chain, as_read, layer.name)
    if product.node.op_type == "Gemm":
        set_attribute(product.node, "transB", 0)
    decoded = chain.node("DequantizeLinear", inputs, f"{layer.name}/dq", dequantize_attributes(as_read))
    chain.place_before(product.node)
    product.node.replace_input_with(product.index, decoded)
    for use in lookups:
        gather_rows(table, use.node)


def _transposed(quantized: QuantizedTensor) -> QuantizedTensor:
    """(out, in) -> (in, out)."""
    granularity, scheme = quantized.scheme.granularity, quantized.scheme
    if isinstance(granularity, (PerBlock, PerChannel)):
        scheme = scheme.on_axis(1 - granularity.axis % 2)
    return QuantizedTensor(
        np.ascontiguousarray(quantized.codes.T),
        np.ascontiguousarray(quantized.scale.T),  # (channels,) stays what it is
        np.ascontiguousarray(quantized.zero_point.T),
        scheme,
    )


def _four(chain: Chain, quantized: QuantizedTensor, name: str) -> list[Value]:
    """What DequantizeLinear reads, with codes of ONNX's own 4-bit types."""
    inputs = [
        chain.constant(f"{name}/q", four_bits(quantized.codes)),
        scales(chain, quantized, quantized.scale, name),
    ]
    if not quantized.scheme.symmetric:
        zeros = chain.constant(f"{name}/z", quantized.zero_point)
        inputs.append(chain.node("Cast", [zeros], f"{name}_zeros", {"to": UINT4}))
    return inputs


def _turned(chain: Chain, table: Table, quantized: QuantizedTensor, as_four: bool) -> list[Value]:
    """What DequantizeLinear reads, from the parts that look-ups read: codes (rows, width), parameters one a row or block."""
    name = table.layer.name
    codes = integers(chain, table.stored(quantized), name)
    codes = chain.node("Transpose", [codes], f"{name}_turned", {"perm": [1, 0]})
    element = (INT4 if quantized.scheme.symmetric else UINT4) if as_four else None
    inputs = [codes if element is None else chain.node("Cast", [codes], f"{name}_four", {"to": element})]
    scale = table.scale(quantized)
    if scale.dtype is None or scale.dtype.name != "FLOAT":
        scale = chain.node("Cast", [scale], f"{name}_scales", {"to": FLOAT})
    inputs.append(_as_read(chain, scale, quantized.scale, f"{name}_scale"))
    if not (quantized.scheme.symmetric and quantized.scheme.signed):
        zeros = _as_read(chain, table.zeros(quantized), quantized.zero_point, f"{name}_zero")
        inputs.append(zeros if element is None else chain.node("Cast", [zeros], f"{name}_zeros", {"to": element}))
    return inputs


def _as_read(chain: Chain, parameter: Value, array: Array, name: str) -> Value:
    """A parameter of the table's rows, (rows, 1) or (rows, blocks, 1), as the product wants it: (rows,) or (blocks, rows)."""
    if array.ndim == 0:
        return parameter
    shape = shape_of(chain, array.shape)
    flat = chain.node("Reshape", [parameter, shape], name)
    return flat if array.ndim == 1 else chain.node("Transpose", [flat], f"{name}_turned", {"perm": [1, 0]})
