"""A weight under the decision of a plan: clip factors come as a flat list, one for all groups when they are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qcompress.quantize.affine import quantize, round_to_codes
from qcompress.types import Array, PerBlock, PerTensor, QuantizedTensor, QuantScheme


def quantize_weight(
    weight: Array, scheme: QuantScheme, clip: Sequence[float] = (), least_scale: Array | None = None
) -> QuantizedTensor:
    """Round a weight with the clip factors of a plan.

    Args:
        weight: any shape.
        scheme: its axis is an axis of ``weight``.
        clip: one factor per group in C order, one for all, or none.
        least_scale: (channels,) or None; per tensor the largest of it counts.
    """
    factors: Array | None = None
    if len(clip) == 1:
        factors = np.asarray(clip[0])
    elif clip:
        factors = np.asarray(clip).reshape(scale_shape(weight.shape, scheme))
    if least_scale is not None and isinstance(scheme.granularity, PerTensor):
        least_scale = np.max(least_scale)
    return quantize(weight, scheme, factors, least_scale)


def least_scales_kept(fitted: QuantizedTensor, weight: Array, least_scale: Array) -> QuantizedTensor:
    """Fitted codes, the groups whose scale is below the least one rounded again with that.

    Args:
        fitted: codes of ``weight``, not per block.
        weight: the float values.
        least_scale: (channels,); per tensor the largest of it counts.
    """
    least = np.max(least_scale) if isinstance(fitted.scheme.granularity, PerTensor) else np.asarray(least_scale)
    low = fitted.scale < least
    if not np.any(low):
        return fitted
    scale = np.asarray(np.maximum(fitted.scale, least), dtype=np.float32)
    again = round_to_codes(weight, fitted.scheme, scale, fitted.zero_point)
    return replace(again, codes=np.where(fitted.spread(np.asarray(low)), again.codes, fitted.codes))


def scale_shape(shape: tuple[int, ...], scheme: QuantScheme) -> tuple[int, ...]:
    """The shape of the scale of a weight of ``shape``."""
    granularity = scheme.granularity
    if isinstance(granularity, PerTensor):
        return ()
    axis = granularity.axis % len(shape)
    if isinstance(granularity, PerBlock):
        return (*shape[:axis], -(-shape[axis] // granularity.size), *shape[axis + 1 :])
    return (shape[axis],)


def shortened(factors: Array) -> tuple[float, ...]:
    """Clip factors as a plan stores them: rounded to thousandths, empty when all are 1, one when all are equal."""
    flat = [round(float(factor), 3) for factor in np.ravel(factors)]
    if all(factor == 1.0 for factor in flat):
        return ()
    return (flat[0],) if len(set(flat)) == 1 else tuple(flat)
