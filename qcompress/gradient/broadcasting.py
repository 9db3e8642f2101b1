"""Undo broadcasting: the gradient of what was repeated is the sum over its repeats."""

from __future__ import annotations

from qcompress.gradient.facts import Dims
from qcompress.gradient.tape import Tape, Tensor


def unbroadcast(gradient: Tensor, operand: Tensor, result: Tensor) -> Tensor:
    """The gradient of an operand of an elementwise operator.

    Args:
        gradient: of the shape of ``result``, or one that broadcasts with ``operand`` to it.
        operand: the input; the returned gradient has its shape.
        result: the output of the operator.
    """
    certain = None if operand.dims is None or result.dims is None else _repeated_axes(operand.dims, result.dims)
    if certain is None:
        return _at_run_time(gradient, operand)
    extra = len(result.dims or ()) - len(operand.dims or ())
    if certain == list(range(extra)):
        return gradient.sum(certain, keep=False)
    return gradient.sum(certain).reshape(gradient.tape.shape(operand))


def _repeated_axes(operand: Dims, result: Dims) -> list[int] | None:
    """Axes of the result along which the operand was, or may harmlessly be taken for, repeated; None: not known yet."""
    extra = len(result) - len(operand)
    axes = list(range(extra))
    for axis, (mine, whole) in enumerate(zip(operand, result[extra:], strict=True), extra):
        if mine == 1:
            axes += [axis] if whole != 1 else []
        elif not isinstance(mine, int) and (mine is None or mine != whole):
            return None
    return axes


def _at_run_time(gradient: Tensor, operand: Tensor) -> Tensor:
    """Sum over every axis along which the operand turns out to have been repeated."""
    tape = gradient.tape
    shape, whole = tape.shape(operand), tape.node("Shape", (gradient,), dtype="int64")
    missing = _rank(tape, whole) - _rank(tape, shape)
    padded = tape.concat([tape.constant_ones(missing), shape])
    one = tape.ints([1])
    repeated = padded.equals(one) & whole.equals(one).apply("Not")  # without any axis a sum is a mere copy
    axes = tape.node("NonZero", (repeated,), dtype="int64").reshape([-1])
    attributes = {"keepdims": 1, "noop_with_empty_axes": 1}
    return tape.node("ReduceSum", (gradient, axes), attributes).reshape(shape)


def _rank(tape: Tape, shape: Tensor) -> Tensor:
    return tape.node("Shape", (shape,), dtype="int64")
