"""Observers: nodes added to a model that boil a tensor down to a few thousand numbers inside the runtime.

    range of t     t -> float32 -> flat -> min, max, sum, every k-th value
    moments of t   t -> float32 -> [.., channels, ..] -> E[x^2] of each channel over every k-th position

What makes observing dear is every pass over a whole tensor (an activation is read from memory about as fast as it was
computed), and then the number of nodes (2 microseconds each in a run, 0.1 milliseconds at load). So the minimum is left
out where values are never negative, and the sum, which is there for the NaN that minimum and maximum of onnxruntime pass
over, where NaN would have been seen in another tensor; the two observers share what they can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from qcompress.types import Array, NodeSpec

PREFIX = "qcompress.calibrate/"
"""In front of every name that is added to a model."""

SUBSAMPLE = 1024
"""Values of a tensor that leave the runtime per sample when there are many samples."""

LARGEST_SUBSAMPLE = 16384
"""The same when there are few: a tail of one value in 10,000 decides a range, and must be seen."""

VALUES = 1 << 17
"""Values of a tensor that leave the runtime in all, about: so many samples share them."""

MOMENT_VALUES = 32768
"""Values of a tensor and sample that second moments are made of, at most."""

LARGEST_RATIO = 1 << 18
"""Largest size of a tensor over the number of values wanted of it that the table of steps knows."""

FLOAT = 1  # TensorProto.FLOAT
LAST = int(np.iinfo(np.int32).max)  # an end that Slice moves to the last index


@dataclass
class Observers:
    """Nodes and constants to add to a model, and the outputs to ask for.

    ``opset``: the model's. ``limit``: values of a tensor that leave the runtime per feed, at most. ``moment_factor``:
    second moments are made of so many times as many. ``floats``: tensors that are known to be float32. ``shapes``: of
    tensors in the first feed, where they are known; ``strides``: of the pixel grids that were laid over feature maps.

    Feature maps (samples, channels, height, width) lie in a blocked layout between convolutions. Pooling operators read it as
    it is; any other would have the runtime turn the whole map first, which costs more than observing it.
    """

    opset: int
    limit: int = SUBSAMPLE
    floats: Set[str] = frozenset()
    moment_factor: int = MOMENT_VALUES // SUBSAMPLE
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    strides: dict[str, int] = field(default_factory=dict)
    nodes: list[NodeSpec] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def node(self, op_type: str, inputs: tuple[str, ...], output: str, **attributes: int | tuple[int, ...]) -> str:
        """Add a node of one output and return the output's name."""
        name = PREFIX + output
        self.nodes.append(NodeSpec(op_type, inputs, (name,), attributes, name))
        self.names.add(name)
        return name

    def constant(self, name: str, values: Array) -> str:
        """Add a constant unless it is there and return its name."""
        self.constants.setdefault(PREFIX + name, values)
        return PREFIX + name

    def integers(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.constant("int/" + ",".join(map(str, values)), np.array(values, np.int64))

    def as_float(self, tensor: str) -> str:
        """The tensor in float32."""
        if tensor in self.floats:
            return tensor
        name = f"{tensor}/float"
        return PREFIX + name if PREFIX + name in self.names else self.node("Cast", (tensor,), name, to=FLOAT)

    def shape(self, tensor: str) -> None:
        """Ask for the tensor's shape; of a map for that of its grid, from which ``true_shape`` tells it."""
        source = self._grid(tensor) if self.is_map(tensor) else tensor
        self.outputs.append(self.node("Shape", (source,), f"{tensor}/shape"))

    def reduced(self, tensor: str, kind: str) -> None:
        """Ask for the ``min``, ``max`` or ``sum`` of all values."""
        source = self.as_float(tensor)
        if kind == "max" and self.is_map(tensor):
            source = self.node("GlobalMaxPool", (source,), f"{tensor}/peaks")
        self.outputs.append(self.node(f"Reduce{kind.title()}", (source,), f"{tensor}/{kind}", keepdims=0))

    def sample(self, tensor: str) -> None:
        """Ask for a sub-sample of the values."""
        source = self.as_float(tensor)
        if self.is_map(tensor):
            grid = self._grid(tensor)
            size = math.prod(self.shapes[tensor]) // self.strides[tensor] ** 2
            coarse = self._pick(grid, _odd_stride(size, self.limit), f"{tensor}/coarse")
            self.outputs.append(self.node("Reshape", (coarse, self.integers(-1)), f"{tensor}/sample"))
            return
        flat = self.node("Reshape", (source, self.integers(-1)), f"{tensor}/flat")
        self.outputs.append(self._subsample(flat, tensor))

    def second_moments(self, tensor: str, axis: int) -> None:
        """Ask for E[x^2] of each index of ``axis``."""
        if self.is_map(tensor) and axis == 1:
            grid = self._grid(tensor)
            squares = self.node("Mul", (grid, grid), f"{tensor}/squares")
            pooled = self.node("GlobalAveragePool", (squares,), f"{tensor}/pooled")
            self.outputs.append(self._mean(pooled, (0, 2, 3), f"{tensor}/second_moment"))
            return
        grouped, axes = self._grouped(tensor, axis)
        some = self._strided(grouped, max(axis + 1, 0), tensor, self.moment_factor)
        squares = self.node("Mul", (some, some), f"{tensor}/squares")
        self.outputs.append(self._mean(squares, axes, f"{tensor}/second_moment"))

    def channels(self, tensor: str, axis: int) -> None:
        """Ask for the extremes of each index of ``axis`` and for some whole positions; see ``channel_names``."""
        grouped, axes = self._grouped(tensor, axis)
        low, high, _ = (name.removeprefix(PREFIX) for name in self.channel_names(tensor))
        self.outputs += [self._reduced_channels("ReduceMin", grouped, axes, low)]
        self.outputs += [self._reduced_channels("ReduceMax", grouped, axes, high)]
        some = self._strided(grouped, axis + 1 if axis >= 0 else 0, tensor, 1)
        self.outputs.append(self.node("Identity", (some,), f"{tensor}/positions"))

    def channel_names(self, tensor: str) -> tuple[str, str, str]:
        """The outputs with the least and largest value of each channel, and with positions."""
        return (f"{PREFIX}{tensor}/low", f"{PREFIX}{tensor}/high", f"{PREFIX}{tensor}/positions")

    def _reduced_channels(self, op_type: str, source: str, axes: tuple[int, ...], output: str) -> str:
        """ReduceMin or ReduceMax, whose axes became an input in opset 18."""
        if self.opset >= 18:
            return self.node(op_type, (source, self.integers(*axes)), output, keepdims=0)
        return self.node(op_type, (source,), output, axes=axes, keepdims=0)

    def is_map(self, tensor: str) -> bool:
        """Whether the tensor is a feature map of more than one pixel."""
        shape = self.shapes.get(tensor, ())
        return self.opset >= 10 and len(shape) == 4 and shape[2] * shape[3] > 1 and 0 not in shape

    def true_shape(self, tensor: str, found: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor from the shape that was asked for, which for a map is that of its grid."""
        stride = self.strides.get(tensor)
        if stride is None:
            return found
        known = self.shapes[tensor]
        if found == (*known[:2], *(-(-dim // stride) for dim in known[2:])):
            return known
        return (*found[:2], found[2] * stride, found[3] * stride)  # a feed of another size, up to a stride

    def _grid(self, tensor: str) -> str:
        """Every k-th pixel of a map in both directions, with all channels, about ``moment_factor * limit`` values."""
        name = f"{tensor}/grid"
        if PREFIX + name in self.names:
            return PREFIX + name
        self.strides[tensor] = _odd_stride(math.prod(self.shapes[tensor]), self.moment_factor * self.limit)
        return self._pick(self.as_float(tensor), self.strides[tensor], name)

    def _pick(self, source: str, stride: int, output: str) -> str:
        """Every ``stride``-th pixel: the average over windows of one pixel."""
        return self.node("AveragePool", (source,), output, kernel_shape=(1, 1), strides=(stride, stride))

    def means(self, tensor: str, axis: int) -> None:
        """Ask for the mean of each index of ``axis``."""
        self.outputs.append(self._mean(*self._grouped(tensor, axis), f"{tensor}/mean"))

    def _mean(self, tensor: str, axes: tuple[int, ...], output: str) -> str:
        """ReduceMean, whose axes became an input in opset 18."""
        if self.opset >= 18:
            return self.node("ReduceMean", (tensor, self.integers(*axes)), output, keepdims=0)
        return self.node("ReduceMean", (tensor,), output, axes=axes, keepdims=0)

    def _grouped(self, tensor: str, axis: int) -> tuple[str, tuple[int, ...]]:
        """A view of known rank and its axes other than ``axis``.

        [d0, .., d(axis), rest] counted from the front, [rest, d(axis), .., d(-1)] counted from the back.
        """
        axes = (*range(axis), axis + 1) if axis >= 0 else (0, *range(2, 1 - axis))
        name = f"{tensor}/grouped"
        if PREFIX + name in self.names:
            return PREFIX + name, axes
        source = self.as_float(tensor)
        if axis >= 0:
            return self.node("Reshape", (source, self.integers(*[0] * (axis + 1), -1)), name), axes
        if axis == -1 and self.opset >= 11:
            return self.node("Flatten", (source,), name, axis=-1), axes
        shape = self.node("Shape", (source,), f"{tensor}/dims")
        end = self._slice_end(shape, axis, f"{tensor}/last_dims")
        target = self.node("Concat", (self.integers(-1), end), f"{tensor}/grouping", axis=0)
        return self.node("Reshape", (source, target), name), axes

    def _slice_end(self, tensor: str, start: int, output: str) -> str:
        """``tensor[start:]`` of a vector; the bounds became inputs in opset 10."""
        if self.opset >= 10:
            return self.node("Slice", (tensor, self.integers(start), self.integers(LAST)), output)
        return self.node("Slice", (tensor,), output, starts=(start,), ends=(LAST,))

    def _subsample(self, flat: str, tensor: str) -> str:
        """At most ``limit`` values of a flat tensor, all of them where there are no more."""
        if self.opset >= 10:
            return self._strided(flat, 0, tensor, 1)
        # Slice has no step before opset 10: gather value i * size / limit; the values of small tensors are repeated.
        size = self.node("Size", (flat,), f"{tensor}/size")
        product = self.node("Mul", (self.constant("ramp", np.arange(self.limit)), size), f"{tensor}/product")
        indices = self.node("Div", (product, self.integers(self.limit)), f"{tensor}/indices")
        return self.node("Gather", (flat, indices), f"{tensor}/sample", axis=0)

    def _strided(self, view: str, axis: int, tensor: str, factor: int) -> str:
        """Every k-th index of ``axis`` of a view of ``tensor``, so that about ``factor * limit`` values are left.

        The step follows the size at run time, so feeds may differ in shape.
        """
        if self.opset < 10:
            return view
        ratio = PREFIX + f"{tensor}/ratio"
        if ratio not in self.names:
            size = self.node("Size", (view,), f"{tensor}/size")
            ratio = self.node("Div", (size, self.integers(self.limit)), f"{tensor}/ratio")
        if PREFIX + f"steps/{factor}" not in self.constants:
            self.constant(f"steps/{factor}", steps(factor))
        step = self.node("Gather", (PREFIX + f"steps/{factor}", ratio), f"{tensor}/step/{factor}", axis=0)
        bounds = (self.integers(0), self.integers(LAST), self.integers(axis))
        return self.node("Slice", (view, *bounds, step), f"{tensor}/sample" if factor == 1 else f"{tensor}/some")


def steps(factor: int) -> Array:
    """(LARGEST_RATIO,), int64: for each number of times that ``limit`` goes into a size, the step that leaves ``factor`` times.

    1, and then the next prime: it shares no factor with most numbers of columns and channels, so that walking through a
    tensor with it visits all of them. Channels come in multiples of 2, 3 and 5, so a walk that crosses channels (factor 1)
    begins at 7.
    """
    sieve = np.ones(2 * LARGEST_RATIO, bool)
    sieve[: 7 if factor == 1 else 2] = False
    for number in range(2, math.isqrt(sieve.size) + 1):
        sieve[number * number :: number] = False
    primes = np.flatnonzero(sieve)
    ratios = np.arange(LARGEST_RATIO) // factor
    table = np.where(ratios == 0, 1, primes[np.searchsorted(primes, ratios, side="right")])
    return table.astype(np.int64)


def _odd_stride(size: int, wanted: int) -> int:
    """The stride in two directions that leaves about ``wanted`` of ``size`` values; odd, since maps repeat in powers of 2."""
    stride = max(1, math.isqrt(size // max(wanted, 1)))
    return stride if stride % 2 else stride + 1


def values_per_sample(samples: int | None) -> int:
    """How many values of a tensor to take from each sample, when there are so many samples (None: unknown)."""
    return SUBSAMPLE if not samples else min(max(VALUES // samples, SUBSAMPLE), LARGEST_SUBSAMPLE)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model's tensors: those that may be NaN when no other observed one is, and those never negative."""

    may_be_nan: Set[str]
    never_negative: Set[str]


def observe(ranges: Set[str], moments: Mapping[str, int], facts: Facts, observers: Observers) -> None:
    """Add what a run needs, in a fixed order."""
    for tensor in sorted(ranges | moments.keys()):
        observers.shape(tensor)
        if tensor in facts.may_be_nan:
            observers.reduced(tensor, "sum")
        if tensor in ranges:
            observers.reduced(tensor, "max")
            if tensor not in facts.never_negative:
                observers.reduced(tensor, "min")
            observers.sample(tensor)
        if tensor in moments:
            observers.second_moments(tensor, moments[tensor])
