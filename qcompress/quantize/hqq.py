"""Half-quadratic quantization: zero points and scales fitted to the weights alone, large errors forgiven.

    minimise over q, zero, scale    sum |w - scale (q - zero)|^p        p = 0.7

The difference is split into an error e that the l_p norm judges and a rest that least squares judge, in turn:

    e    = shrink(w - scale (q - zero))        shrink(x) = sign(x) max(0, |x| - |x|^(p - 1) / beta)
    zero = mean(q - (w - e) / scale)
    q    = nearest((w / scale) + zero)

Source: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023, and the constants of its
implementation. There zero points are real numbers; ONNX has integers, so here the scale takes its share as well.
"""

from __future__ import annotations

import numpy as np

from qcompress.quantize.affine import LEAST_SCALE, as_float32, code_range, quantize, round_to_codes
from qcompress.quantize.groups import members, parts, per_row, restored, rows_first
from qcompress.types import Array, PerTensor, QuantizedTensor, QuantScheme

NORM = 0.7
"""p. Source: Badri and Shaji, 2023, default of their implementation."""

# Weight of the least squares, its growth and the number of iterations. Source: as NORM.
_BETA, _GROWTH, _ITERATIONS = 10.0, 1.01, 20


def quantize_hqq(weight: Array, scheme: QuantScheme) -> QuantizedTensor:
    """Round a weight with the zero points and scales of least l_p error; none is above that of ``quantize``.

    Args:
        weight: any shape.
        scheme: asymmetric; the granularity's axis is an axis of ``weight``.

    Raises:
        ModelError: a weight is NaN, infinite or beyond float32.

    Source: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.
    """
    weight = as_float32(weight)
    start = quantize(weight, scheme)
    whole = isinstance(scheme.granularity, PerTensor)
    rows = weight.reshape(1, -1) if whole else rows_first(weight, scheme.granularity)
    scale, zero = (per_row(values, len(rows), scheme.granularity).copy() for values in (start.scale, start.zero_point))
    for part in parts(rows):
        chunk = members(rows[part], scheme.granularity)
        found = _fit(chunk, scale[part].reshape(chunk.shape[:2]), zero[part].reshape(chunk.shape[:2]), scheme)
        scale[part], zero[part] = (values.reshape(scale[part].shape) for values in found)
    shape = start.scale.shape
    if whole:
        return round_to_codes(weight, scheme, scale.reshape(shape), zero.reshape(shape))
    return round_to_codes(
        weight, scheme, restored(scale, shape, scheme.granularity), restored(zero, shape, scheme.granularity)
    )


def _fit(chunk: Array, scale: Array, zero: Array, scheme: QuantScheme) -> tuple[Array, Array]:
    """Scale and zero point of each group; chunk (rows, blocks, members) -> (rows, blocks) each."""
    lowest, highest = code_range(scheme)
    unit = np.maximum(np.abs(chunk).max(axis=-1, initial=0.0), LEAST_SCALE).astype(
        np.float64
    )  # beta counts in weights near 1
    weights = chunk / unit[..., None]
    step, middle = scale / unit, zero.astype(np.float64)
    best = (step, middle)
    least = np.full(scale.shape, np.inf)
    beta = _BETA
    for _ in range(_ITERATIONS):
        codes = np.clip(np.rint(weights / step[..., None]) + middle[..., None], lowest, highest)
        units = codes - middle[..., None]
        error = weights - units * step[..., None]
        total = (np.abs(error) ** NORM).sum(axis=-1)
        better = total < least
        best = tuple(np.where(better, new, old) for new, old in zip((step, middle), best, strict=True))
        least = np.minimum(total, least)
        smooth = weights - _shrink(error, beta)
        middle = np.clip(np.rint((codes - smooth / step[..., None]).mean(axis=-1)), scheme.qmin, scheme.qmax)
        units = codes - middle[..., None]
        above, below = np.vecdot(units, smooth), np.vecdot(units, units)
        step = np.where((above > 0.0) & (below > 0.0), above / np.where(below > 0.0, below, 1.0), step)
        step = np.maximum(step, LEAST_SCALE / unit).astype(np.float64)
        beta *= _GROWTH
    found = np.maximum(best[0] * unit, LEAST_SCALE).astype(np.float32)
    return np.where(least > 0.0, found, scale), best[1].astype(scheme.storage)


def _shrink(error: Array, beta: float) -> Array:
    """The proximal operator of the l_p norm, as its authors approximate it."""
    size = np.abs(error)
    threshold = np.where(size > 0.0, size, 1.0) ** (NORM - 1.0) / beta
    return np.asarray(np.sign(error) * np.maximum(size - threshold, 0.0))
