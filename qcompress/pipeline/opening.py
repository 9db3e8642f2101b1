"""How to run, and opening what a run works on: the prepared model and its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from qcompress.data import DataOptions, Dataset, Parts, cut, open_dataset
from qcompress.errors import ModelError, RecipeError
from qcompress.graph import Model, load_model
from qcompress.graph.opset import raise_opset
from qcompress.graph.passes import prepare, unpack
from qcompress.measure import Baseline
from qcompress.operators.support import CHANNEL_SCALES
from qcompress.plan.choose import worthwhile_opset
from qcompress.planning import (
    Effort,
    PlanSettings,
)
from qcompress.recipe import Mode, Recipe
from qcompress.types import Feed

FEEDS_TO_TIME = 4

SIXTEEN_BITS = 21
"""The first operator set with 16-bit QuantizeLinear."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run, apart from what to do.

    ``held_out``: the part of the data kept for choosing and measuring. ``latency_seconds``: budget of the latency
    measurement, 0 skips it. ``eval_samples``: at most so many are evaluated. ``target_threads``: for everything timed, when
    it is not ``threads``. ``timing_data``: feeds of the sizes for which the model shall be fast, when the data has others.
    ``cost_file``: measurements to plan by, written when the file is not there yet. ``baseline``: last time's report, which
    the result may not fall behind.
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
    baseline: Baseline | None = None


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
    most = opset if opset is not None or recipe is None else recipe.portable
    if opset is None and most is not None and model.opset > most:
        raise ModelError(
            f"{model.path}: operator set {model.opset}, newer than the {most} it shall be portable to",
            f"export the model again in operator set {most}",
        )

    def at_most(wanted: int) -> int:
        return wanted if most is None else min(wanted, most)

    raise_opset(model, at_most(CHANNEL_SCALES))
    if recipe is not None and recipe.activations.bits > 8 and recipe.mode is not Mode.WEIGHTS:
        known = most is None or most >= SIXTEEN_BITS
        reason = raise_opset(model, SIXTEEN_BITS) if known else f"it shall be portable to {most}"
        if reason:
            raise RecipeError(f"16-bit activations need operator set {SIXTEEN_BITS}: {reason}", "use 8-bit activations")
    if recipe is not None:  # where it cannot be raised, other forms are taken
        raise_opset(model, at_most(worthwhile_opset(model, recipe)) if opset is None else opset)
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
    return () if options.timing_data is None else first_feeds(_open(model, options.timing_data, options))


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


def first_feeds(dataset: Dataset | None, count: int = FEEDS_TO_TIME) -> tuple[Feed, ...]:
    """The feeds of a dataset that are timed; none of no dataset."""
    return () if dataset is None else tuple(batch.feed for batch in islice(dataset.batches(), count))


def _open(model: Model, spec: str, options: RunOptions) -> Dataset:
    return open_dataset(spec, model.inputs, options.data, output_names=tuple(output.name for output in model.outputs))
