"""Gradients of what divides by a sum over an axis: Softmax and normalisations.

A normalisation is y = scale h + shift with h = (x - mean) / deviation; with g = dy scale and means over the same axes,
dx = (g - mean(g) - h mean(g h)) / deviation. Source: Ioffe, Szegedy, Batch Normalization, ICML 2015, section 3; Ba et al.,
Layer Normalization, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcompress.gradient.broadcasting import unbroadcast
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tape, Tensor, fixed


def softmax(step: Step) -> Gradients:
    """Softmax: dx = y (dy - sum(dy y))."""
    y, axis = step.output(), step.axis(-1)
    weighted = step.gradient * y
    return {0: weighted - y * weighted.sum([axis])}


def log_softmax(step: Step) -> Gradients:
    """LogSoftmax: dx = dy - exp(y) sum(dy)."""
    axis = step.axis(-1)
    return {0: step.gradient - step.output().apply("Exp") * step.gradient.sum([axis])}


def layer_normalization(step: Step) -> Gradients:
    """LayerNormalization: the formula above, over all axes from ``axis`` on."""
    axes = list(range(step.axis(-1), step.input(0).rank))
    return _normalized(step, axes, centred=True)


def rms_normalization(step: Step) -> Gradients:
    """RMSNormalization: y = scale h, h = x / root mean square; dx = (g - h mean(g h)) / root mean square."""
    axes = list(range(step.axis(-1), step.input(0).rank))
    return _normalized(step, axes, centred=False)


def instance_normalization(step: Step) -> Gradients:
    """InstanceNormalization: the formula above, over the spatial axes; scale and shift of each channel."""
    x, dy, tape = step.input(0), step.gradient, step.tape
    axes = list(range(2, x.rank))
    h, inverse = _standardized(x, axes, step.real("epsilon", 1e-5), centred=True)
    found = {}
    if step.needs(0):
        found[0] = _through(dy * _by_channel(step.input(1), x.rank), h, inverse, axes, centred=True)
    if step.needs(1):
        found[1] = (dy * h).sum([0, *axes], keep=False)
    if step.needs(2):
        found[2] = tape.node("Identity", (dy,)).sum([0, *axes], keep=False)
    return found


def batch_normalization(step: Step) -> Gradients:
    """BatchNormalization in inference, with k = scale / sqrt(variance + epsilon) and c = x - mean.

    dx = k dy, dscale = sum(dy c) / sqrt(variance + epsilon), dshift = sum(dy), dmean = -k sum(dy),
    dvariance = -1/2 k / (variance + epsilon) sum(dy c), all sums over all axes but the channels.
    """
    if step.integer("training_mode", 0):
        raise NoGradientError("is in training mode")
    x, scale, mean, dy = step.input(0), step.input(1), step.input(3), step.gradient
    variance = step.input(4) + step.real("epsilon", 1e-5)
    inverse = 1.0 / variance.apply("Sqrt")
    axes = [0, *range(2, x.rank)]
    found = {}
    if step.needs(0):
        found[0] = dy * _by_channel(scale * inverse, x.rank)
    if step.needs(2) or step.needs(3):
        total = dy.sum(axes, keep=False)
        found[2], found[3] = total, -(total * scale * inverse)
    if step.needs(1) or step.needs(4):
        weighted = (dy * (x - _by_channel(mean, x.rank))).sum(axes, keep=False)
        found[1], found[4] = weighted * inverse, weighted * scale * inverse / variance * -0.5
    return {index: gradient for index, gradient in found.items() if step.needs(index)}


def _normalized(step: Step, axes: Sequence[int], centred: bool) -> Gradients:
    """LayerNormalization or RMSNormalization: scale and shift broadcast with x."""
    x, dy = step.input(0), step.gradient
    h, inverse = _standardized(x, axes, step.real("epsilon", 1e-5), centred)
    found = {}
    if step.needs(0):
        found[0] = _through(dy * step.input(1), h, inverse, axes, centred)
    if step.needs(1):
        found[1] = unbroadcast(dy * h, step.input(1), x)
    if step.needs(2):
        found[2] = unbroadcast(dy, step.input(2), x)
    return found


def _standardized(x: Tensor, axes: Sequence[int], epsilon: float, centred: bool) -> tuple[Tensor, Tensor]:
    """What was standardized, and 1 / deviation."""
    c = x - mean_over(x, axes, x) if centred else x
    inverse = 1.0 / (mean_over(c * c, axes, x) + epsilon).apply("Sqrt")
    return c * inverse, inverse


def _through(g: Tensor, h: Tensor, inverse: Tensor, axes: Sequence[int], centred: bool) -> Tensor:
    """The gradient through h."""
    rest = g - h * mean_over(g * h, axes, h)
    return (rest - mean_over(g, axes, h) if centred else rest) * inverse


def mean_over(tensor: Tensor, axes: Sequence[int], like: Tensor) -> Tensor:
    """The mean along axes, which are kept; ``like`` has the same lengths, perhaps known."""
    tape: Tape = tensor.tape
    lengths = None if like.dims is None else fixed(tuple(like.dims[axis] for axis in axes))
    total = tensor.sum(axes)
    if lengths is not None:
        count = 1
        for length in lengths:
            count *= length
        return total * (1.0 / max(count, 1))
    count_at_run = tape.node("ReduceProd", (tape.extents(like, axes),), {"keepdims": 0})
    return total / tape.cast(count_at_run, tensor.dtype)


def _by_channel(tensor: Tensor, rank: int) -> Tensor:
    """A number of each channel in the shape that broadcasts with (batch, channels, *spatial)."""
    return tensor.unsqueeze(list(range(1, rank - 1)))
