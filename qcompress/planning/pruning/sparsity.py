"""How much of each layer is pruned: the same of all, by one ranking of all, or with the least loss that is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qcompress.decisions import CompressionPlan, Quantize
from qcompress.operators import Layer, Role
from qcompress.plan.choose import selection
from qcompress.plan.solver import Option, solve
from qcompress.planning.losses import LossMeter
from qcompress.planning.pruning.tasks import EXACT, Shrink, Survey, prune_task
from qcompress.planning.walk import Data, NoData, Settled, Task, WalkSettings, walk
from qcompress.planning.widths import elements
from qcompress.planning.work import Workplace
from qcompress.prune import choose_mask, compensate, scores
from qcompress.prune.patterns.ranking import highest
from qcompress.quantize import Evidence
from qcompress.types import Array, Form, Prune, QuantScheme

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares to choose from for a layer."""

ANCHORS = ((0.3, 0.5, 0.7, 0.9), (0.5, 0.8), (0.5,))
"""Shares whose loss is measured, as many as there is time for; the rest follow from them."""

GROWTH = 3.0
"""Power of the share by which the loss grows, where one share alone is measured."""

LARGE = 1 << 31
"""Bytes that surveyed weights may take; with more, fewer anchors are measured."""

Gradients = Mapping[str, Array]
"""Weight -> root mean square of dJ/dw, shape of the weight."""


def prunable(work: Workplace) -> list[Layer]:
    """Layers whose numbers can be pruned; rows of tables are looked up one by one, so zeros in them save nothing.

    Raises:
        RecipeError: include or exclude name something the model does not have.
    """
    chosen = selection(work.layers, work.recipe)
    return [
        layer
        for layer in work.layers
        if not layer.reason
        and layer.name in chosen
        and not layer.has_lookup
        and layer.operator.role in (Role.LINEAR, Role.RECURRENT)
    ]


def same_share(layers: Iterable[Layer], wanted: Prune) -> dict[str, Prune]:
    """Every layer loses the same share, or what the pattern or the threshold says."""
    return {layer.name: wanted for layer in layers}


def globally_ranked(
    work: Workplace, layers: Sequence[Layer], wanted: Prune, gradients: Gradients, settings: WalkSettings
) -> dict[str, Prune]:
    """The share of each layer that lies among the least scores of all layers together."""
    found: dict[str, Array] = {}

    def look(layer: Layer) -> Shrink:
        def shrink(weight: Array, evidence: Evidence) -> Array:
            found[layer.name] = (
                scores(weight, wanted.criterion, evidence, gradients.get(layer.name)).ravel().astype(np.float32)
            )
            return weight

        return shrink

    tasks = {layer.name: prune_task(layer, replace(wanted, compensate=False), look(layer)) for layer in layers}
    _walk(work, tasks, replace(settings, sequential=False), "Scoring weights")
    stays = highest(np.concatenate([found[layer.name] for layer in layers]), wanted.sparsity)
    ends = np.cumsum([found[layer.name].size for layer in layers])[:-1]
    shares = {layer.name: float(1.0 - part.mean()) for layer, part in zip(layers, np.split(stays, ends), strict=True)}
    return {name: replace(wanted, sparsity=min(share, SHARES[-1])) for name, share in shares.items()}


def measured(
    work: Workplace, layers: Sequence[Layer], wanted: Prune, gradients: Gradients, tools: tuple[LossMeter, int, WalkSettings]
) -> dict[str, Prune]:
    """Shares of least summed loss, each layer's measured alone.

    Args:
        work: the model.
        layers: to prune.
        wanted: criterion, pattern and the share of all weights.
        gradients: for criteria that look at them.
        tools: how losses are measured, how many single ones there is time for, and how to walk.
    """
    meter, most_runs, settings = tools
    anchors = anchors_for(layers, most_runs)
    known = survey(work, layers, wanted, gradients, (meter, anchors, settings))
    sizes = {layer.name: elements(layer) for layer in layers}
    return {name: replace(wanted, sparsity=share) for name, share in allot_shares(sizes, known, wanted.sparsity).items()}


def anchors_for(layers: Sequence[Layer], most_runs: int) -> tuple[float, ...]:
    """As many shares to measure as time and memory allow."""
    size = 4 * sum(elements(layer) for layer in layers)
    fitting = (shares for shares in ANCHORS if len(shares) * len(layers) <= most_runs and len(shares) * size <= LARGE)
    return next(fitting, ANCHORS[-1])


def survey(
    work: Workplace,
    layers: Sequence[Layer],
    wanted: Prune,
    gradients: Gradients,
    tools: tuple[LossMeter, Sequence[float], WalkSettings],
) -> dict[tuple[str, float], float]:
    """(weight, share) -> what the model loses when that weight alone loses that share of its numbers."""
    meter, anchors, settings = tools
    found: dict[float, dict[str, Settled]] = {}

    def at(layer: Layer, share: float) -> Shrink:
        prune = replace(wanted, sparsity=share)

        def shrink(weight: Array, evidence: Evidence) -> Array:  # masks chosen at once: to compare layers by, that is enough
            counts = scores(weight, prune.criterion, evidence, gradients.get(layer.name))
            mask = choose_mask(counts, prune, evidence.layout, evidence.groups)
            return compensate(weight, mask, evidence) if prune.compensate else np.where(mask, weight, np.float32(0.0))

        return shrink

    tasks: dict[str, Task] = {}
    for layer in layers:
        variants = {share: prune_task(layer, wanted, at(layer, share)) for share in anchors}
        tasks[layer.name] = Survey(layer.name, variants, found)
    _walk(work, tasks, replace(settings, sequential=False), "Pruning layers one by one")
    losses: dict[tuple[str, float], float] = {}
    with work.progress.stage("Measuring what pruning loses", len(layers) * len(found), "runs") as stage:
        for share, settled in found.items():
            for name, item in settled.items():
                losses[name, share] = loss_alone(meter, {name: item})
                stage.advance()
    return losses


def loss_alone(meter: LossMeter, settled: Mapping[str, Settled]) -> float:
    """What the model loses when some weights become what they settled to, and all others stay."""
    shifts = {node: shift for item in settled.values() for node, shift in item.shifts.items()}
    plan = CompressionPlan(
        source="",
        recipe="",
        weights={name: Quantize(Form.FOLDED, EXACT) for name in settled},
        activation_scheme=QuantScheme(),
        bias_shifts=shifts,
    )
    return meter.alone(plan, codes={name: item.tensor for name, item in settled.items()})


def allot_shares(sizes: Mapping[str, int], known: Mapping[tuple[str, float], float], total: float) -> dict[str, float]:
    """The share that each weight loses: least sum of losses with at least ``total`` of all numbers gone.

    Args:
        sizes: weight -> elements.
        known: (weight, share) -> loss, at the same shares for every weight.
        total: share of all numbers; every weight loses the largest share of ``SHARES`` when that is not enough.
    """
    names = list(sizes)
    tables = []
    for name in names:
        curve = {share: loss for (weight, share), loss in known.items() if weight == name}
        tables.append([Option(loss_at(curve, share), sizes[name] * (1.0 - share)) for share in SHARES])
    # the solver keeps a sum within a budget: here of the numbers that stay, at the least cost, which is the loss here
    choice = solve(tables, (1.0 - total) * sum(sizes.values()) + 0.5)
    if choice is None:
        return dict.fromkeys(names, SHARES[-1])
    return {name: SHARES[index] for name, index in zip(names, choice.indices, strict=True)}


def loss_at(curve: Mapping[float, float], share: float) -> float:
    """The loss at a share from the losses at some: a power of the share between neighbours, never falling.

    Args:
        curve: share -> measured loss, at least one.
        share: 0 loses nothing.
    """
    if share <= 0.0:
        return 0.0
    shares = sorted(curve)
    losses = np.maximum(np.maximum.accumulate([curve[at] for at in shares]), 1e-12)
    if len(shares) == 1:
        return float(losses[0] * (share / shares[0]) ** GROWTH)
    index = min(max(int(np.searchsorted(shares, share)), 1), len(shares) - 1)
    low, high = shares[index - 1], shares[index]
    power = np.log(losses[index] / losses[index - 1]) / np.log(high / low)
    outside = share < low or share > high
    return float(losses[index - 1] * (share / low) ** (max(power, GROWTH) if outside else power))


def _walk(work: Workplace, tasks: Mapping[str, Task], settings: WalkSettings, title: str) -> dict[str, Settled]:
    with work.progress.stage(title, len(tasks), "weights") as stage:
        return walk(work.model, tasks, data_of(work), settings, stage)


def data_of(work: Workplace) -> Data:
    """What is fitted on; nothing where there is no data."""
    return NoData() if work.parts is None else work.parts.fit
