"""Weights in a narrower float type."""

from __future__ import annotations

import numpy as np

from qcompress.errors import ModelError
from qcompress.quantize.affine import as_float32
from qcompress.types import Array, FloatScheme, NarrowTensor


def narrow(weight: Array, scheme: FloatScheme) -> NarrowTensor:
    """Round numbers to the nearest of a narrower float type, of two as near the even one.

    Numbers below its smallest become 0 or denormal. Those beyond its largest (65,504 in float16) are refused, since infinity is
    not near any of them.

    Raises:
        ModelError: a number is NaN, infinite or beyond the type's range. The caller knows which weight it is.

    Source: IEEE 754-2019, section 4.3.1, roundTiesToEven.
    """
    values = as_float32(weight)
    if not np.isfinite(values).all():
        raise ModelError("a weight has NaN or infinite values", "export the model again from a checkpoint that is sound")
    with np.errstate(over="ignore"):
        narrowed = values.astype(scheme.storage)
    if not np.isfinite(narrowed).all():
        largest = float(np.abs(values).max())
        raise ModelError(f"a weight has values up to {largest:g}, beyond {scheme}", "choose bfloat16 or int8/channel for it")
    return NarrowTensor(narrowed, scheme)
