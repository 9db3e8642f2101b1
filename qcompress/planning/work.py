"""What planning works on, the numbers that are fitted once for every candidate, and how a choice becomes a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qcompress.calibrate import CalibrationSettings, MeansRequest, collect, collect_means
from qcompress.data import Parts
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.graph import Model, digest
from qcompress.operators import Layer
from qcompress.plan.choose import scheme_of, static_nodes
from qcompress.plan.fit import clipped, fit_activations, fit_clips, needs_of, shift_probes
from qcompress.plan.placement import Placement, Shapes, place
from qcompress.progress import Progress
from qcompress.recipe import RangeMethod, Recipe
from qcompress.types import EncodedTensor, Form, Statistics, StatisticsNeeds

SHIFT_SAMPLES = 64

OTHER_RANGES = (RangeMethod.MINMAX, RangeMethod.PERCENTILE, RangeMethod.MSE)
"""Methods whose ranges a repair may try; entropy takes longer than the rest together."""

Chosen = Mapping[str, Form | Keep]
"""Weight name -> its form, or why it is kept."""


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
    timed_shapes: Shapes = field(default_factory=dict)
    """Of every tensor in the feeds that are timed, when these are others than those of the data."""
    placements: dict[tuple[str, ...], Placement] = field(default_factory=dict)
    """Where integers flow for choices seen before, by the names of their static nodes."""

    @property
    def speed_shapes(self) -> Shapes:
        """Of every tensor at the sizes for which the model shall be fast."""
        return self.timed_shapes or self.shapes

    def place(self, chosen: Chosen) -> Placement:
        """Where integers flow when layers take the chosen forms."""
        if self.parts is None:
            return Placement((), (), {})
        nodes = static_nodes(self.model, self.layers, chosen, self.recipe.mode)
        key = tuple(node.name or "" for node in nodes)
        if key not in self.placements:
            self.placements[key] = place(self.model, nodes, self.shapes)
        return self.placements[key]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Numbers that hold for every candidate: the data ran once for all of them."""

    statistics: Statistics | None
    clips: Mapping[str, tuple[float, ...]]
    shifts: Mapping[str, tuple[float, ...]]


def fit(work: Workplace, choices: Iterable[Chosen]) -> Fitted:
    """Calibrate, search clips and measure bias shifts for everything that any of the choices needs.

    Raises:
        CalibrationError: an activation is NaN or infinite.
    """
    recipe, parts, choices = work.recipe, work.parts, list(choices)
    names = {name for chosen in choices for name, form in chosen.items() if not isinstance(form, Keep)}
    layers = [layer for layer in work.layers if layer.name in names]
    statistics = None
    if parts is not None:
        needs = needs_of(layers, (work.place(chosen) for chosen in choices), recipe)
        if needs != StatisticsNeeds():
            others = tuple(method for method in OTHER_RANGES if method is not recipe.ranges)
            settings = CalibrationSettings(
                recipe.ranges, recipe.activations, work.threads, parts.fit.samples, work.shapes, others
            )
            statistics = collect(work.model, needs, parts.fit.batches(), settings, work.progress)
    clips = fit_clips(layers, statistics, recipe, work.progress)
    return Fitted(statistics, clips, measure_shifts(work, layers, clipped(clips, recipe)))


def measure_shifts(
    work: Workplace, layers: Sequence[Layer], encode: Callable[[Layer], EncodedTensor | None]
) -> dict[str, tuple[float, ...]]:
    """Node -> what its bias must be shifted by, per output channel, when its weight becomes what ``encode`` gives."""
    if work.parts is None or not work.recipe.correct_bias:
        return {}
    probes = shift_probes(layers, encode)
    if not probes.nodes:
        return {}
    data = work.parts.fit.limit(SHIFT_SAMPLES)
    request = MeansRequest(probes.nodes, probes.constants, probes.channel_axes)
    settings = CalibrationSettings(threads=work.threads, total=data.samples)
    means = collect_means(work.model, request, data.batches(), settings, work.progress)
    return {probes.layers[name]: tuple(float(shift) for shift in mean) for name, mean in means.items()}


def assemble(work: Workplace, chosen: Chosen, fitted: Fitted) -> CompressionPlan:
    """The plan of a choice."""
    placement = work.place(chosen)
    weights: dict[str, Quantize | Keep] = {
        layer.name: form
        if isinstance(form := chosen[layer.name], Keep)
        else Quantize(form, scheme_of(layer, work.recipe), fitted.clips[layer.name])
        for layer in work.layers
    }
    taken = {use.node.name or "" for layer in work.layers if isinstance(weights[layer.name], Quantize) for use in layer.uses}
    statistics = fitted.statistics
    return CompressionPlan(
        source=digest(work.model.path),
        recipe=work.recipe.name,
        weights=weights,
        activation_scheme=work.recipe.activations,
        activations={} if statistics is None else fit_activations(placement, statistics, work.recipe),
        integer_nodes=placement.nodes,
        bias_shifts={node: shift for node, shift in fitted.shifts.items() if node in taken},
        opset=work.model.opset,
    )


def alone(plan: CompressionPlan, layers: Sequence[Layer], placement: Placement) -> CompressionPlan:
    """What is left of a plan when only some layers are changed, with the integer nodes and tensors of ``placement``."""
    names = {layer.name for layer in layers}
    nodes = {use.node.name or "" for layer in layers for use in layer.uses}
    return CompressionPlan(
        source=plan.source,
        recipe=plan.recipe,
        weights={name: decision for name, decision in plan.weights.items() if name in names},
        activation_scheme=plan.activation_scheme,
        activations={tensor: plan.activations[tensor] for tensor in placement.tensors if tensor in plan.activations},
        integer_nodes=placement.nodes,
        bias_shifts={node: shift for node, shift in plan.bias_shifts.items() if node in nodes},
    )
