"""Gradients of Resize: it is a matrix along each axis, and the gradient goes through the matrix transposed."""

from __future__ import annotations

import numpy as np

from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor
from qcompress.graph.edit import plain_attributes


def resize(step: Step) -> Gradients:
    """Resize in any mode but cropping: y = M_h x M_wT; dx = M_hT dy M_w.

    The matrix of an axis is what Resize itself makes of the identity matrix along that axis.
    """
    x, tape = step.input(0), step.tape
    attributes = plain_attributes(step.node)
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NoGradientError("crops what it resizes")
    if "axes" in attributes or "keep_aspect_ratio_policy" in attributes:
        raise NoGradientError("names axes or keeps an aspect ratio")
    gradient = step.gradient
    for axis in range(x.rank):
        if not _changes(step, axis):
            continue
        matrix = _matrix(step, attributes, axis)  # (length before, length behind)
        if axis == x.rank - 1:
            gradient = tape.node("MatMul", (gradient, matrix.transpose([1, 0])))
        else:
            last = [*(other for other in range(x.rank) if other != axis), axis]
            moved = tape.node("MatMul", (gradient.transpose(last), matrix.transpose([1, 0])))
            gradient = moved.transpose([last.index(place) for place in range(x.rank)])
    return {0: gradient}


def _changes(step: Step, axis: int) -> bool:
    before, behind = step.input(0).dims, step.output().dims
    scales = step.numbers_of_floats(2)
    if scales:
        return scales[axis] != 1.0
    return before is None or behind is None or before[axis] is None or before[axis] != behind[axis]


def _matrix(step: Step, attributes: dict[str, int | float | str | tuple[int, ...]], axis: int) -> Tensor:
    """What the resizing of one axis does to the unit vectors: (length before, length behind)."""
    x, y, tape = step.input(0), step.output(), step.tape
    length = tape.extents(x, [axis])
    numbers = tape.count(length)
    unit = tape.cast(numbers.reshape([-1, 1]).equals(numbers.reshape([1, -1])), x.dtype)
    rank = max(x.rank, 2)
    place = axis if axis > 0 else 1
    shape = [tape.ints([-1]), *(length if other == place else tape.ints([1]) for other in range(1, rank))]
    batch = unit.reshape(tape.concat(shape))  # unit vectors as samples, along the axis in question
    inputs: list[Tensor | None]
    if step.has(2) and step.numbers_of_floats(2) != ():
        one = tape.constant(np.ones(1, np.float32))
        scale = tape.node("Gather", (step.input(2), tape.ints([axis])))
        inputs = [batch, None, tape.concat([scale if other == place else one for other in range(rank)])]
    else:
        sizes = [length, *(tape.extents(y, [axis]) if other == place else tape.ints([1]) for other in range(1, rank))]
        inputs = [batch, None, None, tape.concat(sizes)]
    resized = tape.node("Resize", inputs, attributes)
    return resized.reshape(tape.concat([length, tape.ints([-1])]))
