"""Gradients without a training framework: the backward pass of a model as ordinary operators, run by the runtime."""

from qcompress.gradient.backward import Backward, BackwardSettings
from qcompress.gradient.importance import (
    ChannelEffects,
    ImportanceSettings,
    Kinds,
    WeightGradients,
    channel_effects,
    weight_gradients,
)
from qcompress.gradient.objectives import cross_entropy, divergence, drawn, projection, squared_error
from qcompress.gradient.rules import RULES

__all__ = [
    "RULES",
    "Backward",
    "BackwardSettings",
    "ChannelEffects",
    "ImportanceSettings",
    "Kinds",
    "WeightGradients",
    "channel_effects",
    "cross_entropy",
    "divergence",
    "drawn",
    "projection",
    "squared_error",
    "weight_gradients",
]
