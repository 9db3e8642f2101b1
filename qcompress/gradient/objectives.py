"""Losses of a model's outputs and their gradients: what a backward pass starts from.

Losses of class scores are sums over all positions (samples, words, pixels), so that feeds of different sizes can be added up.
"""

from __future__ import annotations

import numpy as np

from qcompress.types import Array


def cross_entropy(scores: Array, labels: Array, axis: int = -1) -> tuple[float, Array]:
    """J = sum of -log softmax(scores)[label], dJ/dscores = softmax(scores) - 1 at the label.

    Args:
        scores: class scores before the softmax, any shape.
        labels: the right class of every position, the shape of scores without ``axis``; negative: not counted.
        axis: of the classes.
    """
    logarithms = _log_softmax(scores, axis)
    counted = np.expand_dims(labels >= 0, axis)
    chosen = np.expand_dims(np.maximum(labels, 0), axis)
    loss = -float(np.sum(np.take_along_axis(logarithms, chosen, axis) * counted))
    return loss, ((np.exp(logarithms) - _one_hot(chosen, scores.shape, axis)) * counted).astype(scores.dtype)


def divergence(scores: Array, reference: Array, axis: int = -1) -> tuple[float, Array]:
    """J = sum of KL(softmax(reference) || softmax(scores)), dJ/dscores = softmax(scores) - softmax(reference).

    Args:
        scores: class scores before the softmax, any shape.
        reference: what they should be, of the same shape.
        axis: of the classes.
    """
    logarithms, wanted = _log_softmax(scores, axis), _log_softmax(reference, axis)
    shares = np.exp(wanted)
    loss = float(np.sum(np.where(shares > 0.0, shares * (wanted - logarithms), 0.0)))
    return loss, (np.exp(logarithms) - shares).astype(scores.dtype)


def squared_error(output: Array, reference: Array) -> tuple[float, Array]:
    """J = 1/2 sum of (output - reference)^2, dJ/doutput = output - reference."""
    difference = output.astype(np.float64) - reference.astype(np.float64)
    return 0.5 * float(np.sum(difference**2)), difference.astype(output.dtype)


def drawn(scores: Array, axis: int, generator: np.random.Generator) -> Array:
    """The gradient of the cross-entropy with labels drawn from the softmax of the scores themselves.

    Its mean is 0, and the mean square of what it gives at a weight is the weight's Fisher information: what a small change
    of it costs in divergence, to second order, although the divergence from the model's own outputs has gradient 0.

    Args:
        scores: class scores before the softmax, any shape.
        axis: of the classes.
        generator: draws one label for every position.

    Source: Martens, New Insights and Perspectives on the Natural Gradient Method, JMLR 2020, section 9.2.
    """
    bounds = np.cumsum(np.exp(_log_softmax(scores, axis)), axis)
    last = np.take(bounds, [-1], axis)
    place = generator.random(last.shape) * last
    labels = np.sum(bounds <= place, axis)
    return cross_entropy(scores, np.minimum(labels, scores.shape[axis] - 1), axis)[1]


def projection(output: Array, generator: np.random.Generator) -> Array:
    """Random signs u: the mean square of d(u y)/dw is the sum of squares of dy/dw, the Gauss-Newton diagonal of 1/2 |y|^2.

    Source: Hutchinson, A Stochastic Estimator of the Trace, Communications in Statistics 1990.
    """
    return (generator.integers(0, 2, output.shape) * 2 - 1).astype(output.dtype)


def _log_softmax(scores: Array, axis: int) -> Array:
    """Of the scores in float64; scores of minus infinity (masked classes) stay that."""
    wide = scores.astype(np.float64)
    shifted = wide - np.max(wide, axis, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True)))


def _one_hot(chosen: Array, shape: tuple[int, ...], axis: int) -> Array:
    hot = np.zeros(shape)
    np.put_along_axis(hot, chosen, 1.0, axis)
    return hot
