"""Gradients of pools."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompress.gradient.rules.indexing import require_adding
from qcompress.gradient.rules.windows import Windows, cropped, windows_of
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import Tensor
from qcompress.graph.edit import plain_attributes


def global_average_pool(step: Step) -> Gradients:
    """GlobalAveragePool: dy / n, repeated."""
    x, tape = step.input(0), step.tape
    sizes = [tape.cast(tape.node("Size", (item,), dtype="int64"), x.dtype) for item in (step.output(), x)]
    return {0: (step.gradient * (sizes[0] / sizes[1])).expand(tape.shape(x))}


def global_max_pool(step: Step) -> Gradients:
    """GlobalMaxPool: dy goes to the elements that are y, in equal parts where several are."""
    x, axes = step.input(0), list(range(2, step.input(0).rank))
    chosen = step.tape.cast(x.equals(step.output()), x.dtype)
    return {0: chosen * (step.gradient / chosen.sum(axes))}


def max_pool(step: Step) -> Gradients:
    """MaxPool: elements of dy are added at the places of the largest elements, which a second output of MaxPool names."""
    require_adding(step)
    x, tape = step.input(0), step.tape
    attributes = plain_attributes(step.node)
    attributes.pop("storage_order", None)
    places = tape.nodes("MaxPool", (x,), attributes, [None, "int64"])[1].reshape([-1])
    count = tape.node("Size", (x,), dtype="int64").reshape([1])
    zeros = tape.number(0.0, x.dtype).expand(count)
    inputs = (zeros, places, step.gradient.reshape([-1]))
    flat = tape.node("ScatterElements", inputs, {"axis": 0, "reduction": "add"})
    return {0: flat.reshape(tape.shape(x))}


def average_pool(step: Step) -> Gradients:
    """AveragePool: dy divided by what each window counts, spread over its window.

    What a window counts is how many elements of a tensor of ones it sees, divided by what AveragePool makes of that tensor.
    """
    x, tape = step.input(0), step.tape
    windows = windows_of(step, step.integers("kernel_shape"), x)
    one = tape.number(1.0, x.dtype)
    plane = tape.concat([tape.ints([1, 1]), tape.extents(x, windows.axes)])
    ones = one.expand(plane)
    averages = tape.node("AveragePool", (ones,), plain_attributes(step.node))
    kernel = tape.constant(np.ones((1, 1, *windows.kernel), x.dtype))
    longer = replace(
        windows, ends=tuple(end + stride - 1 for end, stride in zip(windows.ends, windows.strides, strict=True))
    )
    seen = tape.node("Conv", (ones, kernel), (longer if step.integer("ceil_mode", 0) else windows).attributes)
    if step.integer("ceil_mode", 0):  # a window more than there are is never one that starts inside
        seen = cropped(seen, (0,) * windows.rank, step.output())
    share = step.gradient * (averages / seen)
    return {0: _spread_evenly(share, kernel, windows, step)}


def _spread_evenly(share: Tensor, kernel: Tensor, windows: Windows, step: Step) -> Tensor:
    """Each element of ``share`` added to all elements of its window; channels are worked on like samples."""
    x, tape = step.input(0), step.tape
    planes = share.reshape(tape.concat([tape.ints([-1, 1]), tape.extents(step.output(), windows.axes)]))
    attributes = {
        "strides": windows.strides,
        "dilations": windows.dilations,
        "output_padding": tuple(stride - 1 for stride in windows.strides),
    }
    whole = tape.node("ConvTranspose", (planes, kernel), attributes)
    return cropped(whole, windows.begins, x).reshape(tape.shape(x))
