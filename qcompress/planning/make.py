"""Make the plan: try the recipe's preferences in order, fit each, and take the first whose outputs are close enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress.calibrate import CalibrationSettings, MeansRequest, collect, collect_means, observe_shapes
from qcompress.data import Dataset, Parts
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import Model, digest, save_model
from qcompress.measure import AccuracySettings, measure_accuracy
from qcompress.operators import Layer, find_layers
from qcompress.plan.choose import PREFERENCES, Preference, choose_forms, static_nodes, stored_form
from qcompress.plan.fit import fit_activations, fit_clips, needs_of, shift_probes
from qcompress.plan.placement import Placement, Shapes, place
from qcompress.plan.worth import losing_nodes
from qcompress.progress import Progress
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite import apply_plan
from qcompress.types import Form, Statistics, StatisticsNeeds

OUTPUT_ERROR_LIMIT = 0.02
"""Share of an output's energy that may be error (17 dB). On the development models static candidates at 0.005 to 0.011 kept
their task metric within a point of float; the next ones had 0.2 to 0.7."""

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


@dataclass(frozen=True, slots=True)
class Candidate:
    """Forms and integer nodes that one preference leads to."""

    preference: Preference
    chosen: dict[str, Form | Keep]
    placement: Placement


def make_plan(model: Model, recipe: Recipe, parts: Parts | None, threads: int, progress: Progress) -> CompressionPlan:
    """Plan the compression of a prepared model; without data only forms that need none are used.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        ModelError: the model does not run on the data.
        RecipeError: include, exclude or outputs name something the model does not have.
    """
    _check_outputs(model, recipe)
    shapes = {} if parts is None else observe_shapes(model, next(parts.fit.batches()).feed)
    work = Workplace(model, find_layers(model), recipe, parts, shapes, threads, progress)
    candidates = _candidates(work)
    notes: list[str] = []
    if parts is not None and parts.choose is None and len(candidates) > 1:
        notes.append("too few samples to check integer arithmetic on: weights are stored, arithmetic stays in float")
        candidates = candidates[-1:]
    fitted = _fit(work, candidates)
    for candidate in candidates:
        plan = _assemble(work, candidate, fitted)
        if candidate is candidates[-1] or parts is None or parts.choose is None:
            break
        error, output = _output_error(work, plan, parts.choose.limit(CHOOSING_SAMPLES))
        if error <= OUTPUT_ERROR_LIMIT:
            break
        notes.append(f"{candidate.preference.title}: not taken, {error:.1%} of the energy of output {output} would be error")
        progress.note(notes[-1])
    return replace(plan, notes=tuple(notes))


def _candidates(work: Workplace) -> list[Candidate]:
    """What the recipe's preferences lead to, in order, without repetitions."""
    mode = work.recipe.mode
    if work.parts is None and mode is not Mode.DYNAMIC:
        mode = Mode.WEIGHTS
    candidates: list[Candidate] = []
    for preference in PREFERENCES[mode]:
        candidate = _settle(work, preference)
        if all(candidate.chosen != other.chosen for other in candidates):
            candidates.append(candidate)
    return candidates


def _settle(work: Workplace, preference: Preference) -> Candidate:
    """Forms and integer nodes under a preference; in mode auto, regions that would be slower than float are given up."""
    chosen = choose_forms(work.layers, preference, work.recipe, work.shapes)
    if work.parts is None:
        return Candidate(preference, chosen, Placement((), (), {}))
    mode = work.recipe.mode
    placement = place(work.model, static_nodes(work.model, work.layers, chosen, mode), work.shapes)
    losing = losing_nodes(work.model, placement, work.shapes) if mode is Mode.AUTO else set()
    if losing:
        for layer in work.layers:
            if chosen[layer.name] is Form.STATIC and any(use.node.name in losing for use in layer.uses):
                chosen[layer.name] = stored_form(layer, work.recipe, work.shapes)
        placement = place(work.model, static_nodes(work.model, work.layers, chosen, mode), work.shapes)
    return Candidate(preference, chosen, placement)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Numbers that hold for every candidate: the data ran once for all of them."""

    statistics: Statistics | None
    clips: dict[str, tuple[float, ...]]
    shifts: dict[str, tuple[float, ...]]


def _fit(work: Workplace, candidates: Sequence[Candidate]) -> Fitted:
    """Calibrate, search clips and measure bias shifts."""
    recipe, parts = work.recipe, work.parts
    names = {name for item in candidates for name, form in item.chosen.items() if not isinstance(form, Keep)}
    layers = [layer for layer in work.layers if layer.name in names]
    statistics = None
    if parts is not None:
        needs = needs_of(layers, (item.placement for item in candidates), recipe)
        if needs != StatisticsNeeds():
            settings = CalibrationSettings(recipe.ranges, recipe.activations, work.threads, parts.fit.samples, work.shapes)
            statistics = collect(work.model, needs, parts.fit.batches(), settings, work.progress)
    clips = fit_clips(layers, statistics, recipe, work.progress)
    probes = shift_probes(layers, clips, recipe) if parts is not None and recipe.correct_bias else None
    if parts is None or probes is None or not probes.nodes:
        return Fitted(statistics, clips, {})
    data = parts.fit.limit(SHIFT_SAMPLES)
    request = MeansRequest(probes.nodes, probes.constants, probes.channel_axes)
    settings = CalibrationSettings(threads=work.threads, total=data.samples)
    means = collect_means(work.model, request, data.batches(), settings, work.progress)
    shifts = {probes.layers[name]: tuple(float(shift) for shift in mean) for name, mean in means.items()}
    return Fitted(statistics, clips, shifts)


def _assemble(work: Workplace, candidate: Candidate, fitted: Fitted) -> CompressionPlan:
    """The plan of one candidate."""
    weights: dict[str, Quantize | Keep] = {
        name: form if isinstance(form, Keep) else Quantize(form, work.recipe.weights, fitted.clips[name])
        for name, form in candidate.chosen.items()
    }
    taken = {use.node.name or "" for layer in work.layers if isinstance(weights[layer.name], Quantize) for use in layer.uses}
    statistics, placement = fitted.statistics, candidate.placement
    return CompressionPlan(
        source=digest(work.model.path),
        recipe=work.recipe.name,
        weights=weights,
        activation_scheme=work.recipe.activations,
        activations={} if statistics is None else fit_activations(placement, statistics, work.recipe),
        integer_nodes=placement.nodes,
        bias_shifts={node: shift for node, shift in fitted.shifts.items() if node in taken},
    )


def _output_error(work: Workplace, plan: CompressionPlan, data: Dataset) -> tuple[float, str]:
    """The share of energy that is error under the plan, and the output where it is largest among those that matter."""
    candidate = work.model.clone()
    apply_plan(plan, candidate)
    with TemporaryDirectory(prefix="qcompress-") as folder:
        path = Path(folder) / "candidate.onnx"
        save_model(candidate, path)
        settings = AccuracySettings(work.threads)
        found = measure_accuracy(work.model.path, path, data, settings=settings, progress=work.progress).agreement
    errors = [
        (1.0 if output.lost_samples else 10.0 ** (-(output.sqnr_db or 0.0) / 10.0), output.name)
        for output in found
        if (output.lost_samples or output.sqnr_db is not None) and output.name in (work.recipe.outputs or (output.name,))
    ]
    return max(errors, default=(0.0, ""))


def _check_outputs(model: Model, recipe: Recipe) -> None:
    names = [output.name for output in model.outputs]
    for name in recipe.outputs:
        if name not in names:
            near = get_close_matches(name, names, 1, 0.0)
            raise RecipeError(f"the model has no output {name!r}", f"did you mean {near[0]!r}?" if near else "it has none")
