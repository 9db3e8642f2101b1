"""What else a search can tell: the candidates nothing beats, and how much each layer harms."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.data import Parts
from qcompress.decisions import CompressionPlan
from qcompress.errors import RecipeError
from qcompress.graph import Model, model_files
from qcompress.planning.groups import Way
from qcompress.planning.make import (
    Exploration,
    PlanSettings,
    Sensitivity,
    described,
    explore,
    open_workplace,
    plan_of,
    saved,
    sensitivities,
)
from qcompress.progress import Progress
from qcompress.recipe import Mode, Recipe

WORSE = 1.5
"""Another form helps when a layer loses this many times less in it."""

HARMLESS = 0.1
"""Share of the budget below which what one group loses needs no help."""


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A candidate that no other beats in size, time and loss.

    ``size_bytes``: of the whole file, estimated. ``milliseconds``: of one run, estimated from measured costs.
    ``speedup``: time of the float model over that. ``loss``: measured. ``ways``: how many groups of layers go which way.
    """

    size_bytes: int
    milliseconds: float
    speedup: float
    loss: float
    ways: str
    plan: CompressionPlan


@dataclass(frozen=True, slots=True)
class RankedLoss:
    """What a group of layers loses when it alone takes a form, and what would help."""

    group: str
    layers: tuple[str, ...]
    form: str
    loss: float
    gain_ms: float
    help: str


def make_frontier(
    model: Model, recipe: Recipe, parts: Parts | None, settings: PlanSettings, progress: Progress
) -> tuple[FrontierPoint, ...]:
    """The candidates nothing beats, from the least loss up; the same measurements give the same points.

    Raises:
        RecipeError: there are too few samples to hold any out, or the mode leaves no choice.
    """
    exploration = _explored(model, recipe, parts, settings, progress)
    with saved(exploration):
        exploration.search.run()
        points = exploration.search.widen()
    costs = exploration.oracle.measurements.costs
    float_ms = costs.source_ms if costs is not None else 0.0
    whole = sum(file.stat().st_size for file in model_files(model.path))
    weights = sum(layer.bytes for group in exploration.oracle.groups for layer in group.layers)
    return tuple(
        FrontierPoint(
            size_bytes=round(whole - weights + point.size),
            milliseconds=point.cost,
            speedup=float_ms / max(point.cost, 1e-9),
            loss=point.loss,
            ways=described(point.ways),
            plan=plan_of(exploration, point),
        )
        for point in points
    )


def rank_losses(
    model: Model, recipe: Recipe, parts: Parts | None, settings: PlanSettings, progress: Progress
) -> tuple[RankedLoss, ...]:
    """What every group of layers loses alone in each of its forms, most harmful first.

    Raises:
        RecipeError: there are too few samples to hold any out, or the mode leaves no choice.
    """
    exploration = _explored(model, recipe, parts, settings, progress)
    with saved(exploration):
        found = sensitivities(exploration)
    by_way = {(item.group, item.way): item for item in found}
    return tuple(
        RankedLoss(
            item.group,
            item.layers,
            item.way.value,
            item.loss,
            item.gain_ms,
            _advice(item, [by_way[item.group, way] for way in Way if (item.group, way) in by_way], settings.budget),
        )
        for item in found
    )


def _explored(model: Model, recipe: Recipe, parts: Parts | None, settings: PlanSettings, progress: Progress) -> Exploration:
    if recipe.mode is not Mode.AUTO:
        raise RecipeError(f"mode {recipe.mode} leaves nothing to choose", "use mode auto")
    if recipe.bits is not None:
        raise RecipeError("only forms are compared here, not widths of codes", "leave --bits away, or use recipe int8")
    return explore(open_workplace(model, recipe, parts, settings, progress), settings)


def _advice(item: Sensitivity, forms: list[Sensitivity], budget: float) -> str:
    """What helps against the loss of a form: another one that loses clearly less, else leaving the layer alone."""
    if item.loss <= HARMLESS * budget:
        return ""
    better = [other for other in forms if other.way is not item.way and other.loss * WORSE < item.loss]
    if better:
        best = max(better, key=lambda other: (other.loss <= HARMLESS * budget, other.gain_ms, -other.loss))
        return f"{best.way.value} loses {best.loss:.2g}"
    return f"keep it in float: --exclude {item.group}"
