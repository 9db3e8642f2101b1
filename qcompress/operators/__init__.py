"""Facts about ONNX operators as table rows: where the weight is, which axes, what can become integers."""

from qcompress.operators.layers import Layer, find_layers, why_not_stored
from qcompress.operators.support import Cell, cell_rows, cells, needed_opset, portable, wanted_opset, why_not
from qcompress.operators.table import OPERATORS, Operator, Role, support_rows

__all__ = [
    "OPERATORS",
    "Cell",
    "Layer",
    "Operator",
    "Role",
    "cell_rows",
    "cells",
    "find_layers",
    "needed_opset",
    "portable",
    "support_rows",
    "wanted_opset",
    "why_not",
    "why_not_stored",
]
