"""Gradients of reductions: the result's gradient is repeated along the axes that are gone, times what each element counts."""

from __future__ import annotations

from collections.abc import Callable

from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import Tensor


def reduce_sum(step: Step) -> Gradients:
    """ReduceSum: dx = dy, repeated."""
    return _repeated(step, lambda _x, _y, dy: dy)


def reduce_mean(step: Step) -> Gradients:
    """ReduceMean: dx = dy / n, repeated."""

    def partial(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        tape = x.tape
        sizes = (tape.cast(tape.node("Size", (item,), dtype="int64"), x.dtype) for item in (y, x))
        return dy * (next(sizes) / next(sizes))

    return _repeated(step, partial)


def reduce_l2(step: Step) -> Gradients:
    """ReduceL2: dx = dy x / y, 0 where y is 0."""
    return _repeated(step, lambda x, y, dy: x * (dy / _not_zero(y)))


def reduce_l1(step: Step) -> Gradients:
    """ReduceL1: dx = dy sign(x)."""
    return _repeated(step, lambda x, _y, dy: x.apply("Sign") * dy)


def reduce_sum_square(step: Step) -> Gradients:
    """ReduceSumSquare: dx = 2 x dy."""
    return _repeated(step, lambda x, _y, dy: x * dy * 2.0)


def reduce_log_sum_exp(step: Step) -> Gradients:
    """ReduceLogSumExp: dx = dy exp(x - y)."""
    return _repeated(step, lambda x, y, dy: (x - y).apply("Exp") * dy)


def reduce_log_sum(step: Step) -> Gradients:
    """ReduceLogSum: dx = dy / exp(y)."""
    return _repeated(step, lambda _x, y, dy: dy / y.apply("Exp"))


def reduce_product(step: Step) -> Gradients:
    """ReduceProd: dx = dy y / x, for elements that are not 0."""
    return _repeated(step, lambda x, y, dy: dy * y / x)


def reduce_extreme(step: Step) -> Gradients:
    """ReduceMax, ReduceMin: dy goes to the elements that are y, in equal parts where several are."""

    def partial(x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        chosen = x.tape.cast(x.equals(y), x.dtype)
        count = _reduced(step, chosen)
        return chosen * (dy / count)

    return _repeated(step, partial)


def _repeated(step: Step, partial: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Gradients:
    """``partial(x, y, dy)`` with y and dy in a shape that broadcasts with x, and its result repeated to the shape of x."""
    x, tape = step.input(0), step.tape
    y, dy = step.output(), step.gradient
    if not step.integer("keepdims", 1):
        y, dy = _kept(step, y), _kept(step, dy)
    return {0: partial(x, y, dy).expand(tape.shape(x))}


def _kept(step: Step, tensor: Tensor) -> Tensor:
    """A result of the reduction with axes of length 1 in place of those that are gone."""
    axes = _axes(step)
    if axes is not None:
        return step.tape.node("Unsqueeze", (tensor, axes))
    gone = not step.integer("noop_with_empty_axes", 0)
    return tensor.reshape([1] * step.input(0).rank) if gone else tensor


def _axes(step: Step) -> Tensor | None:
    """The axes as a list of integers, None: all of them (or none)."""
    if step.integers("axes"):
        return step.tape.ints(step.integers("axes"))
    if not step.has(1) or step.numbers(1) == ():
        return None
    return step.input(1)


def _reduced(step: Step, tensor: Tensor) -> Tensor:
    """The sum of a tensor over the axes of the reduction, which are kept."""
    axes = _axes(step)
    given = {"keepdims": 1, "noop_with_empty_axes": step.integer("noop_with_empty_axes", 0)}
    return step.tape.node("ReduceSum", (tensor, axes) if axes is not None else (tensor,), given)


def _not_zero(y: Tensor) -> Tensor:
    tape = y.tape
    return tape.node("Where", (y.equals(0.0), tape.number(1.0, y.dtype), y), dtype=y.dtype)
