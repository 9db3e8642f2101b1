"""Weight-only form: DequantizeLinear in the position from which the runtime multiplies codes without expanding them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompress.decisions import Quantize
from qcompress.graph.edit import int_attribute, set_attribute
from qcompress.operators import Layer, Role
from qcompress.rewrite.context import Context, encode_integers, place_before_user
from qcompress.rewrite.forms.gathered import gather_rows
from qcompress.rewrite.forms.parts import dequantize
from qcompress.types import PerChannel, QuantizedTensor


def write_weight_only(context: Context, layer: Layer, decision: Quantize) -> None:
    """Put the codes behind DequantizeLinear before each product; look-ups of a tied table gather codes.

    Case 1: MatMul reads the decoded weight (in, out) as it is.
    Case 2: MatMul reads a table (out, in) through a Transpose: DequantizeLinear, Transpose, MatMul.
    Case 3: Gemm with transB: codes are transposed and transB dropped, since only then the runtime has a kernel.
    """
    quantized = encode_integers(context, layer, decision)
    editor = context.editor(layer.graph)
    lookups = [use for use in layer.uses if use.operator is not None and use.operator.role is Role.LOOKUP]
    products = [use for use in layer.uses if use not in lookups]
    if not lookups and all(
        use.node.op_type == "Gemm" and int_attribute(use.node, "transB", 0) for use in products
    ):  # Case 3
        quantized = _transposed(quantized)
        for use in products:
            set_attribute(use.node, "transB", 0)
    decoded = dequantize(editor, quantized, layer.name, len(products))
    codes, scale = decoded[0].producer().inputs[:2] if products else (None, None)  # type: ignore[union-attr]
    for use, value in zip(products, decoded, strict=True):
        steps = [value]
        if use.transposed:  # Case 2
            steps.append(editor.node("Transpose", [value], f"{layer.name}_turned", {"perm": [1, 0]}))
        place_before_user(context, use.node, steps)
        use.node.replace_input_with(use.index, steps[-1])
    for use in lookups:
        gather_rows(context, layer, use.node, quantized, (codes, scale))


def _transposed(quantized: QuantizedTensor) -> QuantizedTensor:
    granularity = quantized.scheme.granularity
    scheme = quantized.scheme
    if isinstance(granularity, PerChannel):
        scheme = replace(scheme, granularity=PerChannel(1 - granularity.axis))
    return QuantizedTensor(np.ascontiguousarray(quantized.codes.T), quantized.scale, quantized.zero_point, scheme)
