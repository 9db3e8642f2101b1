"""Codes that are fitted to data once forms and widths are chosen, and the biases that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.operators import find_layers
from qcompress.planning.rounding import FITTING, WIDE, fit_codes, is_fitted
from qcompress.planning.walk import NoData, Settled, WalkSettings
from qcompress.planning.work import Workplace, measure_shifts
from qcompress.recipe import Recipe
from qcompress.rewrite.rescale import rescale_channels
from qcompress.types import EncodedTensor, QuantScheme, Rounding, Scheme


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


def finish(work: Workplace, plan: CompressionPlan) -> Planned:
    """Fit the codes of a plan whose forms and schemes are final, and shift the biases for them.

    Codes that are fitted in sequence aim at the original's outputs, and know what their biases must be shifted by. Others get
    what is measured.

    Raises:
        CalibrationError: an activation is NaN or infinite.
    """
    plan = replace(with_roundings(work, plan), sequential=work.recipe.sequential, center=work.recipe.correct_bias)
    settled = settle_codes(work, plan)
    if not settled:
        return Planned(plan)
    codes = {name: item.tensor for name, item in settled.items()}
    place = _rescaled(work, plan)
    changed = [layer for layer in place.layers if layer.name in codes]
    aimed = {name for name, item in plan.weights.items() if plan.sequential and needs_data(item)}
    aimed |= {name for name, item in settled.items() if item.shifts}
    shifts = measure_shifts(
        place, [layer for layer in changed if layer.name not in aimed], lambda layer: codes.get(layer.name)
    )
    own = {use.node.name for layer in changed for use in layer.uses}
    kept = {node: shift for node, shift in plan.bias_shifts.items() if node not in own}
    fitted = {node: shift for item in settled.values() for node, shift in item.shifts.items()}
    return Planned(replace(plan, bias_shifts={**kept, **shifts, **fitted}), codes)


def first_codes(work: Workplace, plan: CompressionPlan) -> dict[str, EncodedTensor]:
    """Codes to compare layers by: each fitted on the original's tensors, in one pass."""
    return find_codes(work, replace(with_roundings(work, plan), sequential=False))


def with_roundings(work: Workplace, plan: CompressionPlan) -> CompressionPlan:
    """The plan with every weight rounded as its scheme, the recipe and the data allow."""
    has_data = work.parts is not None
    weights: dict[str, Quantize | Keep] = {
        name: decision
        if isinstance(decision, Keep)
        else replace(decision, rounding=rounding_for(work.recipe, decision.scheme, has_data))
        for name, decision in plan.weights.items()
    }
    return replace(plan, weights=weights)


def find_codes(work: Workplace, plan: CompressionPlan) -> dict[str, EncodedTensor]:
    """The codes of all weights that the plan's own numbers do not determine; the same data gives the same codes.

    Raises:
        RecipeError: the plan rounds to data, and there is none.
    """
    return {name: item.tensor for name, item in settle_codes(work, plan).items()}


def settle_codes(work: Workplace, plan: CompressionPlan) -> dict[str, Settled]:
    """The same codes, each with what biases must be shifted by for it.

    Raises:
        RecipeError: the plan rounds to data, and there is none.
    """
    fitted = {name for name, item in plan.weights.items() if isinstance(item, Quantize) and is_fitted(item)}
    if not fitted:
        return {}
    to_data = sorted(name for name in fitted if needs_data(plan.weights[name]))
    if to_data and work.parts is None:
        raise RecipeError(
            f"the plan fits {len(to_data)} weights to data, {to_data[0]!r} for one, and there is none",
            "give --data, the same as when the plan was made",
        )
    place = _rescaled(work, plan)
    settings = WalkSettings(threads=work.threads, sequential=plan.sequential, shapes=work.shapes)
    data = NoData() if work.parts is None else work.parts.fit
    return fit_codes(place.model, place.layers, plan, data, settings, work.progress)


def needs_data(decision: Quantize | Keep) -> bool:
    """Whether codes are fitted to data."""
    return isinstance(decision, Quantize) and is_fitted(decision) and decision.rounding in FITTING


def _rescaled(work: Workplace, plan: CompressionPlan) -> Workplace:
    """The workplace on the model as it is when codes are written: with rescaled channels, if the plan has any."""
    if not plan.channel_scales:
        return work
    model = work.model.clone()
    rescale_channels(model, plan.channel_scales)
    known = {layer.name for layer in work.layers}
    return replace(work, model=model, layers=[layer for layer in find_layers(model) if layer.name in known], placements={})
