"""A weight as it is stored: its form, its rounding, its codes and what turns them back into numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from qcompress.types.arrays import Array
from qcompress.types.schemes import CodebookScheme, FloatScheme, QuantScheme, spread


class Form(StrEnum):
    """How a weight is stored and computed with in the compressed model."""

    STATIC = "static"
    """int8 weight and activations with calibrated ranges: QuantizeLinear/DequantizeLinear around the operator."""
    DYNAMIC = "dynamic"
    """int8 weight; the activation's range is taken at run time: DynamicQuantizeLinear and MatMulInteger."""
    WEIGHT_ONLY = "weight-only"
    """Quantized weight behind DequantizeLinear, in the shape the runtime multiplies without expanding it."""
    FOLDED = "folded"
    """Quantized weight decoded by ordinary operators that the runtime folds at load: small file, float speed."""
    GATHERED = "gathered"
    """Quantized table whose codes are gathered first and only then decoded."""


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Integer codes and what turns them back into numbers.

    ``codes`` has the shape of the float array. ``scale`` (float32) and ``zero_point`` (storage type of the scheme) have
    shape () per tensor, (channels,) per channel, and the float array's shape with ``axis`` shortened to the number of
    blocks per block (the last block may be partial).
    """

    codes: Array
    scale: Array
    zero_point: Array
    scheme: QuantScheme

    def dequantize(self) -> Array:
        """The float32 array the codes stand for: (codes - zero_point) * scale."""
        difference = self.codes.astype(np.int32) - self.spread(self.zero_point).astype(np.int32)
        values: Array = difference.astype(np.float32) * self.spread(self.scale)
        return values

    def spread(self, parameter: Array) -> Array:
        """A scale or zero point made broadcastable against the codes."""
        return spread(parameter, self.codes.shape, self.scheme.granularity)


@dataclass(frozen=True, slots=True)
class CodebookTensor:
    """Indices into levels: value = levels[code] * scale.

    ``codes``: uint8, shape of the float array. ``levels``: (entries,), float32, ascending. ``scale``: float32, () per tensor
    or (channels,) per channel.
    """

    codes: Array
    levels: Array
    scale: Array
    scheme: CodebookScheme

    def dequantize(self) -> Array:
        """The float32 array the codes stand for."""
        values: Array = self.levels[self.codes] * spread(self.scale, self.codes.shape, self.scheme.granularity)
        return values


@dataclass(frozen=True, slots=True)
class NarrowTensor:
    """Numbers in a narrower float type; ``values`` has the shape of the float array."""

    values: Array
    scheme: FloatScheme

    def dequantize(self) -> Array:
        """The float32 array."""
        return self.values.astype(np.float32)


EncodedTensor = QuantizedTensor | CodebookTensor | NarrowTensor
"""A weight as it is stored."""


class Rounding(StrEnum):
    """How codes are chosen for the numbers of a weight."""

    NEAREST = "nearest"
    """The nearest code, over the full range."""
    CLIP = "clip"
    """The nearest code, over the range of least error weighted with the inputs' second moments."""
    GPTQ = "gptq"
    """One input after the other, the rest making up for the error of those before it."""
    FITTED = "fitted"
    """GPTQ, coordinate descent and refitted scales, on correlations shrunk as far as held-out samples ask for."""
    HQQ = "hqq"
    """Zero points fitted to the weights alone, large errors forgiven; needs no data."""
