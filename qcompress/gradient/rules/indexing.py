"""Gradients of what takes elements by their place: they are put, or added, where they came from."""

from __future__ import annotations

from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor

ADDING = 16
"""The first operator set in which Scatter operators add."""


def gather(step: Step) -> Gradients:
    """Gather: slices of dy are added at the indices they were taken from."""
    require_adding(step)
    x, indices, tape = step.input(0), step.input(1), step.tape
    axis, rank, index_rank = step.axis(0), x.rank, indices.rank
    behind = list(range(axis + index_rank, rank - 1 + index_rank))
    front = step.gradient.transpose([*range(axis, axis + index_rank), *range(axis), *behind])
    order = [axis, *(other for other in range(rank) if other != axis)]
    shape = tape.extents(x, order)
    rest = [other for other in order if other != axis]
    slices = tape.concat([tape.ints([-1]), tape.extents(x, rest)]) if rest else tape.ints([-1])
    zeros = tape.number(0.0, x.dtype).expand(shape)
    added = _scatter(zeros, tape.cast(indices, "int64").reshape([-1, 1]), front.reshape(slices))
    return {0: added.transpose([order.index(place) for place in range(rank)])}


def gather_elements(step: Step) -> Gradients:
    """GatherElements: elements of dy are added at the indices they were taken from."""
    require_adding(step)
    attributes: dict[str, int | str] = {"axis": step.integer("axis", 0), "reduction": "add"}
    inputs = (step.tape.zeros_like(step.input(0)), step.input(1), step.gradient)
    return {0: step.tape.node("ScatterElements", inputs, attributes)}


def gather_nd(step: Step) -> Gradients:
    """GatherND: slices of dy are added at the indices they were taken from."""
    require_adding(step)
    if step.integer("batch_dims", 0):
        raise NoGradientError("has batch_dims")
    return {0: _scatter(step.tape.zeros_like(step.input(0)), step.input(1), step.gradient)}


def slices(step: Step) -> Gradients:
    """Slice: dy between zeros."""
    x, tape = step.input(0), step.tape
    steps = step.numbers(4)
    axes = step.numbers(3) if step.has(3) else tuple(range(x.rank))
    starts = step.numbers(1)
    if axes is not None and starts is not None and steps is not None and set(steps) <= {1}:
        if not step.has(3):
            axes = axes[: len(starts)]
        return {0: _between_zeros(step, starts, [axis % x.rank for axis in axes])}
    size = tape.node("Size", (x,), dtype="int64")
    every = tape.count(size).reshape(tape.shape(x))
    others = [None if value is None else tape.tensor(value) for value in step.node.inputs[1:]]
    places = tape.node("Slice", (every, *others)).reshape([-1])
    flat = tape.number(0.0, x.dtype).expand(size.reshape([1]))
    moved = tape.node("ScatterElements", (flat, places, step.gradient.reshape([-1])), {"axis": 0})
    return {0: moved.reshape(tape.shape(x))}


def require_adding(step: Step) -> None:
    """See that the operator set has a Scatter that adds.

    Raises:
        NoGradientError: it is too old.
    """
    if step.tape.opset < ADDING:
        raise NoGradientError(f"has a rule from operator set {ADDING} on only; the model cannot be raised to it")


def _scatter(zeros: Tensor, indices: Tensor, slices_of: Tensor) -> Tensor:
    return zeros.tape.node("ScatterND", (zeros, indices, slices_of), {"reduction": "add"})


def _between_zeros(step: Step, starts: tuple[int, ...], axes: list[int]) -> Tensor:
    """The gradient with as many zeros before and behind it as were cut off."""
    x, tape = step.input(0), step.tape
    begins = tape.ints(starts)
    lengths, taken = tape.extents(x, axes), tape.extents(step.output(), axes)
    if min(starts, default=0) < 0:
        from_end = tape.node("Add", (begins, lengths))
        begins = tape.node(
            "Where", (tape.ints([int(start < 0) for start in starts]).equals(tape.ints([1])), from_end, begins)
        )
        begins = tape.node("Max", (begins, tape.ints([0])))
    behind = tape.node("Sub", (tape.node("Sub", (lengths, begins)), taken))
    others = [axis for axis in range(x.rank) if axis not in axes]
    none = tape.ints([0] * len(others))
    order = [*axes, *others]
    back = tape.ints([order.index(axis) for axis in range(x.rank)])
    pads = [tape.node("Gather", (tape.concat([part, none]) if others else part, back)) for part in (begins, behind)]
    return tape.node("Pad", (step.gradient, tape.concat(pads)))
