"""Gradients of what moves numbers without changing them: they are moved back."""

from __future__ import annotations

from qcompress.gradient.broadcasting import unbroadcast
from qcompress.gradient.facts import FLOATS
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor, fixed


def identity(step: Step) -> Gradients:
    """Identity: dy."""
    return {0: step.gradient}


def cast(step: Step) -> Gradients:
    """Cast between float types: dy in the type of x."""
    x = step.input(0)
    if x.dtype not in FLOATS or step.gradient.dtype not in FLOATS:
        raise NoGradientError("is no cast between float32 and float64")
    return {0: step.tape.cast(step.gradient, x.dtype)}


def reshape(step: Step) -> Gradients:
    """Reshape, Flatten, Squeeze, Unsqueeze: dy in the shape of x."""
    return {0: step.gradient.reshape(step.tape.shape(step.input(0)))}


def transpose(step: Step) -> Gradients:
    """Transpose: dy with the axes back in their order."""
    order = step.integers("perm") or tuple(reversed(range(step.input(0).rank)))
    back = [order.index(axis) for axis in range(len(order))]
    return {0: step.gradient.transpose(back)}


def concat(step: Step) -> Gradients:
    """Concat: each input takes its part of dy."""
    tape, axis, count = step.tape, step.axis(0), len(step.node.inputs)
    lengths = tape.concat([tape.extents(step.input(index), [axis]) for index in range(count)])
    sizes = [step.input(index).dims for index in range(count)]
    known = fixed(tuple(None if dims is None else dims[axis] for dims in sizes))
    if known is not None:
        lengths = tape.ints(known)
    parts = tape.nodes("Split", (step.gradient, lengths), {"axis": axis}, [None] * count)
    return {index: part for index, part in enumerate(parts) if step.needs(index)}


def split(step: Step) -> Gradients:
    """Split: the parts' gradients one behind the other, zeros for parts that the loss does not depend on."""
    tape = step.tape
    parts = [tape.zeros_like(step.output(index)) if part is None else part for index, part in enumerate(step.upstream)]
    return {0: tape.concat(parts, step.axis(0))}


def expand(step: Step) -> Gradients:
    """Expand: the sum over what was repeated."""
    return {0: unbroadcast(step.gradient, step.input(0), step.output())}


def tile(step: Step) -> Gradients:
    """Tile: the sum over the copies; dy as (copies, length, copies, length, ..)."""
    x, tape = step.input(0), step.tape
    repeats, lengths = (item.reshape([-1, 1]) for item in (step.input(1), tape.shape(x)))
    shape = tape.concat([repeats, lengths], axis=1).reshape([-1])
    return {0: step.gradient.reshape(shape).sum(list(range(0, 2 * x.rank, 2)), keep=False)}


def pad(step: Step) -> Gradients:
    """Pad with a constant: dy without its rim (zeros where the padding was negative)."""
    if step.text("mode", "constant") != "constant":
        raise NoGradientError(f"pads by {step.text('mode', '')}")
    if step.has(3):
        raise NoGradientError("pads named axes")
    tape, rank = step.tape, step.input(0).rank
    pads = tape.ints(step.integers("pads")) if step.integers("pads") else step.input(1)
    found = {0: tape.node("Pad", (step.gradient, pads.apply("Neg")))}
    if step.needs(2):
        total = step.gradient.sum(list(range(rank)), keep=False) - found[0].sum(list(range(rank)), keep=False)
        found[2] = total.reshape(tape.shape(step.input(2)))
    return {index: gradient for index, gradient in found.items() if step.needs(index)}


def depth_to_space(step: Step) -> Gradients:
    """DepthToSpace: SpaceToDepth of dy; in mode CRD the block is behind the channels."""
    size = step.integer("blocksize", 1)
    if step.text("mode", "DCR") == "DCR":
        return {0: step.tape.node("SpaceToDepth", (step.gradient,), {"blocksize": size})}
    x, tape = step.input(0), step.tape
    height, width = (tape.extents(x, [axis]) for axis in (2, 3))
    block = tape.ints([size])
    shape = tape.concat([tape.ints([0, -1]), height, block, width, block])
    apart = step.gradient.reshape(shape).transpose([0, 1, 3, 5, 2, 4])
    return {0: apart.reshape(tape.shape(x))}


def space_to_depth(step: Step) -> Gradients:
    """SpaceToDepth: DepthToSpace of dy."""
    return {0: step.tape.node("DepthToSpace", (step.gradient,), {"blocksize": step.integer("blocksize", 1)})}


def triangle(step: Step) -> Gradients:
    """Trilu: the same triangle of dy."""
    inputs: list[Tensor | None] = [step.gradient, step.input(1) if step.has(1) else None]
    return {0: step.tape.node("Trilu", inputs, {"upper": step.integer("upper", 1)})}
