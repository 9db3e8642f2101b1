"""What planning starts from: the prepared model, or what pruning leaves of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress.data import Parts
from qcompress.decisions import CompressionPlan
from qcompress.graph import Model, digest, model_files, save_model
from qcompress.graph.passes.halves import narrow_halves
from qcompress.measure import LatencySettings, measure_latency
from qcompress.pipeline.opening import RunOptions, first_feeds, open_timing, plan_settings, timed_threads
from qcompress.plan.choose import is_listed
from qcompress.planning import Planned, find_codes, make_plan, open_workplace
from qcompress.planning.pruning import EXACT, Pruned, prune_model, replay_pruning, stored_exactly
from qcompress.planning.work import Workplace
from qcompress.progress import Progress
from qcompress.recipe import Recipe
from qcompress.types import Prune

SECONDS_TO_TIME = 2.0


@dataclass(frozen=True, slots=True)
class Start:
    """What is planned on.

    ``recipe``: with limits and budget as they are for what pruning left. ``pruned``: None where nothing is pruned.
    """

    model: Model
    recipe: Recipe
    pruned: Pruned | None = None

    def finished(self, plan: CompressionPlan, source: Path, budget: float, made: Model) -> CompressionPlan:
        """The plan made on what pruning left, as the plan for the whole way from ``source``.

        Args:
            plan: made on ``model``.
            source: the model before pruning.
            budget: what pruning and all that follows may lose together.
            made: ``model`` with the plan applied.
        """
        pruned = self.pruned
        if pruned is None:
            return plan
        return replace(
            plan,
            source=digest(source),
            recipe=self.recipe.name,
            prunes=pruned.prunes,
            channels=pruned.channels,
            compensate=self.recipe.pruning.compensate,
            sequential=self.recipe.sequential,
            notes=(*pruned.notes, *plan.notes),
            loss=None if pruned.meter is None else pruned.meter.of(made),
            budget=budget,
        )


def planned_from(
    start: Start, plan: CompressionPlan | None, parts: Parts | None, options: RunOptions, progress: Progress
) -> Planned:
    """Plan from what there is to start with, or fit the codes of a plan that is replayed.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        RecipeError: the plan needs data and there is none.
    """
    settings = plan_settings(start.model, start.recipe, options)
    if plan is None and (start.pruned is None or start.recipe.weights != EXACT or start.recipe.layers):
        made = make_plan(start.model, start.recipe, parts, settings, progress)
        prunes = {} if start.pruned is None else start.pruned.prunes
        if start.recipe.weights == EXACT:
            made = _others_exactly(made, open_workplace(start.model, start.recipe, parts, settings, progress), prunes)
        return replace(made, plan=replace(made.plan, prunes=prunes)) if prunes else made
    work = open_workplace(start.model, start.recipe, parts, settings, progress)
    if plan is None:
        return Planned(stored_exactly(work, {} if start.pruned is None else start.pruned.prunes))
    return Planned(plan, find_codes(work, plan))


@contextmanager
def start_of(
    prepared: Model,
    recipe: Recipe,
    parts: Parts | None,
    options: RunOptions,
    progress: Progress,
    plan: CompressionPlan | None = None,
) -> Iterator[Start]:
    """Prune if the recipe (or a plan that is replayed) says so; the pruned model is in a file while the context lasts.

    Raises:
        RecipeError: nothing can be pruned, or what is asked for needs data.
        CalibrationError: an activation is NaN or infinite.
    """
    replayed = plan is not None and (plan.prunes or plan.channels)
    if not replayed and (plan is not None or not recipe.pruning.is_wanted):
        yield Start(prepared, recipe)
        return
    if plan is not None:
        recipe = replace(recipe, sequential=plan.sequential, pruning=replace(recipe.pruning, compensate=plan.compensate))
    settings = plan_settings(prepared, recipe, options)
    work = open_workplace(prepared, recipe, parts, settings, progress)
    pruned = prune_model(work, settings) if plan is None else replay_pruning(work, plan.prunes, plan.channels)
    for note in pruned.notes:
        progress.note(note)
    with TemporaryDirectory(prefix="qcompress-") as folder:
        path = Path(folder) / prepared.path.name
        copy = pruned.model.clone()
        narrow_halves(copy)
        save_model(copy, path)
        model = Model(pruned.model.ir, path)
        yield Start(model, _adjusted(recipe, prepared, path, pruned, options, parts, progress), pruned)


def _adjusted(
    recipe: Recipe,
    prepared: Model,
    path: Path,
    pruned: Pruned,
    options: RunOptions,
    parts: Parts | None,
    progress: Progress,
) -> Recipe:
    """The recipe with limits that are relative to the original made relative to what pruning left, and the rest of the budget."""
    gates = recipe.gates
    if gates.max_size_ratio is not None:
        before, after = (sum(file.stat().st_size for file in model_files(at)) for at in (prepared.path, path))
        gates = replace(gates, max_size_ratio=gates.max_size_ratio * before / max(after, 1))
    if gates.min_speedup is not None and pruned.channels:
        feeds = open_timing(prepared, options) or first_feeds(None if parts is None else parts.fit)
        if feeds:
            timing = LatencySettings(threads=timed_threads(options), budget_seconds=SECONDS_TO_TIME)
            gates = replace(
                gates,
                min_speedup=gates.min_speedup / measure_latency(prepared.path, path, feeds, timing, progress).speedup.value,
            )
    if gates.max_accuracy_drop is not None and options.metric is None:
        gates = replace(gates, max_accuracy_drop=_rest(gates.max_accuracy_drop, pruned.loss))
    return replace(recipe, gates=gates, budget=_rest(recipe.budget, pruned.loss))


def _rest(budget: float, lost: float | None) -> float:
    """What pruning leaves of a budget; a tenth at least, so that what follows stays sensible where it leaves nothing."""
    return max(budget - (lost or 0.0), budget / 10.0)


def _others_exactly(made: Planned, work: Workplace, prunes: Mapping[str, Prune]) -> Planned:
    """The plan with nothing but the layers that the recipe gives a scheme quantized."""
    listed = {layer.name for layer in work.layers if is_listed(layer, work.recipe)}
    exact = stored_exactly(work, prunes).weights
    weights = {name: item if name in listed else exact[name] for name, item in made.plan.weights.items()}
    codes = {name: item for name, item in made.codes.items() if name in listed}
    return replace(made, plan=replace(made.plan, weights=weights), codes=codes)
