"""Repairs for harmful groups: what to look at, what to propose, and the numbers to fit again when channels are rescaled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from qcompress.calibrate import CalibrationSettings, collect, collect_channels
from qcompress.operators import Layer, find_layers
from qcompress.operators.regions import find_region
from qcompress.plan.fit import clipped, fit_clips, needs_of
from qcompress.plan.repairs import REPAIRS, Evidence, Repair
from qcompress.planning.work import Chosen, Fitted, Workplace, measure_shifts
from qcompress.recipe import RangeMethod
from qcompress.rewrite.rescale import rescale_channels
from qcompress.types import Form, QuantScheme, Statistics, StatisticsNeeds

CHANNEL_FEEDS = 64
"""Samples whose channels are looked at: extremes of more change little, and every pass costs time."""

NOTHING = Statistics({}, {}, {}, 0)

Scales = Mapping[str, tuple[float, ...]]


def propose_repairs(
    work: Workplace, fitted: Fitted, chosen: Chosen, groups: Sequence[Sequence[str]], names: Collection[str] = REPAIRS
) -> list[Repair]:
    """What may help each harmful group of weights; the data runs once for all of them.

    A tensor that several groups read is proposed with the first.

    Args:
        work: the workplace, with data.
        fitted: ranges, and those other methods would have chosen if calibration was asked for them.
        chosen: the form of every weight; static and dynamic inputs are quantized differently.
        groups: weight names, most harmful first.
        names: which repairs to propose.

    Raises:
        CalibrationError: a tensor has NaN or infinite values.
    """
    if work.parts is None or not isinstance(work.recipe.weights, QuantScheme):
        return []
    layers = {layer.name: layer for layer in work.layers}
    axes = _channel_axes(work, [layers[name] for group in groups for name in group])
    channels = {}
    if axes:
        data = work.parts.fit.limit(CHANNEL_FEEDS)
        settings = CalibrationSettings(threads=work.threads, total=data.samples)
        channels = collect_channels(work.model, axes, data.batches(), settings, work.progress)
    evidence = Evidence(
        model=work.model,
        layers=layers,
        statistics=fitted.statistics or NOTHING,
        channels=channels,
        weights=work.recipe.weights,
        activations=work.recipe.activations,
        static=frozenset(name for name, form in chosen.items() if form is Form.STATIC),
    )
    repairs: list[Repair] = []
    for group in groups:
        for name in names:
            repairs += [repair for repair in REPAIRS[name](group, evidence) if not _is_known(repair, repairs)]
    return repairs


def refit(work: Workplace, fitted: Fitted, chosen: Chosen, scales: Scales) -> tuple[Workplace, Fitted]:
    """The workplace on a copy of the model with rescaled channels, and what was fitted, again where that changed it.

    A plan assembled from the two is for the rescaled model; with ``channel_scales`` it is for the model as it was.

    Raises:
        RecipeError: a tensor cannot be rescaled.
        CalibrationError: an activation is NaN or infinite.
    """
    model = work.model.clone()
    done = rescale_channels(model, scales)
    shapes = {**work.shapes, **{copy: work.shapes[tensor] for copy, tensor in done.copies.items() if tensor in work.shapes}}
    known = {layer.name for layer in work.layers}  # factors of an inserted Mul are not layers
    kept = [layer for layer in find_layers(model) if layer.name in known]
    changed = replace(work, model=model, layers=kept, shapes=shapes, placements={})
    layers = [layer for layer in changed.layers if layer.name in done.constants and layer.name in fitted.clips]
    needs = needs_of(layers, [changed.place(chosen)], work.recipe)
    statistics = _collected(changed, fitted.statistics, needs, done.tensors)
    clips = {**fitted.clips, **fit_clips(layers, statistics, work.recipe, work.progress)}
    shifts = {**fitted.shifts, **measure_shifts(changed, layers, clipped(clips, work.recipe))}
    return changed, Fitted(statistics, clips, shifts)


def _collected(
    work: Workplace, known: Statistics | None, needs: StatisticsNeeds, tensors: Collection[str]
) -> Statistics | None:
    """Known statistics with those of some tensors collected again."""
    moments = {tensor: axis for tensor, axis in needs.moments.items() if tensor in tensors}
    again = StatisticsNeeds(needs.ranges & frozenset(tensors), moments)
    if work.parts is None or again == StatisticsNeeds():
        return known
    known = known or NOTHING
    methods = tuple(RangeMethod(name) for name in known.alternatives)
    recipe, fit = work.recipe, work.parts.fit
    settings = CalibrationSettings(recipe.ranges, recipe.activations, work.threads, fit.samples, work.shapes, methods)
    found = collect(work.model, again, fit.batches(), settings, work.progress)
    return Statistics(
        ranges={**known.ranges, **found.ranges},
        second_moments={**known.second_moments, **found.second_moments},
        shapes={**known.shapes, **found.shapes},
        samples=found.samples,
        alternatives={name: {**ranges, **found.alternatives[name]} for name, ranges in known.alternatives.items()},
    )


def _channel_axes(work: Workplace, layers: Sequence[Layer]) -> dict[str, int]:
    """The tensors whose channels could be scaled for the layers' sake, and their channel axes."""
    axes: dict[str, int] = {}
    for layer in layers:
        for use in layer.uses:
            tensor = use.node.inputs[0] if use.index == 1 and use.node.graph is layer.main else None
            if tensor is not None and tensor.name and not isinstance(find_region(work.model, tensor), str):
                axes[tensor.name] = 1 if use.node.op_type in ("Conv", "ConvTranspose") else -1
    return axes


def _is_known(repair: Repair, repairs: Sequence[Repair]) -> bool:
    """Whether the same tensors get the same factors, or activations the same ranges, already."""
    return any((repair.channel_scales, repair.activations) == (other.channel_scales, other.activations) for other in repairs)
