"""Choose the width of every layer's codes by measured loss: the least loss in so many bytes, or the fewest bytes in a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.operators import Layer
from qcompress.plan.choose import is_listed
from qcompress.plan.fit import fit_clip
from qcompress.plan.placement import Placement
from qcompress.plan.solver import Option, solve
from qcompress.planning.losses import LossMeter
from qcompress.planning.store import Measurements, key_of
from qcompress.planning.work import Workplace, alone
from qcompress.types import EncodedTensor, Form, QuantScheme, Rounding, Statistics

WIDTHS = (2, 3, 4, 5, 6, 8)
"""Widths to choose from; 7 bits save too little over 8 to be worth their third plane."""

FITTED_WIDTH = 4
"""The width in which codes are fitted to see how much of a loss fitting leaves."""

ANCHORS = ((2, 3, 4, 5, 6), (3, 4), (4,))
"""Widths whose losses are measured, as many as there is time for; the rest follow from them."""

LEAST_LEFT = 1e-3
"""Share of a loss that fitting leaves at least, as far as a handful of samples can tell."""

PER_BIT = 4.0
"""Squared rounding error, and with it the loss, falls by this factor with every bit (half the step)."""

SMALL = 1e-3
"""A layer with a smaller share of all weights stays as wide as it is: there is nothing to save, and it may be touchy."""

Fit = Callable[[CompressionPlan], Mapping[str, EncodedTensor]]

Widths = Mapping[str, int]
Losses = Mapping[tuple[str, int], float]


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What widths are chosen for: a plan whose forms are final, and how to measure what narrower codes lose."""

    work: Workplace
    plan: CompressionPlan
    meter: LossMeter
    measurements: Measurements
    statistics: Statistics | None
    most_runs: int

    @property
    def layers(self) -> list[Layer]:
        """Layers whose width is chosen, in graph order."""
        taken = [
            layer
            for layer in self.work.layers
            if _affine(self.plan.weights.get(layer.name)) is not None and not is_listed(layer, self.work.recipe)
        ]
        least = SMALL * sum(elements(layer) for layer in taken)
        return [layer for layer in taken if elements(layer) >= least]


def elements(layer: Layer) -> int:
    """How many numbers the weight has."""
    tensor = layer.weight.const_value
    return 0 if tensor is None else int(tensor.size)


def measure_widths(narrowing: Narrowing, fit: Fit) -> dict[tuple[str, int], float]:
    """(weight, width) -> what the model loses when that weight alone has codes of that width; never less with fewer bits.

    Clipped codes of several widths say how the loss grows as bits go; codes fitted in one width, how much of it fitting
    leaves, which differs a hundredfold between layers.

    Args:
        narrowing: the layers, and how to measure.
        fit: plan -> codes fitted to data; no codes where the recipe rounds without data.
    """
    layers = narrowing.layers
    anchors = next((widths for widths in ANCHORS if (len(widths) + 1) * len(layers) <= narrowing.most_runs), ANCHORS[-1])
    blocks = _blocks(layers, max(1, narrowing.most_runs // (len(anchors) + 1)))
    plan = with_widths(narrowing, {layer.name: FITTED_WIDTH for layer in layers})
    codes = fit(plan)
    losses: dict[tuple[str, int], float] = {}
    with narrowing.work.progress.stage("Measuring widths", len(blocks) * (len(anchors) + 1), "widths") as stage:
        for block in blocks:
            whole = sum(elements(layer) for layer in block)
            known: dict[int, float] = {}
            for width in anchors:
                known[width] = _loss_of(narrowing, block, width)
                stage.advance()
            left = _left_by_fitting(narrowing, block, known[FITTED_WIDTH], codes)
            stage.advance()
            for width, loss in spread_widths(known).items():
                losses.update({(layer.name, width): left * loss * elements(layer) / max(whole, 1) for layer in block})
    return losses


def _left_by_fitting(
    narrowing: Narrowing, block: Sequence[Layer], clipped: float, codes: Mapping[str, EncodedTensor]
) -> float:
    """The share of a loss that fitted codes leave."""
    fitted = {layer.name: codes[layer.name] for layer in block if layer.name in codes}
    if not fitted or clipped <= 0.0:
        return 1.0
    plan = _alone(narrowing, block, FITTED_WIDTH)
    return min(1.0, max(narrowing.meter.alone(plan, codes=fitted) / clipped, LEAST_LEFT))


def spread_widths(known: Mapping[int, float]) -> dict[int, float]:
    """Losses of all widths from those of some: the widest has none, none loses less than a wider one.

    Source: the law of squared error against width is that of uniform quantization, Widrow and Kollar, Quantization Noise,
    Cambridge 2008, section 4.3.
    """
    losses: dict[int, float] = {WIDTHS[-1]: 0.0}
    least = 0.0
    for width in sorted(WIDTHS[:-1], reverse=True):
        nearest = min(known, key=lambda anchor: (abs(anchor - width), anchor))
        least = max(least, known[nearest] * PER_BIT ** (nearest - width))
        losses[width] = least
    return losses


def allot(sizes: Mapping[str, int], losses: Losses, most_bits: float) -> dict[str, int]:
    """The width of each weight: least sum of losses with at most ``most_bits`` bits of codes in all.

    Args:
        sizes: weight -> elements.
        losses: of each weight in every width of ``WIDTHS``.
        most_bits: of all codes together; the narrowest codes are taken when not even they fit.
    """
    names = list(sizes)
    tables = [[Option(losses[name, width], float(sizes[name] * width)) for width in WIDTHS] for name in names]
    choice = solve(tables, most_bits)  # the solver's budget is of bits here, its cost is the loss
    if choice is None:
        return dict.fromkeys(names, WIDTHS[0])
    return {name: WIDTHS[index] for name, index in zip(names, choice.indices, strict=True)}


def allot_loss(sizes: Mapping[str, int], losses: Losses, most_loss: float) -> dict[str, int]:
    """The width of each weight: fewest bits with losses that sum to at most ``most_loss``."""
    names = list(sizes)
    tables = [[Option(float(sizes[name] * width), losses[name, width]) for width in WIDTHS] for name in names]
    choice = solve(tables, most_loss)
    if choice is None:
        return dict.fromkeys(names, WIDTHS[-1])
    return {name: WIDTHS[index] for name, index in zip(names, choice.indices, strict=True)}


def with_widths(narrowing: Narrowing, widths: Widths) -> CompressionPlan:
    """The plan with codes of these widths; weights it does not name stay as they are."""
    weights = dict(narrowing.plan.weights)
    for layer in narrowing.layers:
        decision = _affine(weights[layer.name])
        width = widths.get(layer.name)
        if decision is not None and width is not None:
            weights[layer.name] = _narrower(narrowing, layer, decision, width)
    return replace(narrowing.plan, weights=weights)


def search_bound(start: float, budget: float, tries: int, loss_of: Callable[[float], float]) -> None:
    """Move a bound, from ``start``, until what ``loss_of`` measures under it is within the budget by less than a tenth.

    Every call of ``loss_of`` measures one candidate; the caller keeps what it wants of them.
    """
    bound, low, high, aim = start, 0.0, float("inf"), 0.95 * budget
    for _ in range(tries):
        loss = loss_of(bound)
        if loss <= budget:
            low = bound
            if loss >= 0.9 * budget:
                return
        else:
            high = bound
        guess = bound * aim / max(loss, aim / 8.0)  # as if the loss grew with the bound
        inside = low < guess < high
        bound = guess if inside else ((low + high) / 2.0 if high < float("inf") else bound * 2.0)


def _affine(decision: Quantize | Keep | None) -> Quantize | None:
    """The decision, when it gives the weight codes whose width can be chosen."""
    return decision if isinstance(decision, Quantize) and isinstance(decision.scheme, QuantScheme) else None


def _narrower(narrowing: Narrowing, layer: Layer, decision: Quantize, width: int) -> Quantize:
    if not isinstance(decision.scheme, QuantScheme) or width == decision.scheme.bits:
        return decision
    scheme = replace(decision.scheme, bits=width)
    clip = fit_clip(layer, narrowing.statistics, narrowing.work.recipe, scheme)
    return replace(decision, scheme=scheme, clip=clip, rounding=Rounding.CLIP)


def _loss_of(narrowing: Narrowing, block: Sequence[Layer], width: int) -> float:
    """The loss when only these weights have codes of ``width``, decoded to float."""
    plan = _alone(narrowing, block, width)
    return narrowing.measurements.loss(f"width/{key_of(plan.to_json())}", lambda: narrowing.meter.alone(plan))


def _alone(narrowing: Narrowing, block: Sequence[Layer], width: int) -> CompressionPlan:
    """What is left of the plan when only these weights change, to clipped codes of ``width`` decoded to float."""
    weights: dict[str, Quantize | Keep] = {}
    for layer in block:
        decision = _affine(narrowing.plan.weights[layer.name])
        if decision is not None:
            weights[layer.name] = replace(_narrower(narrowing, layer, decision, width), form=Form.FOLDED)
    return replace(alone(narrowing.plan, block, Placement((), (), {})), weights=weights, bias_shifts={})


def _blocks(layers: Sequence[Layer], count: int) -> list[Sequence[Layer]]:
    """Runs of neighbours, single layers when there are no more than ``count``."""
    if not layers:
        return []
    size = -(-len(layers) // count)
    return [layers[start : start + size] for start in range(0, len(layers), size)]
