"""The operators qcompress knows: one row each; an operator that is not here is left in float, with that reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qcompress.types import Form


class Role(StrEnum):
    """What an operator is to quantization."""

    LINEAR = "linear"
    """A sum of products with a weight: the layers that gain from integers."""
    RECURRENT = "recurrent"
    """LSTM, GRU, RNN: several weights, computed in float."""
    LOOKUP = "lookup"
    """Rows of a table by index: embeddings."""
    INTEGER = "integer"
    """Has an integer kernel of its own with a scale of its own."""
    SAME_SCALE = "same scale"
    """Moves or selects numbers: integer in, the same integers out."""
    FLOAT = "float"
    """Known, and left in float."""
    ABSORBED = "absorbed"
    """Saturation does its work when it stands between a layer and its quantized output."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    ``weights``: inputs that are weights when constant. ``bias``: input of the bias. ``forms``: forms its weights can
    take, best first. ``activations``: inputs that carry activations.
    """

    op_type: str
    role: Role
    weights: tuple[int, ...] = ()
    bias: int | None = None
    forms: tuple[Form, ...] = ()
    activations: tuple[int, ...] = (0,)
    remark: str = ""


_ROWS = (
    Operator("Conv", Role.LINEAR, (1,), 2, (Form.STATIC, Form.FOLDED), remark="1-D to 3-D, grouped, depthwise"),
    Operator(
        "ConvTranspose", Role.LINEAR, (1,), 2, (Form.FOLDED,), remark="no integer kernel on the CPU: stored compressed"
    ),
    Operator(
        "Gemm", Role.LINEAR, (1,), 2, (Form.STATIC, Form.DYNAMIC, Form.WEIGHT_ONLY, Form.FOLDED), remark="either transB"
    ),
    Operator(
        "MatMul",
        Role.LINEAR,
        (0, 1),
        None,
        (Form.STATIC, Form.DYNAMIC, Form.WEIGHT_ONLY, Form.FOLDED),
        (0, 1),
        "weight on either side; two activations in mode static",
    ),
    Operator("LSTM", Role.RECURRENT, (1, 2), 3, (Form.FOLDED,), remark="input and recurrence weights per gate row"),
    Operator("GRU", Role.RECURRENT, (1, 2), 3, (Form.FOLDED,), remark="input and recurrence weights per gate row"),
    Operator("RNN", Role.RECURRENT, (1, 2), 3, (Form.FOLDED,), remark="input and recurrence weights per gate row"),
    Operator(
        "Gather", Role.LOOKUP, (0,), None, (Form.GATHERED, Form.FOLDED), (), "embeddings: rows are decoded after the look-up"
    ),
    Operator("Add", Role.INTEGER, activations=(0, 1), remark="between quantized tensors"),
    Operator("Mul", Role.INTEGER, activations=(0, 1), remark="between quantized tensors"),
    Operator("Concat", Role.INTEGER, remark="between quantized tensors"),
    Operator("AveragePool", Role.INTEGER, remark="between quantized tensors"),
    Operator("GlobalAveragePool", Role.INTEGER, remark="between quantized tensors"),
    Operator("LeakyRelu", Role.INTEGER, remark="between quantized tensors"),
    Operator("Sigmoid", Role.INTEGER, remark="between quantized tensors"),
    Operator("Softmax", Role.FLOAT, remark="an 8-bit softmax costs accuracy and is not faster"),
    Operator("MaxPool", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Resize", Role.SAME_SCALE, remark="nearest: on the integers of its input; other modes in float"),
    Operator("Reshape", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Flatten", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Transpose", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Squeeze", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Unsqueeze", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Slice", Role.SAME_SCALE, remark="on the integers of its input"),
    Operator("Relu", Role.ABSORBED, remark="absorbed by the saturation of the layer before it"),
    Operator("Clip", Role.ABSORBED, remark="absorbed by the saturation of the layer before it"),
)

OPERATORS: dict[str, Operator] = {row.op_type: row for row in _ROWS}
"""Operators of the default domain by name."""


def support_rows() -> list[tuple[str, str, str]]:
    """(operator, what its weights or values become, remark) for every row of the table."""
    rows = []
    for row in _ROWS:
        what = ", ".join(form.value for form in row.forms) if row.forms else row.role.value
        rows.append((row.op_type, what, row.remark))
    return rows
