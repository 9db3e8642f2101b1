"""From forms to the final plan: widths where they are open, fitted codes, and the loss of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qcompress.decisions import CompressionPlan, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import model_files
from qcompress.graph.saving import saved_bytes
from qcompress.plan.choose import is_listed, scheme_of
from qcompress.planning.codes import Planned, finish, first_codes
from qcompress.planning.losses import LossMeter
from qcompress.planning.rounding import WIDE
from qcompress.planning.store import Measurements
from qcompress.planning.widths import (
    WIDTHS,
    Narrowing,
    allot,
    allot_loss,
    elements,
    measure_widths,
    search_bound,
    with_widths,
)
from qcompress.planning.work import Workplace
from qcompress.recipe import Objective, Recipe
from qcompress.rewrite import apply_plan
from qcompress.types import QuantScheme, Scheme, Statistics

UNPACKING_BYTES = 600
"""Nodes and constants that unpack one weight, about; what is written is weighed in the end."""

TRIES = 4
"""Candidates whose codes are fitted while looking for the fewest bits within a loss."""

HEADROOM = 1.0
"""Losses of layers may sum to so many times the budget at first."""


@dataclass(frozen=True, slots=True)
class Tools:
    """How to measure: losses, where they are kept, and how many single ones there is time for."""

    meter: LossMeter
    measurements: Measurements
    most_runs: int


def is_narrow(recipe: Recipe) -> bool:
    """Whether any scheme of the recipe is narrower than what the nearest codes are good enough for."""
    return any(_is_narrow(scheme) for scheme in (recipe.weights, *(scheme for _, scheme in recipe.layers)))


def _is_narrow(scheme: Scheme) -> bool:
    return not isinstance(scheme, QuantScheme) or scheme.bits < WIDE


def wants_widths(work: Workplace) -> bool:
    """Whether the widths of codes are to be chosen: for a number of bits, a small file, or the smallest there is."""
    recipe = work.recipe
    if recipe.bits is not None:
        return True
    if _is_narrow(recipe.weights):
        return False
    return recipe.objective is Objective.SIZE or _least_ratio(work) > (recipe.gates.max_size_ratio or 1.0)


def conclude(work: Workplace, plan: CompressionPlan, statistics: Statistics | None, tools: Tools | None = None) -> Planned:
    """The final plan: widths chosen if the recipe leaves them open, codes fitted, the loss of the whole measured again.

    Raises:
        RecipeError: a number of bits is asked for, and there are too few samples to choose widths on.
        CalibrationError: an activation is NaN or infinite.
    """
    if not wants_widths(work):
        planned = finish(work, plan)
        return _weighed(planned, tools) if planned.codes else planned
    if tools is None:
        if work.recipe.bits is None:  # a limit on size that stored codes do not reach: its gate will say so
            return finish(work, plan)
        raise RecipeError(
            "the widths of codes are chosen by measured loss, and there are too few samples to measure on",
            "give --data with at least 8 samples, or one width for all: --weights int4/channel",
        )
    narrowing = Narrowing(work, plan, tools.meter, tools.measurements, statistics, tools.most_runs)
    if not narrowing.layers:
        return _weighed(finish(work, plan), tools)
    sizes = {layer.name: elements(layer) for layer in narrowing.layers}
    most = _most_bits(narrowing)
    least = sum(sizes.values()) * WIDTHS[0]
    if most is not None and most < least and work.recipe.bits is None:
        told = f"codes of {WIDTHS[0]} bits would take {least / 8:,.0f} bytes, the limit on size leaves {max(most, 0.0) / 8:,.0f}"
        return _with_note(finish(work, plan), f"{told}: widths are not narrowed")
    losses = measure_widths(narrowing, lambda candidate: first_codes(work, candidate))
    if most is not None:
        return _weighed(_within_bits(narrowing, sizes, losses, most), tools)
    return _smallest(narrowing, sizes, losses, tools)


def describe_widths(plan: CompressionPlan, sizes: Mapping[str, int]) -> str:
    """How many weights have how many bits, in words, and the average over their elements."""
    counts: dict[int, int] = {}
    total = bits = 0
    for name, size in sizes.items():
        decision = plan.weights[name]
        if isinstance(decision, Quantize):
            counts[decision.scheme.bits] = counts.get(decision.scheme.bits, 0) + 1
            total, bits = total + size, bits + size * decision.scheme.bits
    told = ", ".join(f"{count} of {width} bits" for width, count in sorted(counts.items()))
    return f"widths of codes: {told}; {bits / max(total, 1):.2f} bits on average"


def _weighed(planned: Planned, tools: Tools | None) -> Planned:
    """The plan with the loss that its codes really have."""
    if tools is None:
        return planned
    loss = tools.meter.joint(planned.plan, codes=planned.codes)
    return replace(planned, plan=replace(planned.plan, loss=loss))


def _within_bits(
    narrowing: Narrowing, sizes: Mapping[str, int], losses: Mapping[tuple[str, int], float], most: float
) -> Planned:
    """Least loss with at most ``most`` bits; less when what is written is larger than the recipe allows."""
    plan = with_widths(narrowing, allot(sizes, losses, most))
    limit = _most_bytes(narrowing.work)
    for _ in range(TRIES):
        excess = 0.0 if limit is None else written_bytes(narrowing.work, plan) - limit
        if excess <= 0.0:
            break
        most -= 8.0 * excess * 1.02 + 64.0
        plan = with_widths(narrowing, allot(sizes, losses, most))
    return _told(finish(narrowing.work, plan), sizes)


def _smallest(
    narrowing: Narrowing, sizes: Mapping[str, int], losses: Mapping[tuple[str, int], float], tools: Tools
) -> Planned:
    """Fewest bits with a loss within the budget; codes as wide as they came when nothing narrower keeps it."""
    budget = narrowing.plan.budget or narrowing.work.recipe.budget
    found: list[tuple[float, Planned]] = []

    def loss_of(bound: float) -> float:
        widths = allot_loss(sizes, losses, bound)
        planned = _weighed(finish(narrowing.work, with_widths(narrowing, widths)), tools)
        loss = 1.0 if planned.plan.loss is None else planned.plan.loss
        if loss <= budget:
            found.append((float(sum(sizes[name] * width for name, width in widths.items())), planned))
        return loss

    search_bound(HEADROOM * budget, budget, TRIES, loss_of)
    if not found:
        return finish(narrowing.work, narrowing.plan)
    return _told(min(found, key=lambda item: item[0])[1], sizes)


def _told(planned: Planned, sizes: Mapping[str, int]) -> Planned:
    return _with_note(planned, describe_widths(planned.plan, sizes))


def _with_note(planned: Planned, note: str) -> Planned:
    return replace(planned, plan=replace(planned.plan, notes=(*planned.plan.notes, note)))


def _most_bits(narrowing: Narrowing) -> float | None:
    """Bits that all codes whose width is open may have together; None without a limit."""
    work, limits = narrowing.work, list[float]()
    open_elements = sum(elements(layer) for layer in narrowing.layers)
    if work.recipe.bits is not None:
        taken = {layer.name for layer in narrowing.layers}
        closed = [  # small ones; those that the recipe gives a scheme are no part of the average
            (elements(layer), decision.scheme.bits)
            for layer in work.layers
            if layer.name not in taken and not is_listed(layer, work.recipe)
            if isinstance(decision := narrowing.plan.weights.get(layer.name), Quantize)
        ]
        whole = open_elements + sum(size for size, _ in closed)
        limits.append(work.recipe.bits * whole - sum(size * bits for size, bits in closed))
    most_bytes = _most_bytes(work)
    if most_bytes is not None:
        widest = written_bytes(work, with_widths(narrowing, {layer.name: WIDTHS[-1] for layer in narrowing.layers}))
        others = widest - open_elements + UNPACKING_BYTES * len(narrowing.layers)
        limits.append(8.0 * (most_bytes - others))
    return min(limits, default=None)


def _most_bytes(work: Workplace) -> float | None:
    ratio = work.recipe.gates.max_size_ratio
    return None if ratio is None else ratio * _file_bytes(work)


def _file_bytes(work: Workplace) -> int:
    return sum(file.stat().st_size for file in model_files(work.model.path))


def written_bytes(work: Workplace, plan: CompressionPlan) -> int:
    """Bytes of the model that the plan makes; codes take as much whatever they are."""
    candidate = work.model.clone()
    apply_plan(plan, candidate)
    return saved_bytes(candidate)


def _least_ratio(work: Workplace) -> float:
    """What the size ratio would be at least, with codes as wide as the recipe says."""
    whole = _file_bytes(work)
    weights = [layer for layer in work.layers if not layer.reason]
    kept = whole - sum(layer.bytes for layer in weights)
    codes = sum(elements(layer) * scheme_of(layer, work.recipe).bits / 8.0 for layer in weights)
    return (kept + codes) / max(whole, 1)
