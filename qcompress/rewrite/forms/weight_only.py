"""Weight-only form: DequantizeLinear in the position from which the runtime multiplies codes without expanding them."""

from __future__ import annotations

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph import Graph, Node, Value
from qcompress.graph.edit import FLOAT, INT4, UINT4, four_bits, is_constant, set_attribute, take_over
from qcompress.operators import Layer, Role
from qcompress.operators.flow import clip_bounds
from qcompress.operators.support import BLOCKS
from qcompress.rewrite.chain import Chain, shape_of
from qcompress.rewrite.context import Context, encode_integers
from qcompress.rewrite.forms.gathered import Table, gather_rows
from qcompress.rewrite.forms.parts import dequantize, dequantize_attributes, zeros_of
from qcompress.rewrite.storage import integers, plain, scales, store_sparse
from qcompress.types import Array, PerBlock, PerChannel, PerTensor, QuantizedTensor


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
    is_gemm = product.node.op_type == "Gemm"
    as_four = quantized.scheme.bits == 4 and context.model.opset >= BLOCKS  # the runtime has a kernel for these
    table = Table(context, layer, quantized)
    as_read = _transposed(quantized) if layer.axis == 0 else quantized
    chain = Chain(context, layer.graph)
    inputs = _turned(chain, table, quantized, as_four) if lookups else _stored(chain, layer.name, as_read, as_four)
    attributes = dequantize_attributes(as_read)
    if is_gemm:
        set_attribute(product.node, "transB", 0)
        if isinstance(as_read.scheme.granularity, PerTensor):  # for Gemm the kernel wants a scale a column
            columns = shape_of(chain, (as_read.codes.shape[1],))
            inputs[1:] = [chain.node("Expand", [value, columns], f"{value.name}_columns") for value in inputs[1:]]
            attributes = {"axis": 1}
    if as_four and len(inputs) > 2:
        inputs[2] = chain.node("Cast", [inputs[2]], f"{layer.name}_zeros", {"to": UINT4})
    decoded = chain.node("DequantizeLinear", inputs, f"{layer.name}/dq", attributes)
    chain.place_before(product.node)
    product.node.replace_input_with(product.index, decoded)
    _unclip(context, product.node)
    for use in lookups:
        gather_rows(table, use.node)


def _unclip(context: Context, product: Node) -> None:
    """Write Relu and Clip right behind a product as Max and Min.

    With either of them there the runtime (1.31) keeps DequantizeLinear and decodes the whole weight on every run: a product
    of 2 rows, 256 inputs and 512 outputs took 0.25 ms instead of 0.02, at 4 and at 8 bits.
    """
    output = product.outputs[0]
    users = [use.node for use in output.uses()]
    if len(users) == 1 and users[0].op_type == "Add" and any(is_constant(value) for value in users[0].inputs):
        output = users[0].outputs[0]  # the runtime makes one Gemm of both
    for user in [use.node for use in output.uses()]:
        clips = user.op_type in ("Relu", "Clip") and not user.domain and user.inputs[0] is output
        if (
            not clips
            or not isinstance(user.graph, Graph)
            or not all(value is None or is_constant(value) for value in user.inputs[1:])
        ):
            continue
        chain = Chain(context, user.graph)
        value = output
        for op_type, bound in zip(("Max", "Min"), clip_bounds(user), strict=True):
            if np.isfinite(bound):
                limit = chain.shared(f"bound/{bound:g}", np.asarray(bound, dtype=np.float32))
                value = chain.node(op_type, [value, limit], f"{user.outputs[0].name}_{op_type.lower()}")
        if value is not output:
            chain.place_before(user)
            take_over(user, value)


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


def _stored(chain: Chain, name: str, quantized: QuantizedTensor, as_four: bool) -> list[Value]:
    """What DequantizeLinear reads, stored as it is read; zero points, if any, in bytes."""
    if not as_four:
        return dequantize(chain, quantized, name)
    zero_points = None if quantized.scheme.symmetric else chain.constant(f"{name}/z", quantized.zero_point)
    stored = store_sparse(chain, name, quantized, quantized.codes, zeros_of(quantized, zero_points))
    if stored is None:
        codes = chain.constant(f"{name}/q", four_bits(quantized.codes))
    else:
        kind = INT4 if quantized.scheme.signed else UINT4
        codes = chain.node("Cast", [integers(chain, stored, name)], f"{name}_four", {"to": kind})
    inputs = [codes, scales(chain, quantized.scale, name)]
    return inputs if zero_points is None else [*inputs, zero_points]


def _turned(chain: Chain, table: Table, quantized: QuantizedTensor, as_four: bool) -> list[Value]:
    """The same, from the parts that look-ups read: codes (rows, width), parameters one a row or block."""
    name = table.layer.name
    symmetric = quantized.scheme.symmetric and quantized.scheme.signed
    codes = integers(chain, table.stored(quantized), name)
    codes = chain.node("Transpose", [codes], f"{name}_turned", {"perm": [1, 0]})
    if as_four:
        codes = chain.node("Cast", [codes], f"{name}_four", {"to": INT4 if symmetric else UINT4})
    scale = table.scale(quantized)
    if scale.dtype is None or scale.dtype.name != "FLOAT":
        scale = chain.node("Cast", [scale], f"{name}_scales", {"to": FLOAT})
    inputs = [codes, _as_read(chain, scale, quantized.scale, f"{name}_scale")]
    zeros = None if symmetric else _as_read(chain, table.zeros(quantized), quantized.zero_point, f"{name}_zero")
    return inputs if zeros is None else [*inputs, zeros]


def _as_read(chain: Chain, parameter: Value, array: Array, name: str) -> Value:
    """A parameter of the table's rows, (rows, 1) or (rows, blocks, 1), as the product wants it: (rows,) or (blocks, rows)."""
    if array.ndim == 0:
        return parameter
    shape = shape_of(chain, array.shape)
    flat = chain.node("Reshape", [parameter, shape], name)
    return flat if array.ndim == 1 else chain.node("Transpose", [flat], f"{name}_turned", {"perm": [1, 0]})
