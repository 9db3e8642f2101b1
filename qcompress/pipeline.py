"""The whole story of one compression, and of its shorter cousins: a dry run, an inspection, a comparison."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress import __version__
from qcompress.calibrate import CalibrationSettings, MeansRequest, collect, collect_means
from qcompress.data import DataOptions, Dataset, load_metric, open_dataset
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import NothingToCompressError, OutputError, RecipeError
from qcompress.graph import Model, load_model, model_files, save_model
from qcompress.graph.opset import raise_opset
from qcompress.graph.passes import prepare
from qcompress.measure import (
    AccuracySettings,
    LatencySettings,
    check_gates,
    measure_accuracy,
    measure_kernels,
    measure_latency,
    measure_size,
)
from qcompress.operators import Layer, find_layers
from qcompress.plan.choose import PREFERENCES, WEIGHTS, Preference, choose_forms, static_nodes
from qcompress.plan.fit import fit_activations, fit_weights, needs_of, shift_probes
from qcompress.plan.placement import Placement, Shapes, place
from qcompress.plan.shapes import observe_shapes
from qcompress.progress import SILENT, Progress
from qcompress.recipe import Recipe, load_recipe
from qcompress.results import AccuracyReport, DataFacts, Gates, LatencyReport, Report, WeightRow
from qcompress.rewrite import apply_plan
from qcompress.runtime import SessionSettings, version
from qcompress.types import Feed, Form, TensorSignature

OPSET = 13
"""The first operator set with a scale per channel in DequantizeLinear."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run, apart from what to do.

    ``held_out``: the part of the data kept for choosing and measuring. ``latency_seconds``: budget of the latency
    measurement, 0 skips it. ``eval_samples``: at most so many are evaluated.
    """

    threads: int = 0
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


@dataclass(frozen=True, slots=True)
class Parts:
    """The data, cut so that nothing is scored on what it was fitted or chosen on."""

    fit: Dataset
    choose: Dataset | None
    report: Dataset | None


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
    prepared = load_prepared(source)
    parts = open_parts(prepared, data, options)
    evaluation = open_evaluation(prepared, eval_data, parts, options)
    if plan is None:
        plan = make_plan(prepared, recipe, parts, options, progress)
    elif plan.source != digest(source):
        raise RecipeError("the plan was made for another model", f"make it again: qcompress plan {source}")
    layers = find_layers(prepared)
    before = {layer.name: row_of(layer, plan.weights[layer.name]) for layer in layers if layer.name in plan.weights}
    sizes = apply_plan(plan, prepared, progress)
    coverage = tuple(_finished(row, sizes) for row in before.values())
    if not sizes:
        raise NothingToCompressError(f"{source}: no weight can be compressed", "qcompress inspect says why")
    with TemporaryDirectory(prefix=".qcompress-", dir=_folder(target)) as folder:
        written = Path(folder) / target.name
        save_model(prepared, written)
        size = measure_size(source, written)
        if size.ratio >= 1.0:
            raise NothingToCompressError(
                f"{source}: the result would not be smaller ({size.ratio:.2f}x)", "nothing was written"
            )
        latency, accuracy = _measure(source, written, parts, evaluation, options, progress)
        report = Report(
            source=str(source),
            target=str(target),
            recipe=plan.recipe,
            data=_facts(parts, evaluation, eval_data),
            size=size,
            latency=latency,
            accuracy=accuracy,
            kernels=measure_kernels(written, SessionSettings(threads=options.threads)),
            coverage=coverage,
            gates=check_gates(recipe.gates, size, latency, accuracy),
            notes=plan.notes,
            versions=versions(),
        )
        if not (options.discard_on_fail and report.exit_code):
            _deliver(written, target)
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
    options = options or RunOptions()
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    prepared = load_prepared(Path(source))
    return make_plan(prepared, recipe, open_parts(prepared, data, options), options, progress)


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
    latency, accuracy = _measure(float_model, compressed, None, evaluation, options, progress)
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
    model = prepared_from(raw)
    layers = find_layers(model)
    chosen = choose_forms(layers, PREFERENCES[recipe.mode][0], recipe, {})
    rows = [
        row_of(layer, form if isinstance(form, Keep) else Quantize(form, recipe.weights))
        for layer, form in _pairs(layers, chosen)
    ]
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
        weights=tuple(rows),
        compressible_bytes=before,
        estimated_bytes=file_bytes - before + after,
    )


def load_prepared(source: Path) -> Model:
    """The model with every layer in the shape the forms rely on."""
    return prepared_from(load_model(source))


def prepared_from(model: Model) -> Model:
    """Prepare a loaded model in place: operator set, constants, padding, affine maps, float16."""
    raise_opset(model, OPSET)
    prepare(model)
    return model


def make_plan(model: Model, recipe: Recipe, parts: Parts | None, options: RunOptions, progress: Progress) -> CompressionPlan:
    """Try the recipe's preferences in order until the outputs are close enough; the last is taken in any case."""
    layers = find_layers(model)
    if parts is None:
        return _plan(
            model,
            layers,
            recipe,
            WEIGHTS if recipe.mode.value != "dynamic" else PREFERENCES[recipe.mode][0],
            None,
            options,
            progress,
        )
    shapes = observe_shapes(model, next(iter(parts.fit.batches())).feed)
    preferences = PREFERENCES[recipe.mode]
    for preference in preferences:
        plan = _plan(model, layers, recipe, preference, (parts, shapes), options, progress)
        if preference is preferences[-1] or parts.choose is None:
            break
        loss = _loss(model, plan, parts.choose, options, progress)
        progress.note(f"{preference.title}: loss {loss:.4f}")
        if loss <= 0.01:
            break
    return plan


def _loss(model: Model, plan: CompressionPlan, data: Dataset, options: RunOptions, progress: Progress) -> float:
    with TemporaryDirectory(prefix="qcompress-") as folder:
        candidate = model.clone()
        apply_plan(plan, candidate)
        path = Path(folder) / "candidate.onnx"
        save_model(candidate, path)
        report = measure_accuracy(model.path, path, data, None, AccuracySettings(options.threads), progress)
    print([(a.name, a.cosine and a.cosine.value, a.sqnr_db, a.top1 and a.top1.value) for a in report.agreement])
    return max(1.0 - (a.cosine.value if a.cosine else 1.0) for a in report.agreement)


def _plan(
    model: Model,
    layers: Sequence[Layer],
    recipe: Recipe,
    preference: Preference,
    known: tuple[Parts, Shapes] | None,
    options: RunOptions,
    progress: Progress,
) -> CompressionPlan:
    shapes: Shapes = known[1] if known else {}
    chosen = choose_forms(layers, preference, recipe, shapes)
    statistics = None
    placement = Placement((), (), {})
    if known is not None:
        parts = known[0]
        placement = place(model, static_nodes(model, layers, chosen, recipe.mode), shapes)
        needs = needs_of(layers, chosen, placement, recipe)
        settings = CalibrationSettings(recipe.ranges, recipe.activations, options.threads, parts.fit.samples)
        statistics = collect(model, needs, parts.fit.batches(), settings, progress)
    decisions = fit_weights(layers, chosen, statistics, recipe, progress)
    shifts: dict[str, tuple[float, ...]] = {}
    if known is not None and recipe.correct_bias:
        probes = shift_probes(layers, decisions)
        if probes.nodes:
            data = known[0].fit.limit(64)
            request = MeansRequest(probes.nodes, probes.constants, probes.channel_axes)
            settings = CalibrationSettings(recipe.ranges, recipe.activations, options.threads, data.samples)
            means = collect_means(model, request, data.batches(), settings, progress)
            shifts = {probes.layers[name]: tuple(float(x) for x in mean) for name, mean in means.items()}
    activations = fit_activations(placement, statistics, recipe) if statistics is not None else {}
    return CompressionPlan(
        source=digest(model.path),
        recipe=recipe.name,
        weights=decisions,
        activation_scheme=recipe.activations,
        activations=activations,
        integer_nodes=placement.nodes,
        bias_shifts=shifts,
    )


def open_parts(model: Model, data: str | None, options: RunOptions) -> Parts | None:
    """Cut the data into what is fitted on, what chooses and what is measured on when there is no evaluation data."""
    if data is None:
        return None
    dataset = open_dataset(data, model.inputs, options.data, output_names=tuple(output.name for output in model.outputs))
    samples = dataset.samples
    if samples is not None and samples < 4:
        return Parts(dataset, None, None)
    fit, held = dataset.split(options.held_out, options.data.seed)
    if held.samples is not None and held.samples < 2:
        return Parts(fit, None, held)
    choose, report = held.split(0.5, options.data.seed + 1)
    return Parts(fit, choose, report)


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
    source: Path, written: Path, parts: Parts | None, evaluation: Dataset | None, options: RunOptions, progress: Progress
) -> tuple[LatencyReport | None, AccuracyReport | None]:
    metric = load_metric(options.metric) if options.metric else None
    accuracy = None
    if evaluation is not None:
        accuracy = measure_accuracy(
            source, written, evaluation, metric, AccuracySettings(options.threads, options.metric or ""), progress
        )
    timed = evaluation or (parts.fit if parts is not None else None)
    latency = None
    if timed is not None and options.latency_seconds > 0:
        feeds = _first_feeds(timed, 4)
        settings = LatencySettings(threads=options.threads, budget_seconds=options.latency_seconds)
        latency = measure_latency(source, written, feeds, settings, progress)
    return latency, accuracy


def _first_feeds(dataset: Dataset, count: int) -> list[Feed]:
    feeds: list[Feed] = []
    for batch in dataset.batches():
        feeds.append(batch.feed)
        if len(feeds) == count:
            break
    return feeds


def row_of(layer: Layer, decision: Quantize | Keep) -> WeightRow:
    """The coverage row of a weight, with an estimate of its bytes under a form."""
    tensor = layer.weight.const_value
    before = 0 if tensor is None else tensor.nbytes
    nodes = tuple(dict.fromkeys(use.node.name or "" for use in layer.uses))
    kinds = tuple(dict.fromkeys(use.node.op_type for use in layer.uses))
    dtype = (
        ""
        if tensor is None
        else tensor.dtype.name.lower().replace("float", "float32")
        if tensor.dtype.name == "FLOAT"
        else tensor.dtype.name.lower()
    )
    if isinstance(decision, Keep):
        return WeightRow(layer.name, nodes, kinds, layer.shape, dtype, before, before, reason=decision.reason)
    elements = before // 4
    scales = layer.shape[layer.axis] if layer.axis is not None else 1
    after = elements * decision.scheme.storage.itemsize + 4 * scales
    return WeightRow(
        layer.name,
        nodes,
        kinds,
        layer.shape,
        dtype,
        before,
        after,
        decision.form.value,
        str(decision.scheme),
        float(decision.scheme.bits),
    )


def _finished(row: WeightRow, sizes: Mapping[str, int]) -> WeightRow:
    from dataclasses import replace

    return replace(row, bytes_after=sizes[row.weight]) if row.weight in sizes else row


def _pairs(layers: Sequence[Layer], chosen: Mapping[str, Form | Keep]) -> list[tuple[Layer, Form | Keep]]:
    return [(layer, chosen[layer.name]) for layer in layers]


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


def digest(path: Path) -> str:
    """SHA-256 over the model file and its external data."""
    sha = hashlib.sha256()
    for file in model_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                sha.update(block)
    return sha.hexdigest()


def versions() -> dict[str, str]:
    """What the figures of a report depend on."""
    return {
        "qcompress": __version__,
        "onnxruntime": version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _folder(target: Path) -> Path:
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such folder", "create it first")
    return target.parent


def _deliver(written: Path, target: Path) -> None:
    """Move the finished files to their place: external data first, the model last."""
    try:
        for file in sorted(model_files(written), key=lambda file: file == written):
            file.replace(target.with_name(file.name))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}", "check the folder and the space left") from error
