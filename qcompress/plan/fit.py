"""Numbers of a plan: clip factors, activation scales and bias shifts, from weights and calibration statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompress.decisions import ActivationPlan
from qcompress.graph.edit import int_attribute, plain_attributes
from qcompress.graph.tensors import spilled
from qcompress.operators import Layer, Role
from qcompress.operators.flow import can_shift
from qcompress.plan.choose import scheme_of
from qcompress.plan.placement import Placement
from qcompress.progress import Progress
from qcompress.quantize import parameters, quantize_weight, search_clip, shortened
from qcompress.recipe import Recipe
from qcompress.types import (
    Array,
    EncodedTensor,
    NodeSpec,
    QuantScheme,
    Rounding,
    Scheme,
    Statistics,
    StatisticsNeeds,
)

ERROR_SUFFIX = "/rounding_error"


def needs_of(layers: Sequence[Layer], placements: Iterable[Placement], recipe: Recipe) -> StatisticsNeeds:
    """What calibration must collect: ranges of quantized tensors, second moments of the inputs of clipped weights."""
    moments: dict[str, int] = {}
    if recipe.clip_weights:
        for layer in layers:
            source = _input(layer)
            if source:
                moments[source] = 1 if layer.operator.op_type in ("Conv", "ConvTranspose") else -1
    return StatisticsNeeds(frozenset(tensor for placement in placements for tensor in placement.tensors), moments)


def fit_clips(
    layers: Sequence[Layer], statistics: Statistics | None, recipe: Recipe, progress: Progress
) -> dict[str, tuple[float, ...]]:
    """Search the clip of every weight; it does not depend on the form."""
    clips: dict[str, tuple[float, ...]] = {}
    with progress.stage("Fitting weights", len(layers), "weights") as stage:
        for layer in layers:
            clips[layer.name] = fit_clip(layer, statistics, recipe)
            stage.advance()
    return clips


def fit_activations(placement: Placement, statistics: Statistics, recipe: Recipe) -> dict[str, ActivationPlan]:
    """Scale and zero point of every quantized tensor; those behind a moving operator take their source's."""
    activations: dict[str, ActivationPlan] = {}
    for tensor in placement.tensors:
        source = placement.follows.get(tensor)
        if source in activations:
            activations[tensor] = activations[source]
            continue
        found = statistics.ranges[tensor]
        scale, zero_point = parameters(found.low, found.high, recipe.activations)
        activations[tensor] = ActivationPlan(float(scale), int(zero_point))
    return activations


def clipped(clips: Mapping[str, tuple[float, ...]], recipe: Recipe) -> Callable[[Layer], EncodedTensor | None]:
    """What gives the nearest codes of a layer within its clips; None for schemes without clips, which are fitted later."""

    def encode(layer: Layer) -> EncodedTensor | None:
        scheme = scheme_of(layer, recipe)
        if not isinstance(scheme, QuantScheme):
            return None
        return quantize_weight(layer.array, layer.scheme(scheme), clips[layer.name])

    return encode


@dataclass(frozen=True, slots=True)
class ShiftProbes:
    """Nodes that compute layer(x, W - Q(W)) beside each layer, the error weights, and their output channel axes.

    ``layers``: probe output -> name of the node whose bias it shifts.
    """

    nodes: tuple[NodeSpec, ...]
    constants: Mapping[str, Array]
    channel_axes: Mapping[str, int]
    layers: Mapping[str, str]


def shift_probes(layers: Sequence[Layer], encode: Callable[[Layer], EncodedTensor | None]) -> ShiftProbes:
    """Probes for the exact mean error of every linear layer that has or can take a bias.

    The mean of layer(x, W) - layer(x, Q(W)) over samples and positions is what rounding takes from each channel; being
    linear in the weight it is measured in one run, padding included. ``encode`` gives Q(W), None for layers to leave out.

    Source: Nagel et al., ICCV 2019, arXiv:1906.04721, section 4.2, with measured instead of derived expectations.
    """
    nodes: list[NodeSpec] = []
    constants: dict[str, Array] = {}
    axes: dict[str, int] = {}
    targets: dict[str, str] = {}
    for layer in layers:
        users = [
            use for use in layer.uses if _input(layer) and use.index == 1 and not use.transposed and can_shift(use.node)
        ]
        if layer.operator.role is not Role.LINEAR or not users:
            continue
        encoded = encode(layer)
        if encoded is None:
            continue
        error = f"{layer.name}{ERROR_SUFFIX}"
        constants[error] = spilled(layer.array - encoded.dequantize())  # as large as all weights together
        for use in users:
            source = use.node.inputs[0]
            output = f"{use.node.name}{ERROR_SUFFIX}"
            inputs = ((source.name or "") if source is not None else "", error)
            nodes.append(NodeSpec(use.node.op_type, inputs, (output,), plain_attributes(use.node), output))
            axes[output] = 1 if use.node.op_type in ("Conv", "ConvTranspose") else -1
            targets[output] = use.node.name or ""
    return ShiftProbes(tuple(nodes), constants, axes, targets)


def _input(layer: Layer) -> str:
    """The tensor a linear layer multiplies its weight with, when the weight is on the right."""
    use = layer.uses[0]
    source = use.node.inputs[0]
    if layer.operator.role is not Role.LINEAR or use.index != 1 or source is None:
        return ""
    return source.name or "" if use.node.graph is layer.main and source.graph is layer.main else ""


def fit_clip(layer: Layer, statistics: Statistics | None, recipe: Recipe, scheme: Scheme | None = None) -> tuple[float, ...]:
    """Clip factors of one weight in ``scheme``, the recipe's if none is given; empty where clipping gains nothing."""
    scheme = scheme or scheme_of(layer, recipe)
    if not recipe.clip_weights or recipe.rounding is Rounding.NEAREST or not isinstance(scheme, QuantScheme):
        return ()
    found = importance(layer, statistics)
    if found is None and scheme.bits >= 8:
        return ()  # without importance clipping gains less than 0.1 % at 8 bits
    return shortened(search_clip(layer.array, layer.scheme(scheme), found))


def importance(layer: Layer, statistics: Statistics | None) -> Array | None:
    """E[x^2] of what each number of a weight multiplies, broadcastable to the weight; None where it is not known."""
    second = None if statistics is None else statistics.second_moments.get(_input(layer))
    return None if second is None else _importance(layer, second)


def _importance(layer: Layer, second_moments: Array) -> Array | None:
    """E[x^2] of each input channel, (channels,), in a shape that broadcasts against the weight."""
    shape = layer.shape
    if layer.operator.op_type == "Conv":
        groups = int_attribute(layer.node, "group", 1)
        if second_moments.size != shape[1] * groups:
            return None
        per_group = second_moments.reshape(groups, shape[1])  # (channels,) -> (groups, in / group)
        rows = np.repeat(per_group, shape[0] // groups, axis=0)  # -> (out, in / group)
        return rows.reshape(shape[0], shape[1], *(1,) * (len(shape) - 2))
    axis = layer.reduction_axis
    if second_moments.size != shape[axis]:
        return None
    spread = [1] * len(shape)
    spread[axis] = -1
    return second_moments.reshape(spread)  # (in,) -> (1, .., in, .., 1)
