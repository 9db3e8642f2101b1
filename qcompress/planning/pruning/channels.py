"""Which channels are cut out of a model: few multiply-adds for little loss, each group's loss measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import numpy as np

from qcompress.errors import RecipeError
from qcompress.operators import Layer
from qcompress.plan.choose import selection
from qcompress.plan.solver import Option, solve
from qcompress.planning.losses import LossMeter
from qcompress.planning.pruning.gradients import weigh_channels
from qcompress.planning.pruning.sparsity import data_of, loss_alone, loss_at
from qcompress.planning.pruning.tasks import HALVES, PruneTask, Shrink, Survey
from qcompress.planning.readings import readings_of
from qcompress.planning.walk import Settled, Task, WalkSettings, walk
from qcompress.planning.work import Workplace
from qcompress.prune import CRITERIA, compensate, scores, without_indices
from qcompress.quantize import Evidence
from qcompress.structure import ChannelGroup, Groups, Slice, find_groups, multiply_adds, shapes_after
from qcompress.types import Array, Criterion

ANCHORS = ((0.125, 0.25, 0.5), (0.25,))
"""Shares of a group's units whose loss is measured, as many as there is time for."""

EVEN = 8
"""Channels that stay are a multiple of this: vector registers and cache lines of the kernels hold 8 or 16 numbers."""

LEAST_KEPT = 0.25
"""Share of a group's units that stays at least."""

TRIES = 12

TYPES = ("float32", *HALVES)
"""Of weights that are solved again."""

Kept = Mapping[str, tuple[int, ...]]
"""Group -> units that stay, ascending."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Groups that can be cut, with their units in order of importance, least first.

    ``found``: these and all others.
    ``costs``: node -> multiply-adds. ``reasons``: weight -> why its channels cannot be cut.
    """

    found: Groups
    groups: tuple[ChannelGroup, ...]
    ranked: Mapping[str, Array]
    costs: Mapping[str, int]
    reasons: Mapping[str, str] = field(default_factory=dict)


def find_candidates(work: Workplace, criterion: Criterion, settings: WalkSettings) -> Candidates:
    """Find the groups of the layers that the recipe leaves in, and rank their units.

    Raises:
        RecipeError: there is no group that can be cut.
    """
    found = find_groups(work.model, work.shapes)
    layers = {layer.name: layer for layer in work.layers}
    chosen = selection(work.layers, work.recipe)
    groups = tuple(
        group
        for group in found.groups
        if group.units > 1
        and group.consumers
        and all(item.constant in layers and layers[item.constant].stored_dtype in TYPES for item in group.consumers)
        and all(item.constant in chosen for item in (*group.producers, *group.consumers) if item.constant in layers)
    )
    reasons = {item.name: item.reason for item in found.blocked}
    importance = _importance(work, groups, criterion, settings) if groups else {}
    reasons |= {group.name: "no gradient reaches all that reads it" for group in groups if group.name not in importance}
    groups = tuple(group for group in groups if group.name in importance)
    if not groups:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise RecipeError(
            f"{work.model.path.name}: no channels can be cut: {told or 'it has no layers'}",
            "prune without --prune-pattern channel",
        )
    ranked = {group.name: np.argsort(importance[group.name], kind="stable") for group in groups}
    return Candidates(found, groups, ranked, multiply_adds(work.model, work.shapes), reasons)


def choose_channels(
    work: Workplace, candidates: Candidates, amount: float, tools: tuple[LossMeter | None, int, WalkSettings]
) -> dict[str, tuple[int, ...]]:
    """The units of each group that stay: least summed loss with the share ``amount`` of all multiply-adds gone.

    Without a meter a group is taken to lose as much as the cube of its share, so all lose about the same share.
    """
    meter, most_runs, settings = tools
    curves: Mapping[str, Mapping[float, float]] = {group.name: {1.0: 1.0} for group in candidates.groups}
    if meter is not None:
        curves = measure_cuts(work, candidates, (meter, most_runs, settings))
    total = sum(candidates.costs.values())
    low, high = 0.0, 1.0
    kept: dict[str, tuple[int, ...]] = {}
    for _ in range(TRIES):  # savings of two groups on one node overlap: the sum that is asked for is found by halving
        asked = (low + high) / 2.0
        counts = _allot(candidates, curves, asked * total)
        saved = 1.0 - remaining(work, candidates, counts) / max(total, 1)
        if saved >= amount:
            high = asked
            kept = _units(candidates, counts)
        else:
            low = asked
    return kept or _units(candidates, _allot(candidates, curves, total))


def remaining(work: Workplace, candidates: Candidates, counts: Mapping[str, int]) -> int:
    """Multiply-adds that are left when so many units of each group stay."""
    shapes = shapes_after(work.model, candidates.found, work.shapes, counts)
    return sum(multiply_adds(work.model, shapes).values())


def masks_of(groups: Sequence[ChannelGroup], kept: Kept, layers: Mapping[str, Layer]) -> dict[str, Array]:
    """Weight -> mask, False in the columns of units that do not stay, for everything that reads such units."""
    masks: dict[str, Array] = {}
    for group in groups:
        gone = np.setdiff1d(np.arange(group.units), kept.get(group.name, range(group.units)))
        for item in group.consumers if gone.size else ():
            mask = _without(item, gone, layers[item.constant])
            masks[item.constant] = mask & masks.get(item.constant, np.True_)
    return masks


def mask_tasks(work: Workplace, masks: Mapping[str, Array], solve_again: bool) -> dict[str, Task]:
    """Weight -> what zeroes the masked numbers and solves the others again."""
    layers = {layer.name: layer for layer in work.layers}
    return {
        name: PruneTask(layers[name], readings_of(layers[name]), _masked(mask, solve_again), solve_again, solve_again)
        for name, mask in masks.items()
    }


def _touched(group: ChannelGroup) -> tuple[set[str], set[str]]:
    """Nodes that make a group's channels, and nodes that sum over them."""
    made = {node for item in (*group.producers, *group.others) for node in item.nodes}
    return made, {node for item in group.consumers for node in item.nodes}


def _without(item: Slice, gone: Array, layer: Layer) -> Array:
    return without_indices(item.indices[gone], layer.shape, item.axis)


def _masked(mask: Array, solve_again: bool) -> Shrink:
    def shrink(weight: Array, evidence: Evidence) -> Array:
        if solve_again:
            return compensate(weight, mask, evidence)
        return np.where(mask, weight, np.float32(0.0)).astype(np.float32)

    return shrink


def _importance(
    work: Workplace, groups: Sequence[ChannelGroup], criterion: Criterion, settings: WalkSettings
) -> dict[str, Array]:
    """What each unit brings to the outputs of all that read it, as a share of these outputs' energy; (units,) a group.

    By gradients: what its removal does to the model's outputs.
    """
    if CRITERIA[criterion].gradient:
        return weigh_channels(work, groups)
    layers = {layer.name: layer for layer in work.layers}
    found: dict[str, Array] = {}

    def look(name: str) -> Shrink:
        def shrink(weight: Array, evidence: Evidence) -> Array:
            energies = scores(weight, criterion, evidence).astype(np.float64)
            found[name] = energies if criterion is Criterion.OPTIMAL_BRAIN else np.square(energies)
            return weight

        return shrink

    names = list(dict.fromkeys(item.constant for group in groups for item in group.consumers))
    wanted = bool(CRITERIA[criterion].needs)
    tasks = {name: PruneTask(layers[name], readings_of(layers[name]), look(name), False, wanted) for name in names}
    with work.progress.stage("Scoring channels", len(tasks), "weights") as stage:
        walk(work.model, tasks, data_of(work), replace(settings, sequential=False), stage)
    importance = {group.name: np.zeros(group.units) for group in groups}
    for group in groups:
        for item in group.consumers:
            energies = found[item.constant]
            per_position = np.moveaxis(energies, item.axis, 0).reshape(energies.shape[item.axis], -1).sum(axis=1)
            importance[group.name] += per_position[item.indices].sum(axis=1) / max(float(energies.sum()), 1e-30)
    return importance


def measure_cuts(
    work: Workplace, candidates: Candidates, tools: tuple[LossMeter, int, WalkSettings]
) -> dict[str, dict[float, float]]:
    """Group -> share of its units that is cut -> what the model loses by that alone, the weights that stay solved again."""
    meter, most_runs, settings = tools
    anchors = next((shares for shares in ANCHORS if len(shares) * len(candidates.groups) <= most_runs), ANCHORS[-1])
    layers = {layer.name: layer for layer in work.layers}
    found: dict[tuple[str, float], dict[str, Settled]] = {}
    variants: dict[str, dict[tuple[str, float], PruneTask]] = {}
    again = work.recipe.pruning.compensate
    for group in candidates.groups:
        for share in dict.fromkeys(_reachable(group, anchor) for anchor in anchors):
            kept = {group.name: _best(candidates, group, group.units - round(share * group.units))}
            for name, mask in masks_of([group], kept, layers).items():
                task = PruneTask(layers[name], readings_of(layers[name]), _masked(mask, again), again, again)
                variants.setdefault(name, {})[group.name, share] = task
    tasks = {name: Survey(name, each, found) for name, each in variants.items()}
    with work.progress.stage("Cutting groups of channels one by one", len(tasks), "weights") as stage:
        walk(work.model, tasks, data_of(work), replace(settings, sequential=False), stage)
    curves: dict[str, dict[float, float]] = {group.name: {} for group in candidates.groups}
    with work.progress.stage("Measuring what cutting loses", len(found), "runs") as stage:
        for (name, share), settled in found.items():
            curves[name][share] = loss_alone(meter, settled)
            stage.advance()
    return curves


def _step(group: ChannelGroup) -> int:
    """How many units are cut at a time, so that what stays is a multiple of ``EVEN`` channels."""
    channels = group.producers[0].indices.shape[1]
    step = EVEN // gcd(EVEN, channels)
    return step if group.units >= 2 * step else 1


def _counts(group: ChannelGroup) -> list[int]:
    """How many units may stay: all, then fewer in even steps."""
    step, least = _step(group), max(1, round(LEAST_KEPT * group.units))
    return [group.units, *(count for count in range((group.units - 1) // step * step, least - 1, -step) if count > 0)]


def _reachable(group: ChannelGroup, share: float) -> float:
    """The share nearest to ``share`` that can be cut."""
    counts = _counts(group)[1:] or [group.units]
    count = min(counts, key=lambda number: (abs(1.0 - number / group.units - share), number))
    return 1.0 - count / group.units


def _allot(candidates: Candidates, curves: Mapping[str, Mapping[float, float]], saved: float) -> dict[str, int]:
    """How many units of each group stay: least summed loss with ``saved`` multiply-adds gone, overlaps counted twice."""
    costs = candidates.costs
    tables, weights = [], []
    for group in candidates.groups:
        cost = float(sum(costs.get(node, 0) for nodes in _touched(group) for node in nodes))
        curve = {share: loss for share, loss in curves[group.name].items() if share > 0.0} or {1.0: 1.0}
        shares = [1.0 - count / group.units for count in _counts(group)]
        tables.append([Option(loss_at(curve, share), cost * (1.0 - share)) for share in shares])
        weights.append(cost)
    # the solver keeps a sum within a budget: here of the multiply-adds that stay, at the least cost, which is the loss here
    choice = solve(tables, sum(weights) - saved + 0.5)
    indices = [len(table) - 1 for table in tables] if choice is None else choice.indices
    return {group.name: _counts(group)[index] for group, index in zip(candidates.groups, indices, strict=True)}


def _best(candidates: Candidates, group: ChannelGroup, count: int) -> tuple[int, ...]:
    """The most important units of a group, ascending."""
    return tuple(sorted(int(unit) for unit in candidates.ranked[group.name][group.units - count :]))


def _units(candidates: Candidates, counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The units that stay of every group that loses any."""
    return {
        group.name: _best(candidates, group, counts[group.name])
        for group in candidates.groups
        if counts[group.name] < group.units
    }
