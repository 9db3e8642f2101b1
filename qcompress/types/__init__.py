"""Words everybody uses: schemes, quantized tensors, ranges, statistics and signatures."""

from qcompress.types.arrays import ROOT, Array, Feed
from qcompress.types.facts import ChannelSamples, NodeSpec, Statistics, StatisticsNeeds, TensorRange, TensorSignature
from qcompress.types.pruning import CHANNELS, UNSTRUCTURED, Criterion, Pattern, Prune, Spread
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
    "CHANNELS",
    "FLOAT_SCHEMES",
    "ROOT",
    "UNSTRUCTURED",
    "Array",
    "ChannelSamples",
    "CodebookScheme",
    "CodebookTensor",
    "Criterion",
    "EncodedTensor",
    "Feed",
    "FloatScheme",
    "Form",
    "Granularity",
    "Levels",
    "NarrowTensor",
    "NodeSpec",
    "Pattern",
    "PerBlock",
    "PerChannel",
    "PerTensor",
    "Prune",
    "QuantScheme",
    "QuantizedTensor",
    "Rounding",
    "Scheme",
    "Spread",
    "Statistics",
    "StatisticsNeeds",
    "TensorRange",
    "TensorSignature",
    "parse_scheme",
    "spread",
]
