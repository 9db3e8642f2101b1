"""Conv and ConvTranspose, plain, grouped and depthwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompress.graph import Node, Value
from qcompress.graph.edit import int_attribute
from qcompress.structure.rules.common import block_axes, block_node, given
from qcompress.structure.trace import Slot, Trace, label


@dataclass(frozen=True, slots=True)
class _Grouped:
    """A grouped convolution: ``inner`` input and ``outer`` output channels in each of ``count`` groups.

    ``input_axis`` and ``output_axis``: of the weight; one of them runs over the channels of all groups.
    """

    node: Node
    x: Value
    weight: Value
    y: Value
    count: int
    inner: int
    outer: int
    transposed: bool

    @property
    def input_axis(self) -> int:
        return 0 if self.transposed else 1

    @property
    def output_axis(self) -> int:
        return 1 - self.input_axis


def conv(node: Node, trace: Trace) -> None:
    """Sums over input channels; a depthwise kernel goes along with its channel."""
    _convolution(node, trace, transposed=False)


def conv_transpose(node: Node, trace: Trace) -> None:
    """As Conv, with the first axis of the weight for the inputs."""
    _convolution(node, trace, transposed=True)


def _convolution(node: Node, trace: Trace, transposed: bool) -> None:
    x, weight, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if x is None or weight is None or not trace.is_weight(weight):
        block_node(node, trace, f"{label(node)}: the kernel is not a constant")
        return
    trace.tie((x, 0), (y, 0))
    for value in (x, weight, y):
        block_axes(value, range(2, trace.rank(value)), trace, f"{label(node)}: positions under a kernel")
    count = int_attribute(node, "group", 1)
    inner, outer = trace.size((x, 1)) // count, trace.size((y, 1)) // count
    kernel = _Grouped(node, x, weight, y, count, inner, outer, transposed)
    if count == 1:
        trace.consume(weight, kernel.input_axis, (x, 1))
        trace.produce(weight, kernel.output_axis, (y, 1))
    elif inner > 1 and (count < min(inner, outer) or trace.why_blocked((x, 1))):
        _equal_numbers(kernel, trace)
    else:
        _whole_groups(kernel, trace)
    trace.steady((y, 1))
    bias = given(node, 2)
    if bias is not None:
        trace.tie((bias, 0), (y, 1))


def _equal_numbers(kernel: _Grouped, trace: Trace) -> None:
    """Every group loses the same of its input channels, and the same of its output channels."""
    k, x, y = kernel, (kernel.x, 1), (kernel.y, 1)
    for size, weight_axis, at in ((k.inner, k.input_axis, x), (k.outer, k.output_axis, y)):
        channels = np.arange(k.count * size)
        whole = trace.size((k.weight, weight_axis)) == len(channels)
        trace.tie(at, (k.weight, weight_axis), channels, channels if whole else channels % size)
        trace.tie(at, at, channels, channels % size)
    trace.mark_consumer((k.weight, k.input_axis))
    trace.mark_producer((k.weight, k.output_axis))


def _whole_groups(kernel: _Grouped, trace: Trace) -> None:
    """A group goes with all its input and output channels: depthwise Conv is the case of one each."""
    k, x, y = kernel, (kernel.x, 1), (kernel.y, 1)
    inputs, outputs = np.arange(k.count * k.inner), np.arange(k.count * k.outer)
    trace.tie(x, x, inputs, inputs // k.inner * k.inner)
    trace.tie(x, y, outputs // k.outer * k.inner, outputs)
    trace.tie((k.weight, 0), x if k.transposed else y)
    trace.block((k.weight, 1), f"{label(k.node)}: channels within a group")
    trace.follow(Slot(k.node, "group", (k.count,), 0), x, k.inner)
