"""What operators alone tell about the values of a tensor, so that observers need not look."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from qcompress.graph import Model, Node
from qcompress.graph.edit import constant_array

NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})
"""Operators whose output has no negative value."""

FINITE = frozenset(
    """Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose DepthToSpace Dropout Erf
    Expand Flatten Gather Gelu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LayerNormalization LeakyRelu
    MatMul Max MaxPool Min Mul Neg PRelu Pad ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Shape Sigmoid Slice
    Split Squeeze Sub Sum Tanh Transpose Unsqueeze Upsample Where""".split()  # noqa: SIM905
)
"""Operators that make NaN out of finite values only by overflow; softmax of a fully masked row is not among them."""


def may_be_nan(model: Model, observed: Set[str]) -> set[str]:
    """The observed tensors in which NaN can arise, or that it can reach without passing another observed tensor first.

    Overflow of float32 is left out: it gives infinite values and NaN in many places, of which extremes and
    sub-samples see some.
    """
    found: set[str] = set()
    unsure: set[str] = set()
    for value in model.graph.inputs:
        (found if value.name in observed else unsure).add(value.name or "")
    for node in model.graph:
        if _keeps_finite(node) and not any(value is not None and value.name in unsure for value in node.inputs):
            continue
        for value in node.outputs:
            (found if value.name in observed else unsure).add(value.name or "")
    return found


def never_negative(model: Model) -> set[str]:
    """Outputs of the main graph that have no negative value: every range reaches down to 0 and no further."""
    return {node.outputs[0].name or "" for node in model.graph if _never_negative(node)}


def _keeps_finite(node: Node) -> bool:
    if node.domain != "":
        return False
    if node.op_type == "Div":
        divisor = constant_array(node.inputs[1])
        return divisor is not None and bool(np.all(np.abs(divisor) >= np.finfo(np.float32).tiny))
    return node.op_type in FINITE


def _never_negative(node: Node) -> bool:
    if node.domain != "":
        return False
    if node.op_type != "Clip":
        return node.op_type in NEVER_NEGATIVE
    if len(node.inputs) > 1:
        least = constant_array(node.inputs[1])
        return least is not None and least.size == 1 and float(least.reshape(-1)[0]) >= 0.0
    return "min" in node.attributes and node.attributes["min"].as_float() >= 0.0
