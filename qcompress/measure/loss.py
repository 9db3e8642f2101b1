"""The loss of a compressed model: one number from 0, the same outputs as float, to 1, nothing left of them.

Class scores are compared as distributions: 1 - exp(-KL(p || q) / 2) at each position, where p and q are the softmax of the float
and of the compressed model's scores, is 0 for the same answer and the same confidence. Half the divergence, since that is of
second order in the scores' error as 1 - cosine is (half the share of energy that is error): at 0.0083 an image classifier lost
no accuracy on its labels, at 0.0037 the perplexity of a language model rose by 0.2 %. Of other
float outputs the angle is taken: 1 - cosine of each sample. Of integer outputs it is the share of elements that differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import numpy as np

from qcompress.measure.agreement import DECIDED, DECIDED_ON, class_axis, cosine, doubt, is_float_dtype
from qcompress.types import Array, TensorSignature

LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
"""Probabilities below float32's resolution beside 1 are taken for it: an 8-bit softmax writes zeros, and log(0) would make one
class in a thousand decide."""

CHUNK = 1 << 20
"""Elements of scores worked on at a time: the scores of a language model's vocabulary take as much memory as its weights."""


class Likeness(StrEnum):
    """How an output is compared."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    ANGLE = "angle"
    EQUALITY = "equality"


@dataclass(frozen=True, slots=True)
class Yardstick:
    """How one output is compared; ``axis``: of the classes, where there are any."""

    likeness: Likeness
    axis: int = -1


def yardstick(signature: TensorSignature, outputs: Iterable[Array], is_state: bool = False) -> Yardstick:
    """How to compare an output, by its signature and what the float model gave on a few batches.

    Args:
        signature: of the float model's output.
        outputs: the float model's outputs, any number of batches; at most 32 are looked at.
        is_state: known to be the state of a recurrent operator, however decided its softmax looks.
    """
    doubts: list[float] = []
    axis, ready = None, True
    for output in islice(outputs, DECIDED_ON):
        if not is_float_dtype(output.dtype):
            return Yardstick(Likeness.EQUALITY)
        axis = class_axis(signature, output) if output.size and not is_state else None
        if axis is None:
            return Yardstick(Likeness.ANGLE)
        scores = output.astype(np.float32, copy=False)
        scores = np.where(np.isfinite(scores), scores, 0.0)
        ready &= _are_probabilities(scores, axis)
        doubts.append(doubt(scores, axis))
    if axis is None or np.mean(doubts) > DECIDED:
        return Yardstick(Likeness.ANGLE)
    return Yardstick(Likeness.PROBABILITIES if ready else Likeness.LOGITS, axis)


@dataclass(slots=True)
class OutputLoss:
    """Takes in one output of both models batch by batch; ``mean`` is its loss, over positions or samples."""

    yardstick: Yardstick
    _total: float = 0.0
    _count: int = 0

    @property
    def mean(self) -> float:
        """The loss so far, 0 to 1; 0 when nothing was compared."""
        return self._total / max(self._count, 1)

    def add(self, original: Array, compressed: Array, samples: int) -> None:
        """Compare one batch. NaN, infinity and another shape, where the float model's differ, count as 1.

        Args:
            original: the float model's output, any shape.
            compressed: the compressed model's.
            samples: how many samples the batch has.
        """
        found = losses(self.yardstick, original, compressed, samples)
        self._total += float(found.sum())
        self._count += found.size


def losses(how: Yardstick, original: Array, compressed: Array, samples: int) -> Array:
    """The loss of each position of class scores, else of each sample, (positions or samples,), float64, 0 to 1.

    Args:
        how: from ``yardstick``.
        original: the float model's output, any shape.
        compressed: the compressed model's.
        samples: how many samples the batch has; they are told apart where the first axis has as many indices.
    """
    if not original.size and original.shape == compressed.shape:
        return np.zeros(0, np.float64)
    if original.shape != compressed.shape:
        return np.ones(1)
    if how.likeness in (Likeness.LOGITS, Likeness.PROBABILITIES):
        return _divergences(how, original, compressed)
    by_sample = original.ndim > 0 and original.shape[0] == samples
    rows = (samples, -1) if by_sample else (1, -1)
    compare = _inequality if how.likeness is Likeness.EQUALITY else _angle
    return np.array([compare(*pair) for pair in zip(original.reshape(rows), compressed.reshape(rows), strict=True)])


def _inequality(original: Array, compressed: Array) -> float:
    return float(np.mean(original != compressed))


def _angle(original: Array, compressed: Array) -> float:
    """1 - cosine, at most 1, where the float model's elements are finite."""
    first, second = original.astype(np.float64), compressed.astype(np.float64)
    known = np.isfinite(first)
    if not np.all(np.isfinite(second) | ~known):
        return 1.0
    return min(1.0, 1.0 - cosine(np.where(known, first, 0.0), np.where(known, second, 0.0)))


def _divergences(how: Yardstick, original: Array, compressed: Array) -> Array:
    classes = original.shape[how.axis]
    first, second = (np.moveaxis(array, how.axis, -1).reshape(-1, classes) for array in (original, compressed))
    step = max(1, CHUNK // classes)
    divergence = _from_probabilities if how.likeness is Likeness.PROBABILITIES else _from_logits
    found = [divergence(first[at : at + step], second[at : at + step]) for at in range(0, len(first), step)]
    return np.asarray(
        1.0 - np.exp(-0.5 * np.maximum(np.concatenate(found), 0.0))
    )  # rounding can make a divergence slightly negative


def _from_logits(original: Array, compressed: Array) -> Array:
    """KL(softmax(x) || softmax(y)) = sum p ((x - y) - (log sum exp x - log sum exp y)) of each row, (rows,).

    Classes whose float score is not finite (masked ones) are left out; a row with others that are not is infinitely far.
    """
    x, y = original.astype(np.float32, copy=False), compressed.astype(np.float32, copy=False)
    known = np.isfinite(x)
    lost = ~np.all(np.isfinite(y) | ~known, axis=1)
    if not known.all() or lost.any():
        x, y = np.where(known, x, np.float32(-np.inf)), np.where(known & ~lost[:, None], y, np.float32(-np.inf))
    norm_x, norm_y = _log_sum_exp(x), _log_sum_exp(y)
    with np.errstate(invalid="ignore", over="ignore"):
        p = np.exp(x - norm_x.astype(np.float32)[:, None])
        terms = (x - y) - (norm_x - norm_y).astype(np.float32)[:, None]  # a small difference, taken before it is rounded
    divergence = np.einsum("rc,rc->r", p, np.where(p > 0.0, terms, np.float32(0.0)), dtype=np.float64)
    return np.where(lost, np.inf, divergence)


def _log_sum_exp(scores: Array) -> Array:
    """Of each row, (rows,), float64; 0 for rows without a finite score."""
    top = scores.max(axis=1)
    top = np.where(np.isfinite(top), top, np.float32(0.0))
    total = np.exp(scores - top[:, None]).sum(axis=1)  # numpy sums pairwise: float32 is exact enough
    logarithm = np.log(np.maximum(total, LEAST_PROBABILITY).astype(np.float64))
    return np.asarray(np.where(total > 0.0, top.astype(np.float64) + logarithm, 0.0))


def _from_probabilities(original: Array, compressed: Array) -> Array:
    """KL(p || q) of each row, (rows,); both are made at least ``LEAST_PROBABILITY`` and to sum to one."""
    lost = ~np.all(np.isfinite(compressed) | ~np.isfinite(original), axis=1)
    p, q = (_as_distribution(rows) for rows in (original, compressed))
    return np.where(lost, np.inf, np.sum(p * (np.log(p) - np.log(q)), axis=1))


def _as_distribution(rows: Array) -> Array:
    floored = np.maximum(np.nan_to_num(rows.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0), LEAST_PROBABILITY)
    return np.asarray(floored / floored.sum(axis=1, keepdims=True))


def _are_probabilities(scores: Array, axis: int) -> bool:
    """Whether rows sum to one already, as ``doubt`` sees it."""
    return bool(scores.min() >= 0.0 and np.allclose(scores.sum(axis), 1.0, atol=1e-2))
