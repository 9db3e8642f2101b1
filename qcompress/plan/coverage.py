"""One row for every weight of the model: its form and bytes, or the reason it was kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from qcompress.decisions import Keep, Quantize
from qcompress.operators import Layer, Role
from qcompress.plan.choose import scheme_of
from qcompress.quantize import stored_bytes
from qcompress.recipe import Recipe
from qcompress.results import WeightRow
from qcompress.types import Form, PerBlock, PerChannel, QuantScheme, Scheme


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


def with_entropies(rows: Sequence[WeightRow], entropies: Mapping[str, float]) -> tuple[WeightRow, ...]:
    """The rows with the entropy of codes; ``entropies``: weight -> bits per number."""
    return tuple(replace(row, entropy_bits=entropies.get(row.weight)) for row in rows)


def with_zeros(
    rows: Sequence[WeightRow], zeros: Mapping[str, float], saved: Mapping[str, int], pruned: Collection[str]
) -> tuple[WeightRow, ...]:
    """The rows with the share of zeros; ``saved``: weight -> bytes that not storing them saves."""
    return tuple(
        replace(
            row,
            zeros=zeros.get(row.weight),
            bytes_after=row.bytes_after - saved.get(row.weight, 0),
            pruned=row.weight in pruned,
        )
        for row in rows
    )


def as_decisions(layers: Sequence[Layer], chosen: Mapping[str, Form | Keep], recipe: Recipe) -> dict[str, Quantize | Keep]:
    """Forms that nothing was fitted for yet, as decisions."""
    forms = [(layer, chosen[layer.name]) for layer in layers if layer.name in chosen]
    return {
        layer.name: form if isinstance(form, Keep) else Quantize(form, scheme_of(layer, recipe)) for layer, form in forms
    }


def _row(layer: Layer, decision: Quantize | Keep) -> WeightRow:
    names = tuple(dict.fromkeys(use.node.name or "" for use in layer.uses))
    kinds = tuple(dict.fromkeys(use.node.op_type for use in layer.uses))
    dtype = layer.stored_dtype
    if isinstance(decision, Keep):
        return WeightRow(layer.name, names, kinds, layer.shape, dtype, layer.bytes, layer.bytes, reason=decision.reason)
    scheme = layer.scheme(decision.scheme)
    after = stored_bytes(layer.shape, scheme, by_rows=layer.has_lookup and decision.form is not Form.FOLDED)
    return WeightRow(
        layer.name,
        names,
        kinds,
        layer.shape,
        dtype,
        layer.bytes,
        after,
        decision.form.value,
        _notation(layer, scheme),
        float(scheme.bits),
    )


def _notation(layer: Layer, scheme: Scheme) -> str:
    """The scheme as it is written; a recurrent weight's rows are its channels."""
    recurrent = layer.operator.role is Role.RECURRENT
    if recurrent and isinstance(scheme, QuantScheme) and scheme.granularity == PerBlock(layer.shape[-1], 2):
        return str(replace(scheme, granularity=PerChannel()))
    return str(scheme)
