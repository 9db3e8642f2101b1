"""How a cut of channels goes through each operator; an operator that is not in the table lets everything stay it touches."""

from __future__ import annotations

from collections.abc import Callable

from qcompress.graph import Node
from qcompress.structure.rules import (
    convolution,
    elementwise,
    layout,
    normalisation,
    pooling,
    products,
    recurrent,
    reductions,
    selection,
    shapes,
)
from qcompress.structure.trace import Trace, Vector

Rule = Callable[[Node, Trace], None]
ShapeRule = Callable[[Node, Trace], Vector | None]

RULES: dict[str, Rule] = {
    **dict.fromkeys(elementwise.OPERATORS, elementwise.elementwise),
    **dict.fromkeys(reductions.OPERATORS, reductions.reduction),
    "ArgMax": reductions.arg_reduction,
    "ArgMin": reductions.arg_reduction,
    "AveragePool": pooling.pool,
    "BatchNormalization": normalisation.batch_normalization,
    "Concat": selection.concat,
    "ConstantOfShape": layout.constant_of_shape,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "CumSum": reductions.cumulative,
    "Expand": layout.expand,
    "Flatten": layout.flatten,
    "GRU": recurrent.recurrent,
    "Gather": selection.gather,
    "Gemm": products.gemm,
    "GlobalAveragePool": pooling.pool,
    "GlobalLpPool": pooling.pool,
    "GlobalMaxPool": pooling.pool,
    "GroupNormalization": normalisation.group_normalization,
    "Hardmax": normalisation.softmax,
    "InstanceNormalization": normalisation.instance_normalization,
    "LRN": normalisation.local_response,
    "LSTM": recurrent.recurrent,
    "LayerNormalization": normalisation.layer_normalization,
    "LogSoftmax": normalisation.softmax,
    "LpNormalization": normalisation.softmax,
    "LpPool": pooling.pool,
    "MatMul": products.matmul,
    "MaxPool": pooling.pool,
    "MeanVarianceNormalization": normalisation.mean_variance,
    "Pad": selection.pad,
    "RMSNormalization": normalisation.layer_normalization,
    "RNN": recurrent.recurrent,
    "Reshape": layout.reshape,
    "Resize": pooling.resize,
    "Slice": selection.slice_,
    "Softmax": normalisation.softmax,
    "Split": selection.split,
    "Squeeze": layout.squeeze,
    "Tile": layout.tile,
    "TopK": reductions.top_k,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
"""Operators of the default domain by name."""

SHAPE_RULES: dict[str, ShapeRule] = {
    "Cast": shapes.cast,
    "Concat": shapes.concat,
    "Gather": shapes.gather,
    "Identity": shapes.same,
    "Reshape": shapes.same,
    "Shape": shapes.shape,
    "Slice": shapes.slice_,
    "Squeeze": shapes.same,
    "Unsqueeze": shapes.same,
}
"""The same for operators whose input is a computed shape."""

__all__ = ["RULES", "SHAPE_RULES", "Rule", "ShapeRule"]
