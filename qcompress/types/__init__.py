"""Words everybody uses: schemes, quantized tensors, ranges, statistics and signatures."""

from qcompress.types.arrays import ROOT, Array, Feed
from qcompress.types.facts import ChannelSamples, NodeSpec, Statistics, StatisticsNeeds, TensorRange, TensorSignature
from qcompress.types.schemes import (
    FLOAT_SCHEMES,
    CodebookScheme,
    FloatScheme,
    Granularity,
    Levels,
    PerBlock,
    PerChannel,
    PerTensor,
    QuantScheme,
    Scheme,
    parse_scheme,
    spread,
)
from qcompress.types.tensors import CodebookTensor, EncodedTensor, Form, NarrowTensor, QuantizedTensor, Rounding

__all__ = [
    "FLOAT_SCHEMES",
    "ROOT",
    "Array",
    "ChannelSamples",
    "CodebookScheme",
    "CodebookTensor",
    "EncodedTensor",
    "Feed",
    "FloatScheme",
    "Form",
    "Granularity",
    "Levels",
    "NarrowTensor",
    "NodeSpec",
    "PerBlock",
    "PerChannel",
    "PerTensor",
    "QuantScheme",
    "QuantizedTensor",
    "Rounding",
    "Scheme",
    "Statistics",
    "StatisticsNeeds",
    "TensorRange",
    "TensorSignature",
    "parse_scheme",
    "spread",
]
