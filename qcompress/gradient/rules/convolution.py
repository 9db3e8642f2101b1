"""Gradients of convolutions.

The input's gradient is the transposed convolution of the output's. That of a weight is, for every place in the kernel, the
product of the output's gradient and of what that place sees of the input.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from qcompress.gradient.rules.windows import Windows, spread, windows_of
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor, fixed

FEW = 8
"""Input channels of a group up to which all places of the kernel are multiplied at once."""


def conv(step: Step) -> Gradients:
    """Conv: dX = transposed convolution of dY by W, dW as above, db = sum of dY over batch and space."""
    x, weight, dy = step.input(0), step.input(1), step.gradient
    group = step.integer("group", 1)
    windows = windows_of(step, _kernel(weight), x)
    found = {}
    if step.needs(0):
        found[0] = _input_gradient(dy, weight, windows, group, x)
    if step.needs(1):
        found[1] = weight_gradient(x, dy, weight, windows, group)
    if step.needs(2):
        found[2] = over_all(dy)
    return found


def conv_transpose(step: Step) -> Gradients:
    """ConvTranspose is the transpose of a Conv from its output to its input: dX = Conv of dY by W; dW as of that Conv."""
    x, weight, dy = step.input(0), step.input(1), step.gradient
    group = step.integer("group", 1)
    windows = _transposed_windows(step, _kernel(weight), x)
    found = {}
    if step.needs(0):
        found[0] = step.tape.node("Conv", (dy, weight), {**windows.attributes, "group": group})
    if step.needs(1):
        found[1] = weight_gradient(dy, x, weight, windows, group)
    if step.needs(2):
        found[2] = over_all(dy)
    return found


def _kernel(weight: Tensor) -> tuple[int, ...]:
    dims = fixed(weight.dims)
    if dims is None:
        raise NoGradientError("has a weight whose shape is known at run time only")
    return dims[2:]


def _input_gradient(dy: Tensor, weight: Tensor, windows: Windows, group: int, x: Tensor) -> Tensor:
    """dX; at stride 1 an ordinary Conv, which the runtime has faster kernels for, by the weight turned around."""
    back = tuple(reach - begin for reach, begin in zip(windows.reach, windows.begins, strict=True))
    ahead = tuple(reach - end for reach, end in zip(windows.reach, windows.ends, strict=True))
    if max(windows.strides) > 1 or min(*back, *ahead, 0) < 0:
        return spread(dy, weight, windows, group, x)
    pads = {"pads": (*back, *ahead), "dilations": windows.dilations}
    return dy.tape.node("Conv", (dy, _turned_around(weight, group)), {**pads, "group": group})


def _turned_around(weight: Tensor, group: int) -> Tensor:
    """(out, in / group, *kernel) -> (in, out / group, *kernel), each kernel from its last element to its first."""
    outputs, inputs, *kernel = fixed(weight.dims) or ()
    rank = len(kernel)
    turned = weight
    if max(kernel) > 1:
        axes = list(range(2, 2 + rank))
        tape = weight.tape
        turned = weight.slice(tape.ints([-1] * rank), tape.ints([-(1 << 31)] * rank), axes, [-1] * rank)
    if group == 1:
        return turned.transpose([1, 0, *range(2, 2 + rank)])
    if inputs == 1 and outputs == group:
        return turned
    parts = turned.reshape([group, outputs // group, inputs, *kernel])
    return parts.transpose([0, 2, 1, *range(3, 3 + rank)]).reshape([group * inputs, outputs // group, *kernel])


def weight_gradient(x: Tensor, dy: Tensor, weight: Tensor, windows: Windows, group: int) -> Tensor:
    """The gradient of a convolution's weight.

    Args:
        x: (batch, in, *spatial).
        dy: (batch, out, *spatial), of the output.
        weight: (out, in / group, *kernel); the result has its shape.
        windows: of the convolution.
        group: of the convolution.
    """
    outputs, inputs, *kernel = fixed(weight.dims) or ()
    if windows.rank == 2 and inputs == 1 and outputs == group and max(kernel) > 1:
        return _depthwise(x, dy, windows).reshape([outputs, 1, *kernel])
    if windows.is_pointwise and max(windows.strides) == 1 and group == 1 and _is_wide(weight, dy):
        folded = (
            tensor.reshape([0, 0, -1]).transpose([1, 0, 2]).reshape([count, -1])
            for tensor, count in ((dy, outputs), (x, inputs))
        )
        return dy.tape.node("Gemm", tuple(folded), {"transB": 1}).reshape([outputs, inputs, *kernel])
    padded = windows.padded(x)
    gradient = dy.reshape([0, group, outputs // group, -1])
    whole = windows.is_pointwise and max(windows.strides) == 1
    seen = [
        (padded if whole else windows.seen(padded, offset, dy)).reshape([0, group, inputs, -1]) for offset in windows.taps()
    ]
    if inputs <= FEW:  # products with one narrow matrix would take longer than putting the narrow ones together
        seen = [dy.tape.concat(seen, axis=2)]
    parts = [over_batch(dy.tape.node("MatMul", (gradient, part.transpose([0, 1, 3, 2]))), dy) for part in seen]
    if len(parts) == 1:  # [group, out / group, places * in / group]
        places = parts[0].reshape([outputs, -1, inputs])
        return places.transpose([0, 2, 1]).reshape([outputs, inputs, *kernel])
    stacked = dy.tape.concat([part.reshape([outputs, inputs, 1]) for part in parts], axis=2)
    return stacked.reshape([outputs, inputs, *kernel])


def _is_wide(weight: Tensor, dy: Tensor) -> bool:
    """Whether a weight has more numbers than one sample's input and output have, so that adding it up over a batch costs more
    than turning these.
    """
    space = None if dy.dims is None else fixed(dy.dims[2:])
    dims = fixed(weight.dims)
    return space is not None and dims is not None and prod(dims) > (dims[0] + dims[1]) * prod(space)


def _depthwise(x: Tensor, dy: Tensor, windows: Windows) -> Tensor:
    """The gradient of a 2-D depthwise weight, (channels, *kernel).

    One product of matrices for each channel and column of the kernel, in place of a pass over the input for each place in
    the kernel: row h of the input times row r of dY belongs to the kernel's row i if h = stride r + dilation i - padding.
    Where the rows of dY are known they are taken in blocks, for only rows of the input near a row of dY count.
    """
    tape, (stride, _) = x.tape, windows.strides
    dims = None if dy.dims is None else dy.dims[2]
    block = _block(dims) if isinstance(dims, int) else 0
    if block and isinstance(dims, int):
        blocks, height = dims // block, (block - 1) * stride + windows.reach[0] + 1
        places = [[first * block * stride + row for row in range(height)] for first in range(blocks)]
        source = tape.node("Gather", (windows.padded(x), tape.constant(np.array(places))), {"axis": 2})
        turned = dy.reshape([0, 0, blocks, block, -1]).transpose([0, 1, 2, 4, 3])
        mask = _rows_that_meet(tape.ints([height]), tape.ints([block]), windows, 0, x.dtype)
    else:
        blocks, first = 1, windows.begins[0]
        source = replace(windows, begins=(0, windows.begins[1]), ends=(0, windows.ends[1])).padded(x)
        turned = dy.transpose([0, 1, 3, 2])
        mask = _rows_that_meet(tape.extents(x, [2]), tape.extents(dy, [2]), windows, first, x.dtype)
    parts = []
    for column in range(windows.kernel[1]):
        seen = windows.seen(source, [windows.dilations[1] * column], dy, axes=[1])
        pairs = tape.node("MatMul", (seen, turned))  # [batch, channels, (blocks,) height, rows of dY]
        found = tape.node("MatMul", (pairs.reshape([0, 0, blocks, -1]), mask))  # [batch, channels, blocks, kernel rows]
        parts.append(found.sum([2]) if blocks > 1 else found)
    return over_batch(tape.concat(parts, axis=2), dy).transpose([0, 2, 1])


def _block(rows: int) -> int:
    """How many rows are taken at once: a divisor, few enough to save products and enough for matrices worth multiplying."""
    return max((size for size in range(4, 17) if rows % size == 0), default=0)


def _rows_that_meet(height: Tensor, rows: Tensor, windows: Windows, begin: int, dtype: str) -> Tensor:
    """1 where row h of the input is what row i of the kernel sees for row r of dY: (height * rows of dY, kernel rows)."""
    tape = height.tape
    first = tape.node("Mul", (tape.count(rows).reshape([1, -1, 1]), tape.ints(windows.strides[:1])))
    places = tape.ints([windows.dilations[0] * row - begin for row in range(windows.kernel[0])])
    meeting = (tape.count(height).reshape([-1, 1, 1]) - first).equals(places)
    return tape.cast(meeting, dtype).reshape([-1, windows.kernel[0]])


def over_batch(tensor: Tensor, dy: Tensor) -> Tensor:
    """The sum along the first axis, which goes; it is as long as that of ``dy``."""
    if dy.dims is not None and dy.dims[0] == 1:
        return tensor.squeeze([0])
    return tensor.sum([0], keep=False)


def over_all(dy: Tensor) -> Tensor:
    """The sum of every channel: along space first, where numbers lie beside each other."""
    return over_batch(dy.reshape([0, 0, -1]).sum([2], keep=False), dy)


def _transposed_windows(step: Step, kernel: tuple[int, ...], x: Tensor) -> Windows:
    """The windows of the Conv that a ConvTranspose is the transpose of."""
    rank = len(kernel)
    strides = step.integers("strides") or (1,) * rank
    added = step.integers("output_padding") or (0,) * rank
    windows = windows_of(step, kernel, step.output())  # dilations, and padding where it is said
    if any(extra >= stride for extra, stride in zip(added, strides, strict=True)):
        raise NoGradientError("adds more to its output than a stride")
    mode, asked = step.text("auto_pad", "NOTSET"), step.integers("output_shape")
    if not asked and not mode.startswith("SAME"):
        return windows
    lengths = None if x.dims is None else fixed(x.dims[2:])
    if asked and lengths is None:
        raise NoGradientError("has an output_shape, and a length that is known at run time only")
    zipped = zip(lengths or (0,) * rank, asked or (0,) * rank, strides, added, windows.reach, strict=True)
    totals = [max((n - 1) * by + extra + reach + 1 - (out if asked else n * by), 0) for n, out, by, extra, reach in zipped]
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return replace(windows, begins=small, ends=large) if mode == "SAME_UPPER" else replace(windows, begins=large, ends=small)
