"""The whole story of one compression, and of its shorter cousins: a dry run, an inspection, a comparison."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress import __version__
from qcompress.data import DataOptions, Dataset, Parts, cut, load_metric, open_dataset
from qcompress.decisions import CompressionPlan
from qcompress.errors import NothingToCompressError, RecipeError
from qcompress.graph import Model, digest, load_model, model_files, save_model
from qcompress.graph.delivery import deliver, folder_of
from qcompress.graph.opset import raise_opset
from qcompress.graph.outputs import judged_outputs
from qcompress.graph.passes import prepare, unpack
from qcompress.measure import (
    AccuracySettings,
    LatencySettings,
    Promise,
    check_budget,
    check_gates,
    check_promise,
    measure_accuracy,
    measure_kernels,
    measure_latency,
    measure_size,
)
from qcompress.operators import find_layers
from qcompress.operators.support import CHANNEL_SCALES
from qcompress.plan.choose import PREFERENCES, choose_forms, worthwhile_opset
from qcompress.plan.coverage import as_decisions, coverage, with_biases
from qcompress.planning import (
    Effort,
    FrontierPoint,
    Planned,
    PlanSettings,
    RankedLoss,
    find_codes,
    make_frontier,
    make_plan,
    open_workplace,
    rank_losses,
)
from qcompress.progress import SILENT, Progress
from qcompress.recipe import Mode, Recipe, load_recipe
from qcompress.results import AccuracyReport, DataFacts, Gates, LatencyReport, Report, WeightRow
from qcompress.rewrite import apply_plan
from qcompress.runtime import SessionSettings, version
from qcompress.types import Feed, TensorSignature

FEEDS_TO_TIME = 4

SIXTEEN_BITS = 21
"""The first operator set with 16-bit QuantizeLinear."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run, apart from what to do.

    ``held_out``: the part of the data kept for choosing and measuring. ``latency_seconds``: budget of the latency
    measurement, 0 skips it. ``eval_samples``: at most so many are evaluated. ``target_threads``: for everything timed, when
    it is not ``threads``. ``timing_data``: feeds of the sizes for which the model shall be fast, when the data has others.
    ``cost_file``: measurements to plan by, written when the file is not there yet.
    """

    threads: int = 0
    target_threads: int | None = None
    effort: Effort = Effort.NORMAL
    cost_file: Path | None = None
    timing_data: str | None = None
    held_out: float = 0.25
    data: DataOptions = field(default_factory=DataOptions)
    metric: str | None = None
    latency_seconds: float = 6.0
    eval_samples: int | None = None
    discard_on_fail: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model holds and what could become of it."""

    path: str
    opset: int
    ir_version: int
    producer: str
    nodes: int
    file_bytes: int
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    operators: Mapping[str, int]
    weights: tuple[WeightRow, ...]
    compressible_bytes: int
    estimated_bytes: int


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
    parts = open_parts(prepared, data, options)
    evaluation = open_evaluation(prepared, eval_data, parts, options)
    if plan is None:
        planned = make_plan(prepared, recipe, parts, plan_settings(prepared, recipe, options), progress)
    elif plan.source != digest(source):
        raise RecipeError("the plan was made for another model", f"make it again: qcompress plan {source}")
    else:
        work = open_workplace(prepared, recipe, parts, plan_settings(prepared, recipe, options), progress)
        planned = Planned(plan, find_codes(work, plan))
    plan = planned.plan
    promise = Promise(recipe.budget, judged_outputs(prepared, recipe.outputs))
    rows = coverage(find_layers(prepared), plan.weights)
    rows = with_biases(rows, apply_plan(plan, prepared, progress, planned.codes))
    if not any(row.form for row in rows):
        raise NothingToCompressError(f"{source}: no weight can be compressed", "qcompress inspect says why")
    with TemporaryDirectory(prefix=".qcompress-", dir=folder_of(target)) as folder:
        written = Path(folder) / target.name
        save_model(prepared, written)
        size = measure_size(source, written)
        if size.ratio >= 1.0:
            raise NothingToCompressError(
                f"{source}: the result would be {size.ratio:.2f} times as large as the original", "nothing was written"
            )
        timing = open_timing(prepared, options) or _first_feeds(evaluation or (parts.fit if parts is not None else None))
        latency, accuracy = _measure(source, written, timing, evaluation, options, progress)
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
            ),
            notes=(*plan.notes, *_remarks(parts, evaluation)),
            versions=versions(),
        )
        if not (options.discard_on_fail and report.exit_code):
            deliver(written, target)
    return report


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
    timing = open_timing(model, options) or _first_feeds(evaluation)
    latency, accuracy = _measure(float_model, compressed, timing, evaluation, options, progress)
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


def inspect_model(source: Path | str, recipe: Recipe | str = "int8") -> Inspection:
    """What a model holds, what could be compressed, and why the rest could not; needs no data.

    Raises:
        QcompressError: the model or recipe cannot be used.
    """
    path = Path(source)
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    raw = load_model(path)
    operators = Counter(node.op_type for graph in raw.ir.graphs() for node in graph if node.op_type != "Constant")
    file_bytes = sum(file.stat().st_size for file in model_files(path))
    opset, ir_version = raw.opset, raw.ir.ir_version
    model = prepared_from(raw, recipe)
    layers = find_layers(model)
    chosen = choose_forms(layers, PREFERENCES[recipe.mode][0], recipe, {})
    rows = coverage(layers, as_decisions(chosen, recipe.weights))
    taken = [row for row in rows if row.form]
    before, after = sum(row.bytes_before for row in taken), sum(row.bytes_after for row in taken)
    return Inspection(
        path=str(path),
        opset=opset,
        ir_version=ir_version,
        producer=f"{raw.ir.producer_name or ''} {raw.ir.producer_version or ''}".strip(),
        nodes=sum(operators.values()),
        file_bytes=file_bytes,
        inputs=raw.inputs,
        outputs=raw.outputs,
        operators=dict(sorted(operators.items())),
        weights=rows,
        compressible_bytes=before,
        estimated_bytes=file_bytes - before + after,
    )


def load_prepared(source: Path, recipe: Recipe | None = None, opset: int | None = None) -> Model:
    """The model with every layer in the shape the forms rely on.

    Raises:
        ModelError: the model cannot be read.
        RecipeError: the recipe asks for 16-bit activations and the operator set cannot be raised that far.
    """
    return prepared_from(load_model(source), recipe, opset)


def prepared_from(model: Model, recipe: Recipe | None = None, opset: int | None = None) -> Model:
    """Prepare a loaded model in place: operator set (``opset``: of a plan), constants, padding, affine maps, float16."""
    unpack(model)
    raise_opset(model, CHANNEL_SCALES)
    if recipe is not None and recipe.activations.bits > 8 and recipe.mode is not Mode.WEIGHTS:
        reason = raise_opset(model, SIXTEEN_BITS)
        if reason:
            raise RecipeError(f"16-bit activations need operator set {SIXTEEN_BITS}: {reason}", "use 8-bit activations")
    if recipe is not None:  # where it cannot be raised, other forms are taken
        raise_opset(model, worthwhile_opset(model, recipe) if opset is None else opset)
    prepare(model)
    return model


def plan_settings(model: Model, recipe: Recipe, options: RunOptions) -> PlanSettings:
    """How to plan."""
    timing = open_timing(model, options)
    return PlanSettings(
        options.threads, timed_threads(options), options.effort, budget_for(recipe, options), options.cost_file, timing
    )


def budget_for(recipe: Recipe, options: RunOptions) -> float:
    """What may be lost: a limit on accuracy, unless it is one on a metric of the user's own; else what the recipe says."""
    limit = None if options.metric else recipe.gates.max_accuracy_drop
    return recipe.budget if limit is None else min(max(limit, 0.0), 1.0)


def open_timing(model: Model, options: RunOptions) -> tuple[Feed, ...]:
    """The feeds that are timed when the user names them."""
    return () if options.timing_data is None else _first_feeds(_open(model, options.timing_data, options))


def _budget_of(plan: CompressionPlan, recipe: Recipe, options: RunOptions) -> float | None:
    """What the plan may lose: what the user says now, else what it was made for."""
    asked = recipe.gates.max_accuracy_drop is not None and options.metric is None
    return budget_for(recipe, options) if asked else plan.budget


def timed_threads(options: RunOptions) -> int:
    """Threads of everything that is timed."""
    return options.threads if options.target_threads is None else options.target_threads


def open_parts(model: Model, data: str | None, options: RunOptions) -> Parts | None:
    """The data cut into what is fitted on, what chooses and what is measured on when there is no evaluation data."""
    return None if data is None else cut(_open(model, data, options), options.held_out, options.data.seed)


def open_evaluation(model: Model, eval_data: str | None, parts: Parts | None, options: RunOptions) -> Dataset | None:
    """What the result is measured on: the evaluation data, else what was held out."""
    dataset = parts.report if parts is not None else None
    if eval_data is not None:
        dataset = open_dataset(
            eval_data, model.inputs, options.data, output_names=tuple(output.name for output in model.outputs)
        )
    if dataset is not None and options.eval_samples is not None:
        dataset = dataset.limit(options.eval_samples)
    return dataset


def _measure(
    source: Path, written: Path, timing: Sequence[Feed], evaluation: Dataset | None, options: RunOptions, progress: Progress
) -> tuple[LatencyReport | None, AccuracyReport | None]:
    metric = load_metric(options.metric) if options.metric else None
    accuracy = None
    if evaluation is not None:
        accuracy = measure_accuracy(
            source, written, evaluation, metric, AccuracySettings(options.threads, options.metric or ""), progress
        )
    latency = None
    if timing and options.latency_seconds > 0:
        settings = LatencySettings(threads=timed_threads(options), budget_seconds=options.latency_seconds)
        latency = measure_latency(source, written, timing, settings, progress)
    return latency, accuracy


def _first_feeds(dataset: Dataset | None, count: int = FEEDS_TO_TIME) -> tuple[Feed, ...]:
    return () if dataset is None else tuple(batch.feed for batch in islice(dataset.batches(), count))


def _remarks(parts: Parts | None, evaluation: Dataset | None) -> tuple[str, ...]:
    if parts is not None and evaluation is None:
        return ("the data is one feed or fewer than 4 samples: none was held out, so accuracy was not measured",)
    return () if evaluation is None else evaluation.notes


def _open(model: Model, spec: str, options: RunOptions) -> Dataset:
    return open_dataset(spec, model.inputs, options.data, output_names=tuple(output.name for output in model.outputs))


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
