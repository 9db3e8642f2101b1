"""What repairs are proposed from, and what a proposal is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompress.decisions import ActivationPlan
from qcompress.graph import Model, Value
from qcompress.graph.edit import constant_array
from qcompress.operators import Layer
from qcompress.operators.channels import Edit
from qcompress.operators.regions import Region, find_region
from qcompress.quantize.smooth import ProductSamples, Smoothing, expected_error, product_error
from qcompress.types import Array, ChannelSamples, QuantScheme, Statistics, TensorRange

MOST_ROWS = 512
"""Positions that products are compared on."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A change that may make a group of layers less harmful; the model's loss decides.

    ``group``: weight names. ``channel_scales`` and ``activations``: as in a plan. ``recollect``: tensors whose values
    change, so that their ranges must be found again. ``inserted``: tensors that a Mul divides, which costs time.
    ``gain``: error of the layers alone with it over without, as estimated; None where it was not.
    """

    name: str
    group: tuple[str, ...]
    channel_scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    activations: Mapping[str, ActivationPlan] = field(default_factory=dict)
    recollect: tuple[str, ...] = ()
    inserted: tuple[str, ...] = ()
    gain: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What is known of the model and its layers.

    ``channels``: tensors read by the layers. ``static``: names of layers whose input has one range for all data.
    """

    model: Model
    layers: Mapping[str, Layer]
    statistics: Statistics
    channels: Mapping[str, ChannelSamples]
    weights: QuantScheme
    activations: QuantScheme
    static: frozenset[str]


Proposer = Callable[[Sequence[str], Evidence], list[Repair]]
"""Proposes repairs for a group of layers, by weight name."""


def rescaled_range(samples: ChannelSamples, factors: Array) -> TensorRange:
    """The exact range of a tensor after its channels are divided."""
    low, high = (samples.low / factors).min(), (samples.high / factors).max()
    return TensorRange(float(low), float(high))


def regions_of(group: Sequence[str], evidence: Evidence) -> Iterator[tuple[Region, ChannelSamples]]:
    """The regions of the tensors that a group's products read, where channels can be scaled and samples are at hand."""
    seen: set[Value] = set()
    for name in group:
        layer = evidence.layers[name]
        for use in layer.uses:
            tensor = use.node.inputs[0] if use.index == 1 else None
            if tensor is None or tensor in seen or use.node.graph is not layer.main:
                continue
            seen.add(tensor)
            samples = evidence.channels.get(tensor.name or "")
            region = find_region(evidence.model, tensor) if samples is not None else ""
            if samples is not None and not isinstance(region, str) and region.channels == samples.low.shape[1]:
                yield region, samples


def rescaling(name: str, group: Sequence[str], region: Region, found: Smoothing) -> Repair:
    """The proposal to divide the channels of a region's tensor."""
    tensor = region.tensor.name or ""
    return Repair(
        name,
        tuple(group),
        channel_scales={tensor: tuple(float(factor) for factor in found.factors)},
        recollect=region.scaled,
        inserted=(tensor,) if region.inserted else (),
        gain=found.error / found.before if found.before > 0.0 else None,
    )


def judge(region: Region, samples: ChannelSamples, evidence: Evidence) -> Callable[[Array], float]:
    """Factors -> error of the products that read the tensor: on real rows, or expected where windows overlap."""
    static = any((edit.value.name or "") in evidence.static for edit in region.weights)
    direct = [edit for edit in region.weights if edit.reader is not None and region.tensor in edit.reader.inputs]
    matrices = [_as_matrix(edit) for edit in direct]
    known = [matrix for matrix in matrices if matrix is not None]
    if len(known) == len(direct) and known:
        products = _products(samples, known, static)
        outputs = [products.rows @ weight for weight in known]
        return lambda factors: product_error(products, outputs, factors, evidence.weights, evidence.activations)
    widths = np.maximum(samples.high.max(axis=0), 0.0) - np.minimum(samples.low.min(axis=0), 0.0)
    moments = np.square(samples.rows, dtype=np.float64).mean(axis=0)
    kernels = [_as_kernel(edit) for edit in direct]
    return lambda factors: sum(expected_error(widths, moments, kernel, factors) for kernel in kernels)


def read_ranges(region: Region) -> Array:
    """(channels,): the largest magnitude of the weights that read each channel."""
    ranges = np.zeros(region.channels)
    for edit in region.weights:
        kernel = np.abs(_as_kernel(edit)).max(axis=(2, 3)).reshape(-1)
        view = edit.view
        part = kernel[view.offset : view.offset + view.count]
        ranges[view.start : view.start + view.count] = np.maximum(ranges[view.start : view.start + view.count], part)
    return ranges


def written_ranges(region: Region) -> Array | None:
    """(channels,): the largest magnitude of the weights that write each channel; None where no weights do."""
    ranges = np.zeros(region.channels)
    for edit in region.edits:
        array = constant_array(edit.value)
        if not edit.divide or array is None or array.ndim < 2 or edit.groups > 1:
            continue
        others = tuple(axis for axis in range(array.ndim) if axis != edit.axis % array.ndim)
        found, view = np.abs(array).max(axis=others), edit.view
        part = found[view.offset : view.offset + view.count]
        ranges[view.start : view.start + view.count] = np.maximum(ranges[view.start : view.start + view.count], part)
    return ranges if ranges.any() else None


def _products(samples: ChannelSamples, matrices: Sequence[Array], static: bool) -> ProductSamples:
    """The last rows, quantized with one range for all (static) or one for each feed (dynamic)."""
    step = -(-len(samples.rows) // MOST_ROWS)
    rows, feeds = samples.rows[::step], samples.feeds[::step]
    if static:
        low, high = samples.low.min(axis=0, keepdims=True), samples.high.max(axis=0, keepdims=True)
        return ProductSamples(rows, low, high, np.zeros(len(rows), dtype=np.intp), matrices)
    return ProductSamples(rows, samples.low, samples.high, feeds, matrices)


def _as_matrix(edit: Edit) -> Array | None:
    """The weight as (channels, outputs) where every output is a product with one position; None for windows and groups."""
    array = constant_array(edit.value)
    if array is None or edit.groups > 1 or edit.view.offset or int(np.prod(array.shape)) != _two_axes(array, edit):
        return None
    return np.ascontiguousarray(np.moveaxis(array, edit.axis, 0).reshape(array.shape[edit.axis], -1))


def _two_axes(array: Array, edit: Edit) -> int:
    """The size a weight has when its channel axis and one other are all it has."""
    other = max((dim for axis, dim in enumerate(array.shape) if axis != edit.axis % array.ndim), default=1)
    return int(array.shape[edit.axis] * other)


def _as_kernel(edit: Edit) -> Array:
    """The weight as (groups, channels / group, kernel, outputs / group)."""
    array = constant_array(edit.value)
    if array is None:
        raise ValueError(f"{edit.value.name} is not a constant")
    groups = edit.groups
    if groups > 1:  # (out, in / group, *kernel)
        split = array.reshape(groups, array.shape[0] // groups, array.shape[1], -1)
        return np.moveaxis(split, 1, -1)
    moved = np.moveaxis(array, edit.axis, 0)
    first = 0 if edit.axis == 1 else -1  # Conv: (in, out, *kernel); ConvTranspose too; matrices: (in, out)
    outputs = moved.shape[1] if array.ndim > 2 or first == 0 else moved.shape[-1]
    return np.moveaxis(moved.reshape(1, moved.shape[0], outputs, -1), 2, 3)
