"""Gradients of convolutions.

The input's gradient is the transposed convolution of the output's. That of a weight is, for every place in the kernel, the
product of the output's gradient and of what that place sees of the input.
"""

from __future__ import annotations

from dataclasses import replace

from qcompress.gradient.rules.windows import Windows, spread, windows_of
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor, fixed


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
        found[2] = dy.sum([0, *windows.axes], keep=False)
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
        found[2] = dy.sum([0, *windows.axes], keep=False)
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
    padded = windows.padded(x)
    gradient = dy.reshape([0, group, outputs // group, -1])
    parts = []
    for offset in windows.taps():
        whole = windows.is_pointwise and max(windows.strides) == 1
        seen = (padded if whole else windows.seen(padded, offset, dy)).reshape([0, group, inputs, -1])
        parts.append(dy.tape.node("MatMul", (gradient, seen.transpose([0, 1, 3, 2]))).sum([0], keep=False))
    if len(parts) == 1:
        return parts[0].reshape([outputs, inputs, *kernel])
    stacked = dy.tape.concat([part.reshape([outputs, inputs, 1]) for part in parts], axis=2)
    return stacked.reshape([outputs, inputs, *kernel])


def _depthwise(x: Tensor, dy: Tensor, windows: Windows) -> Tensor:
    """The gradient of a 2-D depthwise weight, (channels, prod(kernel)).

    One product of matrices for each channel in place of a pass over the input for each place in the kernel: row h of the
    input, seen from column j of the kernel, times row r of dY belongs to the kernel's row i if h = stride r + dilation i.
    """
    tape = x.tape
    padded = windows.padded(x)
    offsets = [windows.dilations[1] * column for column in range(windows.kernel[1])]
    rows = tape.concat([windows.seen(padded, [offset], dy, axes=[1]) for offset in offsets], axis=2)
    products = tape.node("MatMul", (rows, dy.transpose([0, 1, 3, 2]))).sum([0], keep=False)
    pairs = products.reshape([0, len(offsets), -1])  # [channels, column, height * rows of dY]
    found = tape.node("MatMul", (pairs, _rows_that_meet(padded, dy, windows)))  # [channels, column, row]
    return found.transpose([0, 2, 1])


def _rows_that_meet(padded: Tensor, dy: Tensor, windows: Windows) -> Tensor:
    """1 where row h of the input is what row i of the kernel sees for row r of dY: (height * rows of dY, kernel rows)."""
    tape = padded.tape
    height = tape.count(tape.extents(padded, [2])).reshape([-1, 1, 1])
    rows = tape.count(tape.extents(dy, [2])).reshape([1, -1, 1])
    first = tape.node("Mul", (rows, tape.ints(windows.strides[:1])))
    places = tape.ints([windows.dilations[0] * row for row in range(windows.kernel[0])])
    return tape.cast((height - first).equals(places), padded.dtype).reshape([-1, windows.kernel[0]])


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
