"""Facts about ONNX operators as table rows: where the weight is, which axes, what can become integers."""

from qcompress.operators.layers import Layer, find_layers
from qcompress.operators.table import OPERATORS, Operator, Role, support_rows

__all__ = ["OPERATORS", "Layer", "Operator", "Role", "find_layers", "support_rows"]
