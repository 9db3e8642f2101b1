"""Codes that are fitted to data once forms and widths are chosen, and the biases that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.operators import Layer, find_layers
from qcompress.plan.fit import importance
from qcompress.planning.work import Workplace, measure_shifts
from qcompress.recipe import Recipe
from qcompress.rewrite.rescale import rescale_channels
from qcompress.types import CodebookScheme, EncodedTensor, FloatScheme, QuantScheme, Rounding, Scheme, Statistics

FITTED_ROUNDINGS = (Rounding.GPTQ, Rounding.FITTED)
"""Roundings that need the correlations of a layer's inputs."""

WIDE = 8
"""From this width on the nearest codes are good enough."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and the codes that were fitted for it: weight -> encoded tensor; other weights are rounded as the plan says."""

    plan: CompressionPlan
    codes: Mapping[str, EncodedTensor] = field(default_factory=dict)


def rounding_for(recipe: Recipe, scheme: Scheme, has_data: bool) -> Rounding:
    """How the codes of a scheme are chosen: what the recipe says, else the best that the data allows."""
    if not isinstance(scheme, QuantScheme):
        return Rounding.CLIP
    if recipe.rounding is not None:
        return recipe.rounding
    if scheme.bits >= WIDE:
        return Rounding.CLIP
    if has_data:
        return Rounding.FITTED
    return Rounding.CLIP if scheme.symmetric else Rounding.HQQ


def finish(work: Workplace, plan: CompressionPlan, statistics: Statistics | None) -> Planned:
    """Fit the codes of a plan whose forms and schemes are final, and shift the biases for them.

    Raises:
        CalibrationError: an activation is NaN or infinite.
    """
    has_data = work.parts is not None
    weights: dict[str, Quantize | Keep] = {
        name: decision
        if isinstance(decision, Keep)
        else replace(decision, rounding=rounding_for(work.recipe, decision.scheme, has_data))
        for name, decision in plan.weights.items()
    }
    plan = replace(plan, weights=weights)
    codes = find_codes(work, plan, statistics)
    if not codes:
        return Planned(plan)
    place = _rescaled(work, plan)
    changed = [layer for layer in place.layers if layer.name in codes]
    shifts = measure_shifts(place, changed, lambda layer: codes.get(layer.name))
    own = {use.node.name for layer in changed for use in layer.uses}
    kept = {node: shift for node, shift in plan.bias_shifts.items() if node not in own}
    return Planned(replace(plan, bias_shifts={**kept, **shifts}), codes)


def find_codes(work: Workplace, plan: CompressionPlan, statistics: Statistics | None = None) -> dict[str, EncodedTensor]:
    """The codes of all weights that the plan's own numbers do not determine; the same data gives the same codes.

    Raises:
        RecipeError: the plan rounds to data, and there is none.
    """
    place = _rescaled(work, plan)
    codes: dict[str, EncodedTensor] = {}
    fitted: dict[str, Quantize] = {}
    for layer in place.layers:
        decision = plan.weights.get(layer.name)
        if not isinstance(decision, Quantize):
            continue
        if isinstance(decision.scheme, QuantScheme) and decision.rounding in FITTED_ROUNDINGS:
            fitted[layer.name] = decision
        elif not isinstance(decision.scheme, QuantScheme) or decision.rounding is Rounding.HQQ:
            codes[layer.name] = _encoded(layer, decision, statistics)
    if not fitted:
        return codes
    if place.parts is None:
        raise RecipeError(
            f"{next(iter(fitted))!r} and {len(fitted) - 1} other weights are rounded to fit data, and there is none",
            "give --data, the same as when the plan was made",
        )
    from qcompress.planning.rounding import RoundingSettings, fit_codes

    settings = RoundingSettings(threads=place.threads, sequential=place.recipe.sequential)
    return {**codes, **fit_codes(place.model, place.layers, plan, place.parts.fit, settings, place.progress)}


def _rescaled(work: Workplace, plan: CompressionPlan) -> Workplace:
    """The workplace on the model as it is when codes are written: with rescaled channels, if the plan has any."""
    if not plan.channel_scales:
        return work
    model = work.model.clone()
    rescale_channels(model, plan.channel_scales)
    known = {layer.name for layer in work.layers}
    return replace(work, model=model, layers=[layer for layer in find_layers(model) if layer.name in known], placements={})


def _encoded(layer: Layer, decision: Quantize, statistics: Statistics | None) -> EncodedTensor:
    scheme = layer.scheme(decision.scheme)
    weighted = importance(layer, statistics) if isinstance(scheme, CodebookScheme) else None
    if isinstance(scheme, FloatScheme):
        weighted = None
    from qcompress.quantize import Evidence, Layout, fit_weight

    evidence = Evidence(layout=Layout.TABLE, importance=weighted)
    return fit_weight(layer.array, scheme, decision.rounding, evidence)
