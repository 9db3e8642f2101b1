"""The whole story of one compression, and the report on an existing pair."""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress import __version__
from qcompress.data import Dataset, Parts, load_metric
from qcompress.decisions import CompressionPlan
from qcompress.errors import NothingToCompressError, RecipeError
from qcompress.graph import Model, digest, load_model, save_model
from qcompress.graph.delivery import deliver, folder_of
from qcompress.graph.outputs import judged_outputs
from qcompress.measure import (
    AccuracySettings,
    LatencySettings,
    Promise,
    check_baseline,
    check_budget,
    check_gates,
    check_promise,
    measure_accuracy,
    measure_kernels,
    measure_latency,
    measure_size,
)
from qcompress.operators import find_layers
from qcompress.pipeline.opening import (
    RunOptions,
    budget_for,
    first_feeds,
    load_prepared,
    open_evaluation,
    open_parts,
    open_timing,
    timed_threads,
)
from qcompress.pipeline.pruning import Start, planned_from, start_of
from qcompress.plan.coverage import coverage, with_biases, with_entropies, with_zeros
from qcompress.progress import SILENT, Progress
from qcompress.recipe import Recipe, load_recipe
from qcompress.results import AccuracyReport, DataFacts, Gates, LatencyReport, Report, WeightRow
from qcompress.rewrite import apply_plan
from qcompress.runtime import SessionSettings, version
from qcompress.types import Feed


def compress(
    source: Path | str,
    target: Path | str,
    recipe: Recipe | str = "int8",
    data: str | None = None,
    eval_data: str | None = None,
    *,
    plan: CompressionPlan | None = None,
    options: RunOptions | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Write a smaller ``target`` for ``source`` and say what it cost.

    Raises:
        QcompressError: the model, data or recipe cannot be used, the target cannot be written, or nothing was saved.
    """
    source, target, options = Path(source), Path(target), options or RunOptions()
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    prepared = load_prepared(source, recipe, None if plan is None else plan.opset)
    if all(layer.reason for layer in find_layers(prepared)):
        raise _nothing(source)
    parts = open_parts(prepared, data, options)
    evaluation = open_evaluation(prepared, eval_data, parts, options)
    if plan is not None and plan.source != digest(source):
        raise RecipeError("the plan was made for another model", f"make it again: qcompress plan {source}")
    promise = Promise(_promised(plan, recipe, options), judged_outputs(prepared, recipe.outputs))
    with start_of(prepared, recipe, parts, options, progress, plan) as start:
        prepared, plan, rows = _rewritten(start, plan, (source, promise.budget), parts, options, progress)
    if not any(row.form for row in rows) and not plan.channels:
        raise _nothing(source)
    with TemporaryDirectory(prefix=".qcompress-", dir=folder_of(target)) as folder:
        written = Path(folder) / target.name
        save_model(prepared, written)
        size = measure_size(source, written)
        if size.ratio >= 1.0:
            raise NothingToCompressError(
                f"{source}: the result would be {size.ratio:.2f} times as large as the original", "nothing was written"
            )
        timing = open_timing(prepared, options) or first_feeds(evaluation or (parts.fit if parts is not None else None))
        latency, accuracy = _measure((source, written), promise.judged, timing, evaluation, options, progress)
        report = Report(
            source=str(source),
            target=str(target),
            recipe=plan.recipe,
            data=_facts(parts, evaluation, eval_data),
            size=size,
            latency=latency,
            accuracy=accuracy,
            kernels=measure_kernels(
                written,
                SessionSettings(threads=options.threads),
                unasked_bytes=0 if latency or accuracy else sum(size.float_weights.values()),
            ),
            coverage=rows,
            gates=(
                *check_gates(recipe.gates, size, latency, accuracy),
                *check_budget(plan.loss, _budget_of(plan, recipe, options), plan.notes),
                *check_promise(recipe.gates, latency, accuracy, promise),
                *check_baseline(options.baseline, size, latency, accuracy),
            ),
            notes=(*plan.notes, *_remarks(parts, evaluation)),
            versions=versions(),
        )
        if not (options.discard_on_fail and report.exit_code):
            deliver(written, target)
    return report


def compare_models(
    float_model: Path | str,
    compressed: Path | str,
    data: str | None = None,
    *,
    options: RunOptions | None = None,
    gates: Gates | None = None,
    progress: Progress = SILENT,
) -> Report:
    """The report for an existing pair of models, whoever made the second one.

    Raises:
        QcompressError: a model or the data cannot be used.
    """
    float_model, compressed, options = Path(float_model), Path(compressed), options or RunOptions()
    model = load_model(float_model)
    load_model(compressed)
    evaluation = open_evaluation(model, data, None, options)
    size = measure_size(float_model, compressed)
    timing = open_timing(model, options) or first_feeds(evaluation)
    judged = judged_outputs(model)
    latency, accuracy = _measure((float_model, compressed), judged, timing, evaluation, options, progress)
    return Report(
        source=str(float_model),
        target=str(compressed),
        recipe="",
        data=_facts(None, evaluation, data),
        size=size,
        latency=latency,
        accuracy=accuracy,
        kernels=measure_kernels(compressed, SessionSettings(threads=options.threads)),
        coverage=(),
        gates=check_gates(gates or Gates(), size, latency, accuracy),
        versions=versions(),
    )


def _rewritten(
    start: Start,
    plan: CompressionPlan | None,
    aim: tuple[Path, float],
    parts: Parts | None,
    options: RunOptions,
    progress: Progress,
) -> tuple[Model, CompressionPlan, tuple[WeightRow, ...]]:
    """The compressed model, the plan of the whole way to it, and what became of every weight; ``aim``: source and budget."""
    made = planned_from(start, plan, parts, options, progress)
    rows = coverage(find_layers(start.model), made.plan.weights)
    done = apply_plan(made.plan, start.model, progress, made.codes)
    whole = start.finished(made.plan, *aim, start.model) if plan is None else plan
    rows = with_entropies(with_biases(rows, done.biases), done.entropies)
    return start.model, whole, with_zeros(rows, done.zeros, done.saved, whole.prunes)


def _promised(plan: CompressionPlan | None, recipe: Recipe, options: RunOptions) -> float:
    """What may be lost at most: of a plan that is replayed what it was made for."""
    if plan is not None:
        return recipe.budget if plan.budget is None else plan.budget
    return budget_for(recipe, options)


def _budget_of(plan: CompressionPlan, recipe: Recipe, options: RunOptions) -> float | None:
    """What the plan may lose: what the user says now, else what it was made for."""
    asked = recipe.gates.max_accuracy_drop is not None and options.metric is None
    return budget_for(recipe, options) if asked else plan.budget


def _measure(
    pair: tuple[Path, Path],
    judged: Collection[str],
    timing: Sequence[Feed],
    evaluation: Dataset | None,
    options: RunOptions,
    progress: Progress,
) -> tuple[LatencyReport | None, AccuracyReport | None]:
    """How fast and how accurate the second model of the pair is beside the first; ``judged``: outputs that count."""
    metric = load_metric(options.metric) if options.metric else None
    accuracy = None
    if evaluation is not None:
        measuring = AccuracySettings(options.threads, options.metric or "", judged)
        accuracy = measure_accuracy(*pair, evaluation, metric, measuring, progress)
    latency = None
    if timing and options.latency_seconds > 0:
        settings = LatencySettings(threads=timed_threads(options), budget_seconds=options.latency_seconds)
        latency = measure_latency(*pair, timing, settings, progress)
    return latency, accuracy


def _remarks(parts: Parts | None, evaluation: Dataset | None) -> tuple[str, ...]:
    if parts is not None and evaluation is None:
        return ("the data is one feed or fewer than 4 samples: none was held out, so accuracy was not measured",)
    return () if evaluation is None else evaluation.notes


def _nothing(source: Path) -> NothingToCompressError:
    return NothingToCompressError(f"{source}: no weight can be compressed", "qcompress inspect says why")


def _facts(parts: Parts | None, evaluation: Dataset | None, eval_data: str | None) -> DataFacts:
    fit = parts.fit if parts is not None else None
    return DataFacts(
        calibration=fit.source if fit is not None else None,
        calibration_samples=(fit.samples or 0) if fit is not None else 0,
        evaluation=evaluation.source if evaluation is not None else None,
        evaluation_samples=(evaluation.samples or 0) if evaluation is not None else 0,
        random=bool(fit is not None and fit.random) or bool(evaluation is not None and evaluation.random),
        held_out=eval_data is None and evaluation is not None,
    )


def versions() -> dict[str, str]:
    """What the figures of a report depend on."""
    return {
        "qcompress": __version__,
        "onnxruntime": version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
