"""Decide without writing: a plan, a frontier, a ranking."""

from __future__ import annotations

from pathlib import Path

from qcompress.data import Parts
from qcompress.decisions import CompressionPlan
from qcompress.errors import RecipeError
from qcompress.graph import Model
from qcompress.pipeline.opening import (
    RunOptions,
    budget_for,
    load_prepared,
    open_parts,
    plan_settings,
)
from qcompress.pipeline.pruning import planned_from, start_of
from qcompress.planning import (
    FrontierPoint,
    PlanSettings,
    RankedLoss,
    make_frontier,
    open_workplace,
    rank_losses,
)
from qcompress.planning.pruning import PruneLoss, rank_prunes
from qcompress.progress import SILENT, Progress
from qcompress.recipe import Recipe, load_recipe
from qcompress.rewrite import apply_plan


def plan_compression(
    source: Path | str,
    recipe: Recipe | str = "int8",
    data: str | None = None,
    *,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> CompressionPlan:
    """Decide what ``compress`` would do, without doing it.

    Raises:
        QcompressError: the model, data or recipe cannot be used.
    """
    source, options = Path(source), options or RunOptions()
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    prepared = load_prepared(source, recipe)
    parts = open_parts(prepared, data, options)
    with start_of(prepared, recipe, parts, options, progress) as start:
        made = planned_from(start, None, parts, options, progress)
        if start.pruned is None:
            return made.plan
        written = start.model.clone()
        apply_plan(made.plan, written, progress, made.codes)
        return start.finished(made.plan, source, budget_for(recipe, options), written)


def plan_frontier(
    source: Path | str,
    recipe: Recipe | str = "int8",
    data: str | None = None,
    *,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> tuple[FrontierPoint, ...]:
    """The candidates that no other beats in size, time and loss, each with its plan, from the least loss up.

    Raises:
        QcompressError: the model, data or recipe cannot be used, or there is too little data to choose on.
    """
    prepared, recipe, parts, settings = _set_up(source, recipe, data, options or RunOptions())
    if recipe.pruning.is_wanted:
        raise RecipeError("there is no frontier of pruned models", "leave pruning away, or ask for a plan")
    return make_frontier(prepared, recipe, parts, settings, progress)


def measure_sensitivity(
    source: Path | str,
    recipe: Recipe | str = "int8",
    data: str | None = None,
    *,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> tuple[RankedLoss, ...]:
    """What every group of layers loses when it alone takes a form, most harmful first, with what would help.

    Raises:
        QcompressError: the model, data or recipe cannot be used, or there is too little data to measure on.
    """
    return rank_losses(*_set_up(source, recipe, data, options or RunOptions()), progress)


def measure_pruning(
    source: Path | str,
    recipe: Recipe | str = "prune",
    data: str | None = None,
    *,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> tuple[PruneLoss, ...]:
    """What every weight (or group of channels) loses when it alone is pruned, by share, most harmful first.

    Raises:
        QcompressError: the model, data or recipe cannot be used, or there is too little data to measure on.
    """
    prepared, recipe, parts, settings = _set_up(source, recipe, data, options or RunOptions())
    return rank_prunes(open_workplace(prepared, recipe, parts, settings, progress), settings)


def _set_up(
    source: Path | str, recipe: Recipe | str, data: str | None, options: RunOptions
) -> tuple[Model, Recipe, Parts | None, PlanSettings]:
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    prepared = load_prepared(Path(source), recipe)
    return prepared, recipe, open_parts(prepared, data, options), plan_settings(prepared, recipe, options)
