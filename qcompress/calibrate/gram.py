"""Gram matrices of what layers multiply their weights with, from evenly sub-sampled rows, added up in float64.

A layer computes each of its numbers as a product of its weight with one row: the vector in front of a matrix, or the patch
under a kernel. E[row rowT] says what an error in the weight costs:

    E[|row (W - V)|^2] = trace((W - V)T E[row rowT] (W - V))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcompress.errors import CalibrationError
from qcompress.graph import Node
from qcompress.graph.edit import int_attribute, ints_attribute, string_attribute
from qcompress.quantize import Gram
from qcompress.quantize.align import Beside, Drift
from qcompress.quantize.evidence import Means
from qcompress.types import Array

ROWS_PER_COLUMN = 8
"""Rows to fit on for each column, within the two bounds below: from fewer than about four, noise is fitted as well."""

LEAST_ROWS = 2048

MOST_ROWS = 16384

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Multiples of it modulo 1 never fall into step with anything: where samples start to be read from."""

BLOCK_BYTES = 1 << 24
"""Rows are gathered up to so many bytes before they are multiplied."""


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel walks over the spatial axes; ``kernel``: its size along each of them.

    ``pads``: as ONNX has them, all beginnings and then all ends. Empty tuples mean what they mean in ONNX: steps of one and
    no padding.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"

    def placed(self, size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Padding in front of an input of spatial ``size``, and the size of the output.

        Source: ONNX operator Conv, attributes auto_pad and pads.
        """
        rank = len(self.kernel)
        strides, dilations = self.strides or (1,) * rank, self.dilations or (1,) * rank
        pads = self.pads if self.auto_pad == "NOTSET" and self.pads else (0,) * (2 * rank)
        begins, outputs = [], []
        for axis, (length, kernel, stride, dilation) in enumerate(zip(size, self.kernel, strides, dilations, strict=True)):
            reach = (kernel - 1) * dilation + 1
            if self.auto_pad.startswith("SAME"):
                output = -(-length // stride)
                total = max((output - 1) * stride + reach - length, 0)
                begin = total // 2 if self.auto_pad == "SAME_UPPER" else -(-total // 2)
            else:
                begin = pads[axis]
                output = max((length + begin + pads[rank + axis] - reach) // stride + 1, 0)
            begins.append(begin)
            outputs.append(output)
        return tuple(begins), tuple(outputs)


class Rows(Protocol):
    """What of a layer's input its weight is multiplied with."""

    @property
    def groups(self) -> int:
        """How many sets of columns there are, each with outputs of its own."""

    @property
    def columns(self) -> int:
        """How many numbers of a row an output is summed over."""

    def count(self, x: Array) -> int:
        """How many rows an input has."""

    def take(self, x: Array, chosen: Array) -> Array:
        """The rows of the given numbers; (groups, rows, columns)."""

    def outputs(self, x: Array, y: Array, chosen: Array) -> Array | None:
        """What the rows of the given numbers become in an output ``y`` of the input; (groups, rows, outputs).

        None where ``y`` has not the places that the outputs of ``x`` have.
        """


@dataclass(frozen=True, slots=True)
class VectorRows:
    """The vectors along the last axis of a MatMul's or Gemm's input."""

    columns: int
    groups: int = 1

    def count(self, x: Array) -> int:
        """All positions of the other axes."""
        return x.size // self.columns

    def take(self, x: Array, chosen: Array) -> Array:
        """(1, rows, columns)."""
        rows: Array = x.reshape(-1, self.columns)[chosen][np.newaxis]
        return rows

    def outputs(self, x: Array, y: Array, chosen: Array) -> Array | None:
        """(1, rows, outputs)."""
        if y.shape[:-1] != x.shape[:-1]:
            return None
        rows: Array = y.reshape(-1, y.shape[-1])[chosen][np.newaxis]
        return rows


@dataclass(frozen=True, slots=True)
class PixelRows:
    """The channels at each position of an input (N, channels, ...): what every tap of a ConvTranspose is multiplied with."""

    groups: int
    columns: int

    def count(self, x: Array) -> int:
        """Positions of all samples."""
        return x.size // (self.groups * self.columns)

    def take(self, x: Array, chosen: Array) -> Array:
        """(groups, rows, channels / group)."""
        return im2col_rows(x, Window((1,) * (x.ndim - 2)), self.groups, chosen)

    def outputs(self, x: Array, y: Array, chosen: Array) -> Array | None:
        """None: a row has a part in several places of the output."""
        return None


@dataclass(frozen=True, slots=True)
class PatchRows:
    """The patches of an input (N, channels, ...) that a Conv's kernel covers, padding included."""

    window: Window
    groups: int
    columns: int

    def count(self, x: Array) -> int:
        """Output positions of all samples."""
        return int(x.shape[0] * math.prod(self.window.placed(x.shape[2:])[1]))

    def take(self, x: Array, chosen: Array) -> Array:
        """(groups, rows, channels / group * taps)."""
        return im2col_rows(x, self.window, self.groups, chosen)

    def outputs(self, x: Array, y: Array, chosen: Array) -> Array | None:
        """(groups, rows, channels of the output / group)."""
        places = (x.shape[0], *self.window.placed(x.shape[2:])[1])
        if (y.shape[0], *y.shape[2:]) != places or y.shape[1] % self.groups:
            return None
        return im2col_rows(y, Window((1,) * (y.ndim - 2)), self.groups, chosen)


def rows_of(node: Node, shape: Sequence[int], transposed: bool = False) -> Rows | None:
    """How a node reads rows from its first input, None for an operator, or a transposition, for which that is not known.

    Args:
        node: MatMul, Gemm, Conv or ConvTranspose with the weight as second input.
        shape: of the weight as stored.
        transposed: whether the weight comes through a Transpose.
    """
    groups = int_attribute(node, "group", 1)
    if node.op_type == "Conv" and len(shape) > 2:
        kernel = tuple(shape[2:])
        strides, pads, dilations = (ints_attribute(node, name) for name in ("strides", "pads", "dilations"))
        window = Window(kernel, strides, pads, dilations, string_attribute(node, "auto_pad", "NOTSET"))
        return PatchRows(window, groups, shape[1] * math.prod(kernel))
    if node.op_type == "ConvTranspose" and len(shape) > 2 and shape[0] % groups == 0:
        return PixelRows(groups, shape[0] // groups)
    if node.op_type in ("MatMul", "Gemm") and len(shape) == 2:
        swapped = transposed != bool(int_attribute(node, "transB", 0))
        return None if int_attribute(node, "transA", 0) else VectorRows(shape[1 if swapped else 0])
    return None


def im2col_rows(x: Array, window: Window, groups: int, positions: Array) -> Array:
    """The patches under a kernel at some output positions; nothing but them is ever laid out.

    Args:
        x: (N, channels, *spatial).
        window: the kernel and how it walks.
        groups: of the convolution; channels of a group are consecutive.
        positions: (rows,), indices into the output positions (N, *output) in C order.

    Returns:
        (groups, rows, channels / groups * taps) of the type of ``x``; columns in the order of a Conv's weight
        (channels / groups, *kernel). Padding is 0.
    """
    size = x.shape[2:]
    rank, taps = len(window.kernel), math.prod(window.kernel)
    strides, dilations = window.strides or (1,) * rank, window.dilations or (1,) * rank
    begins, outputs = window.placed(size)
    sample, *corners = np.unravel_index(positions, (x.shape[0], *outputs))
    steps = np.indices(window.kernel).reshape(rank, taps)
    flat = np.zeros((len(positions), taps), dtype=np.intp)
    inside = np.ones((len(positions), taps), dtype=bool)
    for axis in range(rank):  # (rows, 1) + (1, taps) -> where along this axis each tap of each patch lies
        place = (corners[axis] * strides[axis] - begins[axis])[:, np.newaxis] + steps[axis] * dilations[axis]
        inside &= (place >= 0) & (place < size[axis])
        flat = flat * size[axis] + np.clip(place, 0, size[axis] - 1)
    pixels = x.reshape(x.shape[0], x.shape[1], -1)
    patches = pixels[sample[:, np.newaxis], :, flat]  # (rows, taps, channels)
    patches *= inside[:, :, np.newaxis]
    per_group = x.shape[1] // groups
    return patches.reshape(-1, taps, groups, per_group).transpose(2, 0, 3, 1).reshape(groups, -1, per_group * taps)


def spaced(total: int, count: int, phase: float) -> Array:
    """At most ``count`` ascending indices below ``total``, evenly spaced from a start that ``phase`` (0 to 1) moves."""
    if count >= total:
        return np.arange(total)
    return np.asarray(np.floor((np.arange(count) + phase) * (total / count)), dtype=np.intp).clip(0, total - 1)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which rows are taken: ``samples`` in all, of which about the share ``held_out`` is kept for choosing.

    Whole samples are held out, evenly spread, because rows of one sample are alike. ``rows``: to fit on, at most; 0 takes as
    many as the columns ask for.
    """

    samples: int
    held_out: float = 0.25
    rows: int = 0

    def per_sample(self, columns: int) -> int:
        """How many rows each sample gives."""
        rows = self.rows or min(max(ROWS_PER_COLUMN * columns, LEAST_ROWS), MOST_ROWS)
        fitting = self.samples - sum(self.is_held(sample) for sample in range(self.samples))
        return -(-rows // max(fitting, 1))

    def is_held(self, sample: int) -> bool:
        """Whether a sample is held out: the last of each run of 1 / ``held_out``; the last of all in case of fewer."""
        if self.held_out <= 0.0 or self.samples < 2:
            return False
        period = min(max(round(1.0 / self.held_out), 2), self.samples)
        return sample % period == period - 1


class GramAccumulator:
    """Adds up the second moments of one layer's rows, apart for samples to fit on and for samples held out."""

    def __init__(self, rows: Rows, sampling: Sampling) -> None:
        self._sampling = sampling
        self._per_sample = sampling.per_sample(rows.columns)
        self._fit, self._held = _Moment(), _Moment()
        self._fit_drift, self._held_drift = _Moment(), _Moment()
        self._fit_beside, self._held_beside = _Moment(), _Moment()

    def add(
        self, x: Array, rows: Rows, place: Place, exact: Array | None = None, beside: tuple[Array, Array] | None = None
    ) -> None:
        """Take rows from one input.

        Args:
            x: a layer's input in one feed. If its first axis can be cut into as many equal parts as the feed has samples these
                are the samples, else all of it counts as the first one.
            rows: how this use of the weight reads it; groups and columns are those of all uses.
            place: which samples the feed has.
            exact: what the input should be, if that is known; given with every input or with none.
            beside: what is added to the output, as it should be and as it is; given with every input or with none.
        """
        parts = place.samples if x.shape[0] % place.samples == 0 else 1
        size = x.shape[0] // parts
        for part in range(parts):
            sample = place.first + part
            piece = slice(part * size, (part + 1) * size)
            wanted = self._per_sample * (place.samples // parts)
            chosen = spaced(rows.count(x[piece]), wanted, (sample * GOLDEN) % 1.0)
            if not len(chosen):
                continue
            held = self._sampling.is_held(sample)
            taken = rows.take(x[piece], chosen)
            (self._held if held else self._fit).add(taken, taken)
            if exact is not None:
                missing = rows.take(exact[piece], chosen) - taken
                (self._held_drift if held else self._fit_drift).add(taken, missing)
            if beside is not None and beside[0].shape == beside[1].shape and beside[0].shape[:1] == x.shape[:1]:
                lacking = rows.outputs(x[piece], beside[0][piece] - beside[1][piece], chosen)
                if lacking is not None:
                    (self._held_beside if held else self._fit_beside).add(taken, lacking)

    def gram(self, tensor: str) -> Gram | None:
        """The Gram matrices, None when there was no row to fit on.

        Args:
            tensor: name of the layer's input, for the error.

        Raises:
            CalibrationError: NaN or infinity in the rows.
        """
        fit, held = self._fit.mean(), self._held.mean()
        for found in (fit, held):
            if found is not None and not np.isfinite(found).all():
                raise CalibrationError(
                    f"tensor {tensor!r} has NaN or infinite values", "look for the sample that causes them"
                )
        means = None if fit is None else Means(self._fit.middle, None if held is None else self._held.middle)
        return None if fit is None else Gram(fit, held, self._fit.rows, self._held.rows, means)

    def drift(self) -> Drift | None:
        """How far the inputs are from what they should be, None where that is not known of any, or of no held-out sample."""
        fit, held = self._fit_drift.mean(), self._held_drift.mean()
        if fit is None or held is None:
            return None
        beside, beside_held = self._fit_beside.mean(), self._held_beside.mean()
        lacking = None
        if beside is not None and beside_held is not None:
            lacking = Beside(beside, beside_held, Means(self._fit_beside.middle, self._held_beside.middle))
        return Drift(fit, held, Means(self._fit_drift.middle, self._held_drift.middle), lacking)


@dataclass(frozen=True, slots=True)
class Place:
    """The samples of a feed: number of the first among all, and how many."""

    first: int
    samples: int


class _Moment:
    """The mean of left rightT over rows, (groups, left columns, right columns), and that of right, (groups, right columns).

    Blocks of rows are multiplied and added in float64.
    """

    def __init__(self) -> None:
        self._sum: Array | None = None
        self._right_sum: Array = np.zeros(())
        self._blocks: list[tuple[Array, Array]] = []
        self._waiting = 0
        self.rows = 0

    def add(self, left: Array, right: Array) -> None:
        self._blocks.append((np.asarray(left, dtype=np.float32), np.asarray(right, dtype=np.float32)))
        self._waiting += left.nbytes
        self.rows += left.shape[1]
        if self._waiting >= BLOCK_BYTES:
            self._multiply()

    def mean(self) -> Array | None:
        self._multiply()
        return None if self._sum is None else self._sum / self.rows

    @property
    def middle(self) -> Array:
        """(groups, columns), once ``mean`` was asked for."""
        return np.asarray(self._right_sum / max(self.rows, 1))

    def _multiply(self) -> None:
        if not self._blocks:
            return
        left = np.concatenate([block[0] for block in self._blocks], axis=1).astype(np.float64)
        same = all(block[0] is block[1] for block in self._blocks)
        right = left if same else np.concatenate([block[1] for block in self._blocks], axis=1).astype(np.float64)
        added = np.matmul(left.transpose(0, 2, 1), right)
        self._sum = added if self._sum is None else self._sum + added
        self._right_sum = self._right_sum + right.sum(axis=1)
        self._blocks, self._waiting = [], 0
