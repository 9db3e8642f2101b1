"""Affine quantization: x is about (code - zero_point) * scale, the arithmetic of ONNX QuantizeLinear and DequantizeLinear.

    code = saturate(round_half_even(x / scale) + zero_point)

    symmetric    scale = max|x| / (2^(bits-1) - 1)      zero_point = the middle code; codes -127..127 at 8 bits
      to 5 bits  scale = max|x| / (2^(bits-1) - 0.5)    codes -8..7 at 4 bits
    asymmetric   scale = (high - low) / (qmax - qmin)   zero_point = round(qmin - low / scale)

The range always contains 0, and 0 is always exactly a code: padding, dead channels and ReLU outputs stay what they are.

Source: Jacob et al., CVPR 2018, arXiv:1712.05877, section 2.1, equation 1; ONNX operators QuantizeLinear and
DequantizeLinear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompress.errors import CalibrationError, ModelError
from qcompress.types import Array, Granularity, PerBlock, PerChannel, PerTensor, QuantizedTensor, QuantScheme, spread

# Smaller scales are denormal: processors that flush them to zero would divide by 0.
LEAST_SCALE = float(np.finfo(np.float32).tiny)

# The scale of a group of zeros is free, since all its codes are 0. The bias of its channel counts in steps of it, so it is
# fine; 2^-14 is the smallest normal float16, so it survives in a float16 model.
SCALE_OF_ZEROS = 2.0**-14


# Elements that are divided and rounded at once: a large table needs little memory beside itself.
AT_ONCE = 1 << 21


# Up to this width symmetric weights use all 2^bits codes. Squared error against leaving the smallest code out (512 x 512
# normal, Laplace and Student t weights, per channel, clipped): 2 bits 0.70, 3 bits 0.86, 4 bits 0.92, 5 bits 0.95,
# 8 bits 1.00; per block of 32 the gain ends at 5 bits (0.98) and 8 bits lose (1.09). At 8 bits codes -127..127 also keep
# the int8 products of x86 processors symmetric.
FULL_RANGE_BITS = 5


def quantize(
    values: Array, scheme: QuantScheme, clip: Array | None = None, least_scale: Array | None = None
) -> QuantizedTensor:
    """Round a weight to the nearest codes of the range of each group.

    Args:
        values: any shape and float type; the arithmetic is float32, so float16 weights do not underflow.
        scheme: the granularity's axis is an axis of ``values``.
        clip: shape of the scale, positive factors on each group's range; what then lies outside saturates.
        least_scale: shape of the scale, smaller scales are raised to it (see ``least_weight_scale``).

    Returns:
        Codes of the shape of ``values``. Scales are positive, finite and never denormal.

    Raises:
        ModelError: a value is NaN, infinite or beyond float32. The caller knows which weight it is.
    """
    values = as_float32(values)
    low, high = group_ranges(values, scheme.granularity)
    empty = high == low
    if clip is not None:
        low, high = low * clip, high * clip
    least = LEAST_SCALE if least_scale is None else np.maximum(least_scale, LEAST_SCALE)
    scale = np.where(empty, np.maximum(SCALE_OF_ZEROS, least), np.maximum(_steps(low, high, scheme), least))
    scale = np.asarray(scale, dtype=np.float32)
    return round_to_codes(values, scheme, scale, _zero_points(low, scale, scheme))


def parameters(low: Array | float, high: Array | float, scheme: QuantScheme) -> tuple[Array, Array]:
    """The scale and zero point of an activation, whose range is widened to contain 0.

    A range of nothing but 0 gets scale 1, which says nothing about values that the calibration did not see.

    Args:
        low: scalar or one per group.
        high: same shape as ``low``.
        scheme: its granularity is not looked at.

    Returns:
        Scale (float32) and zero point (storage type of the scheme), of the shape of ``low``.

    Raises:
        CalibrationError: an end of the range is NaN or infinite, or ``low`` is above ``high``.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise CalibrationError(
            f"a range from {low} to {high} cannot be quantized", "look for NaN or infinite values in the calibration data"
        )
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    step = _steps(low, high, scheme)
    scale = np.asarray(np.where(step == 0.0, 1.0, np.maximum(step, LEAST_SCALE)), dtype=np.float32)
    return scale, _zero_points(low, scale, scheme)


def round_to_codes(values: Array, scheme: QuantScheme, scale: Array, zero_point: Array) -> QuantizedTensor:
    """Round a weight to the nearest codes of given scales and zero points.

    Args:
        values: any shape, finite.
        scheme: the granularity's axis is an axis of ``values``.
        scale: float32, in the shape ``QuantizedTensor`` describes.
        zero_point: storage type of the scheme, shape of ``scale``.
    """
    codes = np.empty(values.shape, scheme.storage)
    if values.ndim == 0:
        codes[...] = _codes_of(values, scheme, scale, zero_point)
    step = _rows_at_once(values.shape, scheme.granularity)
    for start in range(0, len(values) if values.ndim else 0, step):
        rows = slice(start, min(start + step, len(values)))
        here = [_of_rows(parameter, rows, scheme.granularity, values.ndim) for parameter in (scale, zero_point)]
        codes[rows] = _codes_of(values[rows], scheme, *here)
    return QuantizedTensor(codes, scale, zero_point, scheme)


def _codes_of(values: Array, scheme: QuantScheme, scale: Array, zero_point: Array) -> Array:
    lowest, highest = code_range(scheme)
    with np.errstate(over="ignore"):  # far outside the range a quotient may be infinite: it saturates like any other
        codes = np.asarray(np.asarray(values, dtype=np.float32) / spread(scale, values.shape, scheme.granularity))
    np.rint(codes, out=codes)
    codes += spread(zero_point, values.shape, scheme.granularity).astype(np.float32)  # exact up to 2^24
    np.clip(codes, lowest, highest, out=codes)
    return codes


def _rows_at_once(shape: tuple[int, ...], granularity: Granularity) -> int:
    """Rows of the first axis that make about a part of ``AT_ONCE`` elements, whole blocks of them."""
    rows = max(1, AT_ONCE // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    if isinstance(granularity, PerBlock) and granularity.axis % max(len(shape), 1) == 0:
        rows = -(-rows // granularity.size) * granularity.size
    return rows


def _of_rows(parameter: Array, rows: slice, granularity: Granularity, rank: int) -> Array:
    """The scales or zero points of some rows of the first axis."""
    if isinstance(granularity, PerTensor):
        return parameter
    first = granularity.axis % rank == 0
    if isinstance(granularity, PerChannel):
        return parameter[rows] if first else parameter
    return parameter[rows.start // granularity.size : -(-rows.stop // granularity.size)] if first else parameter[rows]


def code_range(scheme: QuantScheme) -> tuple[int, int]:
    """The smallest and largest code a weight uses: wide symmetric schemes leave the smallest out."""
    narrow = scheme.symmetric and scheme.bits > FULL_RANGE_BITS
    return scheme.qmin + int(narrow), scheme.qmax


def group_ranges(values: Array, granularity: Granularity) -> tuple[Array, Array]:
    """The smallest and largest value of each group, widened to contain 0; float64, shape of the scale.

    Raises:
        ModelError: a value is NaN or infinite.
    """
    low = np.minimum(_reduce_groups(np.minimum, values, granularity).astype(np.float64), 0.0)
    high = np.maximum(_reduce_groups(np.maximum, values, granularity).astype(np.float64), 0.0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN and infinity survive minimum and maximum
        raise ModelError("a weight has NaN or infinite values", "export the model again from a checkpoint that is sound")
    return low, high


def as_float32(values: Array) -> Array:
    """The values in float32; what does not fit becomes infinite, which ``group_ranges`` refuses."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def _reduce_groups(operation: np.ufunc, values: Array, granularity: Granularity) -> Array:
    """Minimum or maximum over each group; an empty group has 0."""
    if isinstance(granularity, PerTensor):
        return np.asarray(operation.reduce(values, axis=None, initial=0.0))
    axis = granularity.axis % values.ndim
    if isinstance(granularity, PerChannel):
        others = tuple(index for index in range(values.ndim) if index != axis)
        return np.asarray(operation.reduce(values, axis=others, initial=0.0))
    starts = np.arange(0, values.shape[axis], granularity.size)
    return np.asarray(operation.reduceat(values, starts, axis=axis))


def _steps(low: Array, high: Array, scheme: QuantScheme) -> Any:
    """The width of one code in float64, 0 where the range is empty.

    A full symmetric range of 2^bits codes reaches half a step further than its last positive code: max|x| rounds with the
    same error of half a step as anything else.
    """
    if not scheme.symmetric:
        return (high - low) / (scheme.qmax - scheme.qmin)
    half = 2 ** (scheme.bits - 1)
    return np.maximum(-low, high) / (half - 0.5 if scheme.bits <= FULL_RANGE_BITS else half - 1)


def _zero_points(low: Array, scale: Array, scheme: QuantScheme) -> Array:
    """The code of 0, for scales as they are stored."""
    if scheme.symmetric:
        return np.full(scale.shape, scheme.midpoint, dtype=scheme.storage)
    zero_point = np.rint(scheme.qmin - low / scale.astype(np.float64))
    return np.asarray(np.clip(zero_point, scheme.qmin, scheme.qmax), dtype=scheme.storage)
