"""Measure what the forms cost: write variants of the model, profile them, and divide their times among nodes and tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.graph import Model, digest, save_model
from qcompress.measure.machine import machine_facts
from qcompress.measure.profile import ProfileSettings, profile_models
from qcompress.operators import Layer
from qcompress.operators.flow import activation_inputs
from qcompress.plan.anatomy import anatomy
from qcompress.plan.attribution import attribute, profiling_overhead, without_overhead
from qcompress.plan.cost import FLOAT, CostTable, VariantCost
from qcompress.progress import SILENT, Progress
from qcompress.rewrite import apply_plan
from qcompress.types import Feed, Form

_SOURCE = "\0source"
"""Stands for the model as the user gave it among the variants; no variant is called so."""


def measure_costs(
    model: Model,
    layers: Sequence[Layer],
    variants: Mapping[str, CompressionPlan],
    feeds: Sequence[Feed],
    settings: ProfileSettings | None = None,
    progress: Progress = SILENT,
) -> CostTable:
    """Profile the prepared model and its variants on ``feeds``.

    Args:
        model: prepared, unchanged by this.
        layers: of the model.
        variants: name -> plan; the variant without any form is added in front.
        feeds: used in rotation.
        settings: ``seconds`` are divided among the variants and the model as it is in its file.
        progress: told of every turn.

    Raises:
        ModelError: a variant does not load or run.
        DataError: there is no feed.
    """
    settings = settings or ProfileSettings()
    body = anatomy(model, layers)
    plans: dict[str, CompressionPlan | None] = {FLOAT: None, **variants}
    with TemporaryDirectory(prefix="qcompress-") as folder:
        files = {_SOURCE: model.path}
        for index, (name, plan) in enumerate(plans.items()):
            files[name] = Path(folder) / f"{index}.onnx"
            _write(model, plan, files[name])
        profiles = profile_models(files, feeds, settings, progress)
    measured = [profiles[name] for name in plans]
    overhead = median(profiling_overhead(profile.kernels, profile.ms) for profile in measured)
    found: dict[str, VariantCost] = {}
    for (name, plan), profile in zip(plans.items(), measured, strict=True):
        kernels = without_overhead(profile.kernels, profile.ms, overhead)
        nodes, tensors = (plan.integer_nodes, tuple(plan.activations)) if plan is not None else ((), ())
        found[name] = VariantCost(profile.ms, _forms(plan), nodes, tensors, attribute(kernels, body, tensors))
    return CostTable(digest(model.path), profiles[_SOURCE].ms, machine_facts(settings.threads), found)


def alternating(
    layers: Sequence[Layer], integer: Mapping[str, Form | Keep], stored: Mapping[str, Form | Keep]
) -> tuple[dict[str, Form | Keep], dict[str, Form | Keep]]:
    """Two choices in which layers in integers and in float take turns, so that nearly every border is met and measured.

    Args:
        layers: in graph order; those that read the same tensor go together.
        integer: weight -> form when all go integer.
        stored: weight -> form when none does.
    """
    turns: dict[object, int] = {}
    choices: tuple[dict[str, Form | Keep], dict[str, Form | Keep]] = ({}, {})
    for layer in layers:
        name = layer.name
        if integer[name] == stored[name]:
            turn = -1
        else:
            sources = activation_inputs(layer.node)
            turn = turns.setdefault(sources[0] if sources else layer, len(turns)) % 2
        for parity, choice in enumerate(choices):
            choice[name] = integer[name] if parity == turn else stored[name]
    return choices


def _write(model: Model, plan: CompressionPlan | None, path: Path) -> None:
    """Save the model under a plan."""
    variant = model.clone()
    if plan is not None:
        apply_plan(plan, variant)
    save_model(variant, path)


def _forms(plan: CompressionPlan | None) -> dict[str, str]:
    decisions = {} if plan is None else plan.weights
    return {name: decision.form.value for name, decision in decisions.items() if isinstance(decision, Quantize)}
