"""Divide the channels of tensors by factors and multiply what reads them: the model computes what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qcompress.errors import RecipeError
from qcompress.graph import Model, Value
from qcompress.graph.edit import Editor, constant_array, set_constant
from qcompress.operators.regions import Region, find_region
from qcompress.types import Array

SUFFIX = "/rescaled"
"""Behind the name of a tensor: its divided copy, where no constant before it could take the division."""


@dataclass(frozen=True, slots=True)
class Rescaled:
    """What changed: names of the tensors with other values than before (new ones too), of constants, and new -> old tensor."""

    tensors: frozenset[str]
    constants: frozenset[str]
    copies: Mapping[str, str]


def rescale_channels(model: Model, channel_scales: Mapping[str, tuple[float, ...]]) -> Rescaled:
    """Divide each named tensor's channels by its factors, in place, without changing what the model computes.

    With powers of two not a bit of any output changes, short of overflow; with others the rounding of float32.

    Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019,
    arXiv:1906.04721, equations 5 to 7; Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438, equation 3.

    Raises:
        RecipeError: a tensor is not there, its channels cannot be scaled, or the factors are not positive, finite and one
            for each channel.
    """
    tensors: set[str] = set()
    constants: set[str] = set()
    copies: dict[str, str] = {}
    if not channel_scales:
        return Rescaled(frozenset(), frozenset(), copies)
    editor = Editor(model.graph)
    for name, scales in channel_scales.items():
        tensor = _tensor(model, name)
        region = find_region(model, tensor)
        if isinstance(region, str):
            raise RecipeError(f"the channels of {name!r} cannot be scaled: {region}", "make the plan again")
        factors = np.asarray(scales, dtype=np.float64)
        if factors.shape != (region.channels,) or not np.all(np.isfinite(factors) & (factors > 0.0)):
            raise RecipeError(
                f"the plan has {factors.size} factors for the {region.channels} channels of {name!r}, or some are not positive",
                "make the plan again",
            )
        constants.update(edit.value.name or "" for edit in region.edits)
        tensors.update(region.scaled)
        _rescale(editor, region, factors)
        if region.inserted:
            copies[_insert(editor, region, factors)] = name
    return Rescaled(frozenset(tensors | copies.keys()), frozenset(constants), copies)


def _rescale(editor: Editor, region: Region, factors: Array) -> None:
    for edit in region.edits:
        array = constant_array(edit.value)
        if array is None:
            raise RecipeError(f"{edit.value.name!r} is not a constant", "make the plan again")
        changed = edit.apply(array, factors)
        if edit.copied:
            edit.node.replace_input_with(edit.index, editor.constant(edit.value.name or "constant", changed))
        else:
            set_constant(edit.value, changed)


def _insert(editor: Editor, region: Region, factors: Array) -> str:
    """A Mul that divides a copy of the tensor, for the products that read it; returns the copy's name."""
    name = region.tensor.name or "tensor"
    vector = (1.0 / factors).astype(np.float32).reshape(-1, *(1,) * (-1 - region.axis))
    copy = editor.node("Mul", [region.tensor, editor.constant(f"{name}/factors", vector)], f"{name}{SUFFIX}")
    for node in region.readers:
        node.replace_input_with(0, copy)
    editor.place_after(region.tensor, [copy])
    copy.type = region.tensor.type
    copy.shape = region.tensor.shape
    return copy.name or ""


def _tensor(model: Model, name: str) -> Value:
    for value in model.graph.inputs:
        if value.name == name:
            return value
    for node in model.graph:
        for output in node.outputs:
            if output.name == name:
                return output
    raise RecipeError(f"the plan names tensor {name!r}, which the model does not have", "make the plan again")
