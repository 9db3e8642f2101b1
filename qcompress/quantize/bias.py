"""Biases as int32 in steps of input scale times weight scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompress.errors import ModelError
from qcompress.types import Array

# Half of int32 is for the bias, the other half for the products added to it: 33,000 of at most 255 * 127 each.
LARGEST_CODE = 2**30


@dataclass(frozen=True, slots=True)
class QuantizedBias:
    """A bias as integer kernels want it.

    ``codes``: (channels,), int32. ``scale``: input scale * weight scale, float32, () or (channels,). ``zero_point``:
    zeros, int32, shape of ``scale``.
    """

    codes: Array
    scale: Array
    zero_point: Array

    def dequantize(self) -> Array:
        """The float32 bias the codes stand for: codes * scale."""
        values: Array = self.codes.astype(np.float32) * self.scale
        return values


def quantize_bias(bias: Array, input_scale: Array, weight_scale: Array) -> QuantizedBias | None:
    """Round a bias to int32, or return None where it does not fit and must stay float.

    It does not fit when a code would leave no room for the sum of products, or when the scale leaves the normal float32. Weights
    quantized with ``least_weight_scale`` leave their bias room.

    Args:
        bias: (channels,).
        input_scale: (), float32.
        weight_scale: () or (channels,), float32.

    Raises:
        ModelError: the bias is NaN or infinite. The caller knows which bias it is.

    Source: Jacob et al., CVPR 2018, arXiv:1712.05877, equation 11.
    """
    _check_finite(bias)
    with np.errstate(over="ignore"):
        scale = np.asarray(np.float32(input_scale) * np.asarray(weight_scale, dtype=np.float32))
    if not (np.isfinite(scale).all() and (scale >= np.finfo(np.float32).tiny).all()):
        return None
    codes = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    if np.abs(codes).max(initial=0.0) > LARGEST_CODE:
        return None
    return QuantizedBias(codes.astype(np.int32), scale, np.zeros(scale.shape, dtype=np.int32))


def least_weight_scale(bias: Array, input_scale: Array) -> Array:
    """The smallest weight scale of each channel that lets its bias fit int32, (channels,), float32.

    Nearly dead channels (weights of 1e-10 beside a bias of 0.5, as BatchNorm folding leaves them) would otherwise keep
    the whole bias float. Coarser steps cost them nothing: a weight moves by at most bias / (input scale * 2^31).

    Args:
        bias: (channels,).
        input_scale: (), float32.

    Raises:
        ModelError: the bias is NaN or infinite.
    """
    _check_finite(bias)
    room = float(input_scale) * (LARGEST_CODE * (1.0 - 1e-6))  # the margin covers the rounding of scales to float32
    least = np.abs(bias.astype(np.float64)) / room
    normal = 1.001 * float(np.finfo(np.float32).tiny) / float(input_scale)  # the product of scales is not denormal
    return np.asarray(np.clip(least, normal, 1e30), dtype=np.float32)


def _check_finite(bias: Array) -> None:
    if not np.isfinite(bias).all():
        raise ModelError("a bias has NaN or infinite values", "export the model again from a checkpoint that is sound")
