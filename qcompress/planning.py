"""Make the plan: try the recipe's preferences in order, fit each, and take the first whose outputs are close enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress.calibrate import CalibrationSettings, MeansRequest, collect, collect_means
from qcompress.data import Dataset, Parts
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.graph import Model, digest, save_model
from qcompress.measure import AccuracySettings, measure_accuracy
from qcompress.operators import Layer, find_layers
from qcompress.plan.choose import PREFERENCES, Preference, choose_forms, static_nodes, stored_form
from qcompress.plan.fit import fit_activations, fit_weights, needs_of, shift_probes
from qcompress.plan.placement import Placement, Shapes, place
from qcompress.plan.shapes import observe_shapes
from qcompress.plan.worth import losing_nodes
from qcompress.progress import Progress
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite import apply_plan
from qcompress.types import Form, StatisticsNeeds

OUTPUT_ERROR_LIMIT = 0.02
"""Share of an output's energy that may be error (17 dB). On eight development models every task metric stayed within a point
of float below 0.011, and the first one broken had 0.29."""

CHOOSING_SAMPLES = 32
SHIFT_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Workplace:
    """What planning works on and with."""

    model: Model
    layers: Sequence[Layer]
    recipe: Recipe
    parts: Parts | None
    shapes: Shapes
    threads: int
    progress: Progress


def make_plan(model: Model, recipe: Recipe, parts: Parts | None, threads: int, progress: Progress) -> CompressionPlan:
    """Plan the compression of a prepared model; without data only forms that need none are used.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        ModelError: the model does not run on the data.
        RecipeError: include or exclude name something the model does not have.
    """
    shapes = {} if parts is None else observe_shapes(model, next(parts.fit.batches()).feed)
    work = Workplace(model, find_layers(model), recipe, parts, shapes, threads, progress)
    preferences = PREFERENCES[recipe.mode] if parts is not None else PREFERENCES[_without_data(recipe.mode)]
    notes: list[str] = []
    tried: list[dict[str, Form | Keep]] = []
    for preference in preferences:
        chosen, placement = _settle(work, preference)
        if chosen in tried:
            continue
        tried.append(chosen)
        plan = _fit(work, chosen, placement)
        if preference is preferences[-1] or parts is None or parts.choose is None:
            break
        error = _output_error(work, plan, parts.choose.limit(CHOOSING_SAMPLES))
        if error <= OUTPUT_ERROR_LIMIT:
            break
        notes.append(f"{preference.title}: left, {error:.1%} of an output's energy would be error")
        progress.note(notes[-1])
    return replace(plan, notes=tuple(notes))


def _without_data(mode: Mode) -> Mode:
    return Mode.DYNAMIC if mode is Mode.DYNAMIC else Mode.WEIGHTS


def _settle(work: Workplace, preference: Preference) -> tuple[dict[str, Form | Keep], Placement]:
    """Forms and integer nodes under a preference; in mode auto, regions that would be slower than float are given up."""
    chosen = choose_forms(work.layers, preference, work.recipe, work.shapes)
    if work.parts is None:
        return chosen, Placement((), (), {})
    placement = place(work.model, static_nodes(work.model, work.layers, chosen, work.recipe.mode), work.shapes)
    losing = losing_nodes(work.model, placement, work.shapes) if work.recipe.mode is Mode.AUTO else set()
    if losing:
        for layer in work.layers:
            if chosen[layer.name] is Form.STATIC and any(use.node.name in losing for use in layer.uses):
                chosen[layer.name] = stored_form(layer, work.shapes)
        placement = place(work.model, static_nodes(work.model, work.layers, chosen, work.recipe.mode), work.shapes)
    return chosen, placement


def _fit(work: Workplace, chosen: dict[str, Form | Keep], placement: Placement) -> CompressionPlan:
    """Find the numbers of a plan: ranges, clips, scales and bias shifts."""
    recipe, parts = work.recipe, work.parts
    statistics = None
    needs = needs_of(work.layers, chosen, placement, recipe)
    if parts is not None and needs != StatisticsNeeds():
        settings = CalibrationSettings(recipe.ranges, recipe.activations, work.threads, parts.fit.samples)
        statistics = collect(work.model, needs, parts.fit.batches(), settings, work.progress)
    decisions = fit_weights(work.layers, chosen, statistics, recipe, work.progress)
    return CompressionPlan(
        source=digest(work.model.path),
        recipe=recipe.name,
        weights=decisions,
        activation_scheme=recipe.activations,
        activations={} if statistics is None else fit_activations(placement, statistics, recipe),
        integer_nodes=placement.nodes,
        bias_shifts=_bias_shifts(work, decisions),
    )


def _bias_shifts(work: Workplace, decisions: dict[str, Quantize | Keep]) -> dict[str, tuple[float, ...]]:
    if work.parts is None or not work.recipe.correct_bias:
        return {}
    probes = shift_probes(work.layers, decisions)
    if not probes.nodes:
        return {}
    data = work.parts.fit.limit(SHIFT_SAMPLES)
    request = MeansRequest(probes.nodes, probes.constants, probes.channel_axes)
    settings = CalibrationSettings(threads=work.threads, total=data.samples)
    means = collect_means(work.model, request, data.batches(), settings, work.progress)
    return {probes.layers[name]: tuple(float(shift) for shift in mean) for name, mean in means.items()}


def _output_error(work: Workplace, plan: CompressionPlan, data: Dataset) -> float:
    """The largest share of any output's energy that is error under the plan."""
    candidate = work.model.clone()
    apply_plan(plan, candidate)
    with TemporaryDirectory(prefix="qcompress-") as folder:
        path = Path(folder) / "candidate.onnx"
        save_model(candidate, path)
        settings = AccuracySettings(work.threads)
        found = measure_accuracy(work.model.path, path, data, settings=settings, progress=work.progress).agreement
    if any(output.lost_samples for output in found):
        return 1.0
    return max((10.0 ** (-output.sqnr_db / 10.0) for output in found if output.sqnr_db is not None), default=0.0)
