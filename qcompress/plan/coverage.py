"""One row for every weight of the model: its form and bytes, or the reason it was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qcompress.decisions import Keep, Quantize
from qcompress.operators import Layer
from qcompress.quantize import scale_shape
from qcompress.results import WeightRow
from qcompress.types import Form, PerChannel, QuantScheme


def coverage(layers: Sequence[Layer], decisions: Mapping[str, Quantize | Keep]) -> tuple[WeightRow, ...]:
    """The rows in graph order; bytes after are those of codes and scales."""
    return tuple(_row(layer, decisions[layer.name]) for layer in layers if layer.name in decisions)


def with_biases(rows: Sequence[WeightRow], biases: Mapping[str, int]) -> tuple[WeightRow, ...]:
    """The rows with the biases that became int32; ``biases``: name -> bytes they take now."""
    return tuple(
        replace(row, bytes_after=biases[row.weight], form=Form.STATIC.value, scheme="int32", bits=32.0, reason=None)
        if row.weight in biases and row.form is None
        else row
        for row in rows
    )


def as_decisions(chosen: Mapping[str, Form | Keep], scheme: QuantScheme) -> dict[str, Quantize | Keep]:
    """Forms that nothing was fitted for yet, as decisions."""
    return {name: form if isinstance(form, Keep) else Quantize(form, scheme) for name, form in chosen.items()}


def _row(layer: Layer, decision: Quantize | Keep) -> WeightRow:
    names = tuple(dict.fromkeys(use.node.name or "" for use in layer.uses))
    kinds = tuple(dict.fromkeys(use.node.op_type for use in layer.uses))
    dtype = layer.stored_dtype
    if isinstance(decision, Keep):
        return WeightRow(layer.name, names, kinds, layer.shape, dtype, layer.bytes, layer.bytes, reason=decision.reason)
    scheme = layer.scheme(decision.scheme)
    elements = int(np.prod(layer.shape, dtype=np.int64))
    scales = int(np.prod(scale_shape(layer.shape, scheme), dtype=np.int64))
    zero_points = 0 if scheme.symmetric and scheme.signed else scales * scheme.storage.itemsize
    after = elements * scheme.storage.itemsize + scales * 4 + zero_points
    return WeightRow(
        layer.name,
        names,
        kinds,
        layer.shape,
        dtype,
        layer.bytes,
        after,
        decision.form.value,
        str(scheme if isinstance(scheme.granularity, PerChannel) else decision.scheme),
        float(scheme.bits),
    )
