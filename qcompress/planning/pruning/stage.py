"""The stage in front of everything else: decide what is pruned, prune it, and say what that lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompress.calibrate import observe_shapes
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import Model, digest
from qcompress.graph.edit import set_constant
from qcompress.operators import Layer, find_layers, why_not_stored
from qcompress.planning.losses import LossMeter
from qcompress.planning.make import PlanSettings, choosing_feeds, loss_meter, most_runs
from qcompress.planning.pieces import Shapes
from qcompress.planning.pruning.channels import choose_channels, find_candidates, mask_tasks, masks_of, measure_cuts
from qcompress.planning.pruning.gradients import weigh_gradients
from qcompress.planning.pruning.sparsity import (
    Gradients,
    anchors_for,
    data_of,
    globally_ranked,
    measured,
    prunable,
    same_share,
    survey,
)
from qcompress.planning.pruning.tasks import EXACT, HALVES, Shrink, prune_task
from qcompress.planning.walk import Shifts, Task, WalkSettings, walk
from qcompress.planning.widths import elements
from qcompress.planning.work import Workplace
from qcompress.prune import CRITERIA, prune_weight
from qcompress.quantize import Evidence
from qcompress.rewrite.bias import shift_biases
from qcompress.structure import ChannelGroup, cut, find_groups, multiply_adds
from qcompress.types import Array, Criterion, FloatScheme, Form, Prune, Spread

LEAST_ZEROS = 0.05
"""Share of zeros from which it pays to store one bit for each number instead of them."""

SURVEYED = 1 << 20
"""Runs there is time for when somebody asks for all losses."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A float model with fewer weights.

    ``prunes``: weight -> what was pruned of it. ``channels``: group -> units that stayed. ``loss``: of the outputs on held-out
    samples, 0 to 1; None where there are too few samples. ``meter``: measures losses against the model before.
    """

    model: Model
    prunes: Mapping[str, Prune]
    channels: Mapping[str, tuple[int, ...]]
    loss: float | None
    meter: LossMeter | None
    notes: tuple[str, ...] = field(default=())


def prune_model(work: Workplace, settings: PlanSettings) -> Pruned:
    """Prune the model as its recipe says; the work's own model is not changed.

    Raises:
        RecipeError: nothing can be pruned, or what is asked for needs data.
        CalibrationError: an activation is NaN or infinite.
    """
    if work.recipe.pruning.pattern.channels:
        return _without_channels(work, settings)
    meter = _meter(work)
    wanted = _wanted(work)
    layers, gradients, notes = _to_prune(work, wanted)
    prunes = _spread(work, layers, wanted, gradients, (meter, settings))
    model = apply_prunes(work, prunes, gradients)
    loss = None if meter is None else meter.of(model)
    told = _told(work.model, model, prunes, wanted, loss)
    return Pruned(model, prunes, {}, loss, meter, (told, *notes))


@dataclass(frozen=True, slots=True)
class PruneLoss:
    """What the model loses when ``name``, a weight or a group of channels, alone is pruned by each share."""

    name: str
    elements: int
    losses: Mapping[float, float]


def rank_prunes(work: Workplace, settings: PlanSettings) -> tuple[PruneLoss, ...]:
    """What each weight (each group of channels with that pattern) loses alone, by share, most harmful first.

    Raises:
        RecipeError: there is too little data to measure on, or nothing can be pruned.
    """
    meter = _meter(work)
    if meter is None:
        raise RecipeError(
            "losses are measured on held-out samples, and there are too few", "give --data with at least 8 samples"
        )
    pruning, walking = work.recipe.pruning, walk_settings(work)
    if pruning.pattern.channels:
        candidates = find_candidates(work, pruning.criterion or Criterion.OPTIMAL_BRAIN, walking)
        curves = measure_cuts(work, candidates, (meter, SURVEYED, walking))
        found = [PruneLoss(group.name, group.units, curves[group.name]) for group in candidates.groups]
    else:
        wanted = _wanted(work)
        layers, gradients, _ = _to_prune(work, wanted)
        shares = (wanted.sparsity,) if wanted.pattern.is_fixed else anchors_for(layers, SURVEYED)
        losses = survey(work, layers, wanted, gradients, (meter, shares, walking))
        found = [
            PruneLoss(layer.name, elements(layer), {share: losses[layer.name, share] for share in shares})
            for layer in layers
        ]
    return tuple(sorted(found, key=lambda item: (-max(item.losses.values(), default=0.0), item.name)))


def replay_pruning(work: Workplace, prunes: Mapping[str, Prune], channels: Mapping[str, tuple[int, ...]]) -> Pruned:
    """Prune what a plan says; with the data that the plan was made with the same weights come out.

    Raises:
        RecipeError: the plan prunes a weight that the model does not have, or by data and there is none.
    """
    layers = {layer.name: layer for layer in work.layers}
    missing = [name for name in prunes if name not in layers]
    if missing:
        raise RecipeError(f"the plan prunes weight {missing[0]!r}, which the model does not have", "make the plan again")
    criteria = {prune.criterion for prune in prunes.values()}
    solved = any(prune.compensate for prune in prunes.values())
    if work.parts is None and (channels or solved or any(_looks_at_data(criterion) for criterion in criteria)):
        raise RecipeError("the plan prunes by data, and there is none", "give --data, the same as when the plan was made")
    gradients: Gradients = {}
    for criterion in sorted(criteria):
        found, _ = weigh_gradients(work, [layers[name] for name in prunes], criterion)
        gradients = {**gradients, **found}
    model = apply_channels(work, channels) if channels else apply_prunes(work, prunes, gradients)
    return Pruned(model, prunes, channels, None, _meter(work))


def _without_channels(work: Workplace, settings: PlanSettings) -> Pruned:
    """Cut whole channels out."""
    pruning = work.recipe.pruning
    if work.parts is None:
        raise RecipeError("channels are chosen and made up for on data, and there is none", "give --data")
    walking, meter = walk_settings(work), _meter(work)
    candidates = find_candidates(work, pruning.criterion or Criterion.OPTIMAL_BRAIN, walking)
    runs = 0 if meter is None else most_runs(work, settings, meter)
    measuring = None if pruning.spread in (Spread.LAYER, Spread.GLOBAL) else meter
    kept = choose_channels(work, candidates, pruning.amount or 0.0, (measuring, runs, walking))
    model = apply_channels(work, kept)
    loss = None if meter is None else meter.of(model)
    before, after = sum(candidates.costs.values()), sum(multiply_adds(model, _shapes_of(model, work)).values())
    lost = "" if loss is None else f", which loses {loss:.2g} of agreement"
    again = ", what reads the others solved again" if pruning.compensate else ""
    saved, asked = 1.0 - after / max(before, 1), pruning.amount or 0.0
    short = "" if saved > asked - 0.01 else f" of the {asked:.1%} asked for, since a quarter of each group stays"
    told = f"cut channels of {len(kept)} of {len(candidates.groups)} groups{again}: {saved:.1%} fewer multiply-adds{short}{lost}"
    return Pruned(model, {}, kept, loss, meter, (told, *_obstacles(candidates.reasons)))


def apply_channels(work: Workplace, kept: Mapping[str, tuple[int, ...]]) -> Model:
    """A copy of the model without the units that do not stay, the weights that read the others solved again in sequence.

    Raises:
        RecipeError: the model has no group of that name, or not so many units.
    """
    found = find_groups(work.model, work.shapes)
    groups = {group.name: group for group in found.groups}
    wrong = [name for name, units in kept.items() if name not in groups or not _are_units(units, groups[name].units)]
    if wrong:
        raise RecipeError(f"the plan cuts channels of {wrong[0]!r}, which the model does not have", "make the plan again")
    layers = {layer.name: layer for layer in work.layers}
    masks = masks_of([groups[name] for name in kept], kept, layers)
    model, shifts = _rewritten(work, mask_tasks(work, masks, work.recipe.pruning.compensate), "Cutting channels")
    cut(model, found, {name: np.asarray(units) for name, units in kept.items()})
    shift_biases(model, _of_outputs_left(shifts, [groups[name] for name in kept], kept))
    return model


def _are_units(units: tuple[int, ...], count: int) -> bool:
    """Whether these are some of ``count`` units, ascending."""
    return bool(units) and list(units) == sorted(set(units)) and units[0] >= 0 and units[-1] < count


def _of_outputs_left(shifts: Shifts, groups: Sequence[ChannelGroup], kept: Mapping[str, tuple[int, ...]]) -> Shifts:
    """Shifts of biases without those of channels that are gone; biases may be made for them that the groups do not know."""
    gone: dict[str, list[Array]] = {}
    for group in groups:
        units = np.setdiff1d(np.arange(group.units), kept[group.name])
        for item in group.producers:
            for node in item.nodes:
                gone.setdefault(node, []).append(item.indices[units].ravel())
    return {
        node: tuple(float(each) for each in np.delete(np.asarray(shift), np.concatenate(gone[node])))
        if node in gone
        else shift
        for node, shift in shifts.items()
    }


def _shapes_of(model: Model, work: Workplace) -> Shapes:
    return {} if work.parts is None else observe_shapes(model, next(iter(work.parts.fit.batches())).feed)


def _obstacles(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Why channels of other weights cannot be cut, each reason once."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return tuple(
        f"channels not cut: {reason} ({', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''})"
        for reason, names in found.items()
    )


def apply_prunes(work: Workplace, prunes: Mapping[str, Prune], gradients: Gradients) -> Model:
    """A copy of the model with the weights pruned in sequence, each on the inputs that the pruned layers before it give."""
    layers = {layer.name: layer for layer in work.layers}
    tasks = {
        name: prune_task(layers[name], prune, _shrink(prune, gradients.get(name)))
        for name, prune in prunes.items()
        if prune.sparsity > 0.0 or prune.threshold is not None or prune.pattern.is_fixed
    }
    model, shifts = _rewritten(work, tasks, "Pruning")
    shift_biases(model, shifts)
    return model


def _rewritten(work: Workplace, tasks: Mapping[str, Task], title: str) -> tuple[Model, Shifts]:
    """A copy of the model with the weights that a walk settles, and what its biases must be shifted by."""
    with work.progress.stage(title, len(tasks), "weights") as stage:
        settled = walk(work.model, tasks, data_of(work), walk_settings(work), stage)
    model = work.model.clone()
    own = {layer.name: layer for layer in find_layers(model)}
    for name, item in settled.items():
        set_constant(own[name].weight, item.tensor.dequantize())
    return model, {node: shift for item in settled.values() for node, shift in item.shifts.items()}


def stored_exactly(work: Workplace, prunes: Mapping[str, Prune]) -> CompressionPlan:
    """The plan that stores pruned weights in their own type, without their zeros, and leaves the others as they are."""
    weights: dict[str, Quantize | Keep] = {}
    for layer in work.layers:
        scheme = FloatScheme(layer.stored_dtype) if layer.stored_dtype in HALVES else EXACT
        reason = layer.reason or ("" if layer.name in prunes else "is not pruned")
        reason = reason or why_not_stored(layer, Form.FOLDED, scheme)
        if not reason and float((layer.array == 0.0).mean()) < LEAST_ZEROS:
            reason = "has too few zeros to leave them out"
        weights[layer.name] = Keep(reason) if reason else Quantize(Form.FOLDED, scheme)
    return CompressionPlan(
        digest(work.model.path),
        work.recipe.name,
        weights,
        work.recipe.activations,
        opset=work.model.opset,
        sequential=work.recipe.sequential,
    )


def walk_settings(work: Workplace) -> WalkSettings:
    """How to walk: with the recipe's order of layers."""
    return WalkSettings(threads=work.threads, sequential=work.recipe.sequential, shapes=work.shapes)


def _looks_at_data(criterion: Criterion) -> bool:
    """Whether a criterion wants to know more than the weights."""
    return CRITERIA[criterion].gradient or bool(CRITERIA[criterion].needs)


def _to_prune(work: Workplace, wanted: Prune) -> tuple[list[Layer], Gradients, tuple[str, ...]]:
    """The layers that can be pruned, their gradients where the criterion looks at them, and which weights these do not reach.

    Raises:
        RecipeError: there is no such layer.
    """
    layers = prunable(work)
    if not layers:
        raise RecipeError(f"{work.model.path.name}: no weight can be pruned", "qcompress inspect lists the weights")
    gradients, notes = weigh_gradients(work, layers, wanted.criterion)
    if not CRITERIA[wanted.criterion].gradient:
        return layers, gradients, notes
    reached = [layer for layer in layers if layer.name in gradients]
    if not reached:
        raise RecipeError("; ".join(notes[:1]) or "no gradient reaches any weight", "use --prune-criterion optimal-brain")
    return reached, gradients, notes


def _shrink(prune: Prune, gradient: Array | None) -> Shrink:
    def shrink(weight: Array, evidence: Evidence) -> Array:
        return prune_weight(weight, prune, evidence, gradient)[0]

    return shrink


def _wanted(work: Workplace) -> Prune:
    """What the recipe says of every weight."""
    pruning, has_data = work.recipe.pruning, work.parts is not None
    criterion = pruning.criterion or (Criterion.OPTIMAL_BRAIN if has_data else Criterion.MAGNITUDE)
    if pruning.criterion is None and not has_data:
        hint = "give --data, or --prune-criterion magnitude to prune all the same"
        raise RecipeError("without data nobody sees what pruning loses, and it loses much", hint)
    if _looks_at_data(criterion) and not has_data:
        raise RecipeError(f"the criterion {criterion} needs data", "give --data, or --prune-criterion magnitude")
    share = pruning.amount if pruning.amount is not None else pruning.pattern.sparsity
    return Prune(share, criterion, pruning.pattern, pruning.threshold, pruning.compensate and has_data)


def _spread(
    work: Workplace,
    layers: Sequence[Layer],
    wanted: Prune,
    gradients: Gradients,
    tools: tuple[LossMeter | None, PlanSettings],
) -> dict[str, Prune]:
    """How much of each layer is pruned."""
    meter, settings = tools
    spread = work.recipe.pruning.spread
    if wanted.threshold is not None or wanted.pattern.is_fixed or spread is Spread.LAYER:
        return same_share(layers, wanted)
    if spread is Spread.GLOBAL:
        return globally_ranked(work, layers, wanted, gradients, walk_settings(work))
    if meter is None:
        if spread is Spread.MEASURED:
            raise RecipeError(
                "shares are chosen by measured loss, and there are too few samples", "give --data with at least 8"
            )
        return same_share(layers, wanted)
    runs = most_runs(work, settings, meter)
    return measured(work, layers, wanted, gradients, (meter, runs, walk_settings(work)))


def _meter(work: Workplace) -> LossMeter | None:
    feeds = choosing_feeds(work)
    return loss_meter(work, feeds) if feeds else None


def _told(before: Model, after: Model, prunes: Mapping[str, Prune], wanted: Prune, loss: float | None) -> str:
    total = zeros = 0
    for layer in find_layers(after):
        if layer.name in prunes:
            total += elements(layer)
            zeros += int((layer.array == 0.0).sum())
    lost = "" if loss is None else f", which loses {loss:.2g} of agreement"
    how = f"{wanted.pattern}, by {wanted.criterion}{', the rest solved again' if wanted.compensate else ''}"
    share = zeros / max(total, 1)
    short = f", {wanted.sparsity:.1%} asked for" if share < wanted.sparsity - 0.01 else ""
    return f"pruned {share:.1%}{short} of {total:,} weights in {len(prunes)} layers ({how}){lost}"
