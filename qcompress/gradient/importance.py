"""How much the loss of a model's outputs depends on its weights, measured by running the backward pass on data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompress.errors import CalibrationError
from qcompress.gradient.backward import Backward, BackwardSettings
from qcompress.gradient.objectives import cross_entropy, drawn, projection
from qcompress.graph import Model
from qcompress.graph.edit import constant_array
from qcompress.structure import Slice
from qcompress.types import Array, Feed

Kinds = Mapping[str, int | None]
"""Output -> the axis of its classes, None where it has no class scores."""


@dataclass(frozen=True, slots=True)
class ImportanceSettings:
    """What to take gradients of, and how.

    ``kinds``: the outputs that count. ``draws``: how often labels or signs are drawn for each feed where no labels are known.
    ``backward``: threads and known shapes.
    """

    kinds: Kinds
    draws: int = 1
    seed: int = 0
    backward: BackwardSettings = field(default_factory=BackwardSettings)


@dataclass(frozen=True, slots=True)
class WeightGradients:
    """``rms``: weight -> sqrt of the mean over feeds of (dJ/dw)^2, float32; ``unreached``: weight -> why there is none."""

    rms: Mapping[str, Array]
    unreached: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ChannelEffects:
    """``effects``: of each group the mean over feeds of (sum over all slices of w dJ/dw)^2, (units,), float64.

    ``unreached``: constant -> why it has no gradient; it counts as 0.
    """

    effects: tuple[Array, ...]
    unreached: Mapping[str, str]


def weight_gradients(
    model: Model,
    names: Sequence[str],
    feeds: Sequence[Feed],
    settings: ImportanceSettings,
    labels: Sequence[Array] | None = None,
) -> WeightGradients:
    """The root mean square of the loss's gradient at every weight.

    With labels the loss is the cross-entropy. Without, what is returned is the root of the diagonal of the Fisher information
    of class scores, and of the Gauss-Newton matrix of other outputs (see ``objectives.drawn`` and ``projection``).

    Args:
        model: prepared.
        names: float initializers.
        feeds: samples, at least one feed.
        settings: outputs, draws.
        labels: the right classes of the outputs with class scores, one array a feed, in the shape of the scores without the
            axis of classes.

    Raises:
        ModelError: the model does not run on a feed.
        CalibrationError: there are no feeds, or a gradient is not finite.
    """
    backward = Backward(model, names, list(settings.kinds), settings.backward)
    squares: dict[str, Array] = {}
    count = 0
    for gradients in _gradients(backward, feeds, settings, labels):
        count += 1
        for name, gradient in gradients.items():
            square = np.square(gradient, dtype=np.float32)
            squares[name] = np.add(squares[name], square, out=squares[name]) if name in squares else square
    rms = {name: np.sqrt(total / np.float32(count)) for name, total in squares.items()}
    return WeightGradients(rms, backward.unreached)


def channel_effects(
    model: Model,
    groups: Sequence[Sequence[Slice]],
    feeds: Sequence[Feed],
    settings: ImportanceSettings,
    labels: Sequence[Array] | None = None,
) -> ChannelEffects:
    """What removing a unit does to the loss, to first order, squared: (sum over what belongs to it of w dJ/dw)^2.

    Args:
        model: prepared.
        groups: of each group of channels the slices that are removed together, all for as many units.
        feeds: samples, at least one feed.
        settings: outputs, draws.
        labels: see ``weight_gradients``.

    Raises:
        ModelError: the model does not run on a feed.
        CalibrationError: there are no feeds, or a gradient is not finite.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, arXiv:1906.10771, equation 8.
    """
    names = sorted({part.constant for group in groups for part in group})
    backward = Backward(model, names, list(settings.kinds), settings.backward)
    weights = {name: _weight(model, name) for name in backward.reached}
    totals = [np.zeros(len(group[0].indices)) for group in groups]
    count = 0
    for gradients in _gradients(backward, feeds, settings, labels):
        count += 1
        changes = {name: weights[name] * gradient for name, gradient in gradients.items()}
        for index, group in enumerate(groups):
            known = (_by_unit(changes[part.constant], part) for part in group if part.constant in changes)
            totals[index] += np.square(sum(known, start=np.zeros(len(totals[index]))))
    return ChannelEffects(tuple(total / count for total in totals), backward.unreached)


def _gradients(
    backward: Backward, feeds: Sequence[Feed], settings: ImportanceSettings, labels: Sequence[Array] | None
) -> Iterator[Mapping[str, Array]]:
    """The gradients of every feed and draw.

    Raises:
        CalibrationError: there are no feeds, or a gradient is not finite.
    """
    if not feeds:
        raise CalibrationError("gradients need data", "give calibration data")
    generator = np.random.default_rng(settings.seed)
    for index, feed in enumerate(feeds):
        outputs = backward.forward(feed) if backward.reached else {}
        known = None if labels is None else labels[index]
        for _ in range(1 if known is not None else settings.draws):
            seeds = {name: _seed(output, settings.kinds[name], known, generator) for name, output in outputs.items()}
            gradients = backward.run(feed, seeds)
            for name, gradient in gradients.items():
                if not np.isfinite(gradient).all():
                    raise CalibrationError(
                        f"the gradient at {name!r} is not finite", "use data on which the model gives finite outputs"
                    )
            yield gradients


def _seed(output: Array, axis: int | None, labels: Array | None, generator: np.random.Generator) -> Array:
    if axis is None:
        return projection(output, generator)
    return drawn(output, axis, generator) if labels is None else cross_entropy(output, labels, axis)[1]


def _weight(model: Model, name: str) -> Array:
    array = constant_array(model.graph.initializers[name])
    return np.zeros(0, np.float32) if array is None else array


def _by_unit(change: Array, part: Slice) -> Array:
    """The sum over all that belongs to each unit, (units,), float64."""
    moved = np.moveaxis(change, part.axis, 0)
    sums = moved.reshape(len(moved), -1).sum(axis=1, dtype=np.float64)
    return np.asarray(sums[part.indices].sum(axis=1))
