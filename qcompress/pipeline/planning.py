"""Decide without writing: a plan, a frontier, a ranking."""

from __future__ import annotations

from pathlib import Path

from qcompress.data import Parts
from qcompress.decisions import CompressionPlan
from qcompress.graph import Model
from qcompress.pipeline.opening import (
    RunOptions,
    load_prepared,
    open_parts,
    plan_settings,
)
from qcompress.planning import (
    FrontierPoint,
    PlanSettings,
    RankedLoss,
    make_frontier,
    make_plan,
    rank_losses,
)
from qcompress.progress import SILENT, Progress
from qcompress.recipe import Recipe, load_recipe


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
    return make_plan(*_set_up(source, recipe, data, options or RunOptions()), progress).plan


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
    return make_frontier(*_set_up(source, recipe, data, options or RunOptions()), progress)


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


def _set_up(
    source: Path | str, recipe: Recipe | str, data: str | None, options: RunOptions
) -> tuple[Model, Recipe, Parts | None, PlanSettings]:
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    prepared = load_prepared(Path(source), recipe)
    return prepared, recipe, open_parts(prepared, data, options), plan_settings(prepared, recipe, options)
