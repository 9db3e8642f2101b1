"""Gradients without a training framework: the backward pass of a model as ordinary operators, run by the runtime."""

from qcompress.gradient.backward import Backward, BackwardSettings
from qcompress.gradient.rules import RULES

__all__ = ["RULES", "Backward", "BackwardSettings"]
