"""Observers: nodes added to a model that boil a tensor down to a few thousand numbers inside the runtime.

    range of t     t -> float32 -> flat -> [min, max, sum, every k-th value]         and the shape of t
    moments of t   t -> float32 -> [.., channels, ..] -> [mean, E[x^2]] of each channel

The sum is there for NaN, which minimum and maximum of onnxruntime pass over and a sum does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcompress.types import Array, NodeSpec

PREFIX = "qcompress.calibrate/"
"""In front of every name that is added to a model."""

SUBSAMPLE = 2048
"""Values of a tensor that leave the runtime per feed, at most."""

MOMENT_VALUES = 1 << 16
"""Values of a tensor that the second moments of a feed are made of, at most; see ``tests/bench/calibration.py``."""

LARGEST_RATIO = 1 << 18
"""Largest tensor over SUBSAMPLE that the table of steps knows: 2 GiB of float32."""

FLOAT = 1  # TensorProto.FLOAT


@dataclass
class Observers:
    """Nodes and constants to add to a model of ``opset``, and the outputs to ask for."""

    opset: int
    nodes: list[NodeSpec] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    floats: dict[str, str] = field(default_factory=dict)

    def node(self, op_type: str, inputs: tuple[str, ...], output: str, **attributes: int | tuple[int, ...]) -> str:
        """Add a node of one output and return the output's name."""
        name = PREFIX + output
        self.nodes.append(NodeSpec(op_type, inputs, (name,), attributes, name))
        return name

    def constant(self, name: str, values: Array) -> str:
        """Add a constant unless it is there and return its name."""
        self.constants.setdefault(PREFIX + name, values)
        return PREFIX + name

    def integers(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.constant("int/" + ",".join(map(str, values)), np.array(values, np.int64))

    def as_float(self, tensor: str) -> str:
        """The tensor in float32; the runtime drops a cast that changes nothing."""
        if tensor not in self.floats:
            self.floats[tensor] = self.node("Cast", (tensor,), f"{tensor}/float", to=FLOAT)
        return self.floats[tensor]

    def shape(self, tensor: str) -> None:
        """Ask for the tensor's shape."""
        self.outputs.append(self.node("Shape", (tensor,), f"{tensor}/shape"))

    def range(self, tensor: str) -> None:
        """Ask for [min, max, sum, sub-sample]."""
        flat = self.node("Reshape", (self.as_float(tensor), self.integers(-1)), f"{tensor}/flat")
        parts = [
            self.node("ReduceMin", (flat,), f"{tensor}/min", keepdims=1),
            self.node("ReduceMax", (flat,), f"{tensor}/max", keepdims=1),
            self.node("ReduceSum", (flat,), f"{tensor}/sum", keepdims=1),
            self._subsample(flat, tensor),
        ]
        self.outputs.append(self.node("Concat", tuple(parts), f"{tensor}/range", axis=0))

    def moments(self, tensor: str, axis: int) -> None:
        """Ask for [mean, E[x^2]] of each index of ``axis``: one vector of twice the channels."""
        grouped = self._grouped(tensor, axis)
        axes, positions = ((*range(axis), axis + 1), axis + 1) if axis >= 0 else ((0, *range(2, 1 - axis)), 0)
        mean = self.mean(grouped, axes, f"{tensor}/mean")
        some = self._strided(grouped, positions, MOMENT_VALUES, f"{tensor}/some")
        squares = self.node("Mul", (some, some), f"{tensor}/squares")
        second = self.mean(squares, axes, f"{tensor}/second")
        self.outputs.append(self.node("Concat", (mean, second), f"{tensor}/moments", axis=0))

    def means(self, tensor: str, axis: int) -> None:
        """Ask for the mean of each index of ``axis``."""
        axes = (*range(axis), axis + 1) if axis >= 0 else (0, *range(2, 1 - axis))
        self.outputs.append(self.mean(self._grouped(tensor, axis), axes, f"{tensor}/mean"))

    def mean(self, tensor: str, axes: tuple[int, ...], output: str) -> str:
        """ReduceMean, whose axes became an input in opset 18."""
        if self.opset >= 18:
            return self.node("ReduceMean", (tensor, self.integers(*axes)), output, keepdims=0)
        return self.node("ReduceMean", (tensor,), output, axes=axes, keepdims=0)

    def _grouped(self, tensor: str, axis: int) -> str:
        """A view of known rank: [d0, .., d(axis), rest] from the front, [rest, d(axis), .., d(-1)] from the back."""
        source = self.as_float(tensor)
        if axis >= 0:
            return self.node("Reshape", (source, self.integers(*[0] * (axis + 1), -1)), f"{tensor}/grouped")
        shape = self.node("Shape", (source,), f"{tensor}/dims")
        end = self._slice_end(shape, axis, f"{tensor}/last_dims")
        target = self.node("Concat", (self.integers(-1), end), f"{tensor}/grouping", axis=0)
        return self.node("Reshape", (source, target), f"{tensor}/grouped")

    def _slice_end(self, tensor: str, start: int, output: str) -> str:
        """``tensor[start:]`` of a vector; the bounds became inputs in opset 10."""
        end = np.iinfo(np.int32).max
        if self.opset >= 10:
            return self.node("Slice", (tensor, self.integers(start), self.integers(end)), output)
        return self.node("Slice", (tensor,), output, starts=(start,), ends=(int(end),))

    def _subsample(self, flat: str, tensor: str) -> str:
        """At most SUBSAMPLE values of a flat tensor, all of them where there are no more."""
        if self.opset >= 10:
            return self._strided(flat, 0, SUBSAMPLE, f"{tensor}/sample")
        # Slice has no step before opset 10: gather value i * size / SUBSAMPLE; small tensors are repeated evenly.
        size = self.node("Size", (flat,), f"{tensor}/size")
        product = self.node("Mul", (self.constant("ramp", np.arange(SUBSAMPLE)), size), f"{tensor}/product")
        indices = self.node("Div", (product, self.integers(SUBSAMPLE)), f"{tensor}/indices")
        return self.node("Gather", (flat, indices), f"{tensor}/sample", axis=0)

    def _strided(self, tensor: str, axis: int, limit: int, output: str) -> str:
        """Every k-th index of ``axis``, with k from the size at run time, so that about ``limit`` values are left."""
        if self.opset < 10:
            return tensor
        size = self.node("Size", (tensor,), f"{output}/size")
        ratio = self.node("Div", (size, self.integers(limit)), f"{output}/ratio")
        if PREFIX + "steps" not in self.constants:
            self.constant("steps", steps())
        step = self.node("Gather", (PREFIX + "steps", ratio), f"{output}/step", axis=0)
        bounds = (self.integers(0), self.integers(int(np.iinfo(np.int32).max)), self.integers(axis))
        return self.node("Slice", (tensor, *bounds, step), output)


def steps() -> Array:
    """(LARGEST_RATIO,), int64: the step for each quotient of size and limit, 1 and then the next prime of at least 7.

    A prime step shares no factor with rows or channels, which come in multiples of 2, 3 and 5, so that it visits all.
    """
    sieve = np.ones(2 * LARGEST_RATIO, bool)
    sieve[:7] = False
    for number in range(2, int(np.sqrt(sieve.size)) + 1):
        sieve[max(number * number, 2 * number) :: number] = False
    primes = np.flatnonzero(sieve)
    table = primes[np.searchsorted(primes, np.arange(LARGEST_RATIO), side="right")]
    table[0] = 1
    return table.astype(np.int64)


def observe(ranges: frozenset[str], moments: Mapping[str, int], opset: int) -> Observers:
    """The observers of a run, in a fixed order."""
    observers = Observers(opset)
    for tensor in sorted(ranges | moments.keys()):
        observers.shape(tensor)
        if tensor in ranges:
            observers.range(tensor)
        if tensor in moments:
            observers.moments(tensor, moments[tensor])
    return observers
