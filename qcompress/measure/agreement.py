"""How close the compressed model's outputs are to the float model's, one output at a time, in constant memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompress.data import wilson_interval
from qcompress.measure.intervals import RunningMean
from qcompress.results import Interval, OutputAgreement
from qcompress.types import Array, TensorSignature

NOT_SCORES = re.compile(r"hidden|embed|pool|state|feat|present|past|key|value|cache|mask|box|coord", re.IGNORECASE)
"""Names of outputs whose largest element says nothing: representations, caches, coordinates."""

DECIDED = 0.75
"""Class scores point at one class, so the entropy of their softmax is well below its maximum; that of a representation
(hidden state, embedding, feature map) is near it, and its largest element means nothing. Measured on real models: logits
and probabilities 0.00 to 0.49 of the maximum, representations 0.95 to 1.00."""

DECIDED_ON = 32
"""Samples after which that is known well enough."""


@dataclass(slots=True)
class Agreement:
    """Takes in one output of both models batch by batch, and sums up.

    A sample is an index of the first axis where that has one per sample, otherwise the whole tensor of a batch. Where the
    float model itself gives NaN or infinity (masks, for example), nothing is compared.
    """

    signature: TensorSignature
    cosine_loss: RunningMean = field(default_factory=RunningMean)
    top1: RunningMean = field(default_factory=RunningMean)
    doubt: RunningMean = field(default_factory=RunningMean)
    equal: RunningMean = field(default_factory=RunningMean)
    signal: float = 0.0
    noise: float = 0.0
    max_abs_error: float = 0.0
    lost_samples: int = 0

    def add(self, original: Array, compressed: Array, samples: int) -> None:
        """Compare one batch.

        Args:
            original: the float model's output, any shape.
            compressed: the compressed model's.
            samples: how many samples the batch has.
        """
        by_sample = original.ndim > 0 and original.shape[0] == samples
        comparable = original.shape == compressed.shape
        axis = class_axis(self.signature, original) if original.size else None
        is_float = is_float_dtype(original.dtype)
        for index in range(samples if by_sample else 1):
            first = original[index : index + 1] if by_sample else original
            second = (compressed[index : index + 1] if by_sample else compressed) if comparable else None
            if is_float:
                self._add_float(first, second, axis)
            else:
                self._add_exact(first, second)

    def _add_exact(self, original: Array, compressed: Array | None) -> None:
        if compressed is None:
            self.lost_samples += 1
            self.equal.add(0.0)
            return
        same = original == compressed
        self.equal.add(float(np.mean(same)) if same.size else 1.0)
        if original.dtype.kind in "iu" and not np.all(same):
            error = np.abs(original.astype(np.float64) - compressed.astype(np.float64))
            self.max_abs_error = max(self.max_abs_error, float(error.max()))

    def _add_float(self, original: Array, compressed: Array | None, axis: int | None) -> None:
        first = original.astype(np.float64)
        known = np.isfinite(first)
        truth = np.where(known, first, 0.0)
        power = float(np.sum(truth * truth))
        self.signal += power
        if axis is not None and self.doubt.count < DECIDED_ON:
            self.doubt.add(doubt(truth, axis))
        if compressed is None or not np.all(np.isfinite(compressed.astype(np.float64)) | ~known):
            self.lost_samples += 1
            self.noise += power
            self.cosine_loss.add(1.0)
            if axis is not None:
                self.top1.add(0.0)
            return
        second = compressed.astype(np.float64)
        found = np.where(known, second, 0.0)
        difference = truth - found
        self.noise += float(np.sum(difference * difference))
        self.max_abs_error = max(self.max_abs_error, float(np.max(np.abs(difference), initial=0.0)))
        self.cosine_loss.add(1.0 - cosine(truth, found))
        if axis is not None:
            self.top1.add(float(np.mean(np.argmax(first, axis) == np.argmax(second, axis))))

    def result(self) -> OutputAgreement:
        """What was found so far."""
        return OutputAgreement(
            name=self.signature.name,
            cosine=complement(self.cosine_loss.interval(0.0, 2.0)) if self.cosine_loss.count else None,
            sqnr_db=sqnr_db(self.signal, self.noise),
            max_abs_error=self.max_abs_error,
            top1=_share(self.top1) if self.doubt.mean <= DECIDED else None,
            equal=_share(self.equal),
            lost_samples=self.lost_samples,
        )


def cosine(first: Array, second: Array) -> float:
    """Cosine of the angle between two arrays of one shape, 1 if they are equal, 0 if only one of them is zero."""
    if np.array_equal(first, second):
        return 1.0
    scale = math.sqrt(float(np.sum(first * first))) * math.sqrt(float(np.sum(second * second)))
    return min(1.0, max(-1.0, float(np.sum(first * second)) / scale)) if scale > 0.0 else 0.0


def sqnr_db(signal: float, noise: float) -> float | None:
    """Signal to quantization noise in dB, 10 log10(sum y^2 / sum (y - y')^2); None without noise.

    A signal of zero with noise has no finite value; the smallest double stands for it.
    """
    if noise == 0.0:
        return None
    return 10.0 * math.log10(max(signal, np.finfo(np.float64).tiny) / noise)


def complement(share: Interval) -> Interval:
    """1 - share."""
    low = None if share.high is None else 1.0 - share.high
    high = None if share.low is None else 1.0 - share.low
    return Interval(1.0 - share.value, low, high)


def is_float_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether values of a type are real numbers; bfloat16 and the 8-bit floats are not numpy's own."""
    return dtype.kind == "f" or "float" in dtype.name


def class_axis(signature: TensorSignature, output: Array) -> int | None:
    """The axis along which the largest element may be an answer, or None for outputs that cannot be class scores.

    Case 1: (samples, classes): the last axis.
    Case 2: (samples, positions, classes): the last axis, if it is fixed and the positions are free.
    Case 3: (samples, classes, height, width) and beyond: the second, if the positions are all fixed or all free (in a
        cache of keys only the time is free).

    One score per sample or position, a name that says otherwise and anything that is not float is not class scores.
    """
    if not is_float_dtype(output.dtype) or output.ndim < 2 or NOT_SCORES.search(signature.name):
        return None
    shape = signature.shape if signature.shape is not None and len(signature.shape) == output.ndim else output.shape
    fixed = [isinstance(size, int) for size in shape]
    axis = 1 if output.ndim >= 4 else output.ndim - 1
    if output.shape[axis] < 2:
        return None
    if output.ndim == 2:
        return axis
    if output.ndim == 3:
        return axis if fixed[2] and not fixed[1] else None
    return axis if fixed[1] and len(set(fixed[2:])) == 1 else None


def doubt(scores: Array, axis: int) -> float:
    """How undecided rows of scores are: the mean entropy of their softmax over its maximum log(classes), 0 to 1.

    Rows that are probabilities already are known to be class scores and count as decided.

    Args:
        scores: any shape, finite.
        axis: of the classes, at least 2.
    """
    if not scores.size:
        return 0.0
    if scores.min() >= 0.0 and np.allclose(scores.sum(axis), 1.0, atol=1e-2):
        return 0.0
    shifted = scores - scores.max(axis, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis)
    entropy = np.log(total) - np.sum(weights * shifted, axis) / total  # -sum p log p with p = weights / total
    return float(np.mean(entropy)) / math.log(scores.shape[axis])


def _share(mean: RunningMean) -> Interval | None:
    """A mean of shares with Wilson's interval: a value between 0 and 1 varies no more than a yes or no, so it is safe."""
    return wilson_interval(mean.mean * mean.count, mean.count) if mean.count else None
