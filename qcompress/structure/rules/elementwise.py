"""Operators that compute every output number from the numbers at the same place: broadcasting, constants included."""

from __future__ import annotations

from qcompress.graph import Node, Value
from qcompress.structure.trace import Trace, label

OPERATORS = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "Cast", "Ceil", "Celu", "Clip"),
    *("Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean"),
    *("Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid"),
    *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("Where", "Xor"),
)


def elementwise(node: Node, trace: Trace) -> None:
    """Every axis of the output is the axis of every input that is as long; axes of one element are spread over it."""
    for output in node.outputs:
        for source in node.inputs:
            if source is not None and output.name:
                broadcast(node, source, output, trace)


def broadcast(node: Node, source: Value, output: Value, trace: Trace) -> None:
    """Tie the axes of an input, aligned at the last one, with those of the output."""
    offset = trace.rank(output) - trace.rank(source)
    for axis in range(trace.rank(source)):
        if trace.size((source, axis)) == trace.size((output, axis + offset)):
            trace.tie((source, axis), (output, axis + offset))
        else:
            trace.block((source, axis), f"{label(node)} spreads it over an axis")
