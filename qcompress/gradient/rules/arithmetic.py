"""Gradients of arithmetic between tensors that broadcast.

The result's gradient times the partial derivative, summed over what was repeated.
"""

from __future__ import annotations

from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor


def add(step: Step) -> Gradients:
    """Add, Sum: y = a + b + ..; da = dy."""
    return step.elementwise(lambda _: step.gradient)


def mean(step: Step) -> Gradients:
    """Mean: y = (a + b + ..) / n; da = dy / n."""
    return step.elementwise(lambda _: step.gradient * (1.0 / len(step.node.inputs)))


def subtract(step: Step) -> Gradients:
    """Sub: y = a - b; da = dy, db = -dy."""
    return step.elementwise(lambda index: -step.gradient if index else step.gradient)


def multiply(step: Step) -> Gradients:
    """Mul: y = a b; da = dy b, db = dy a."""
    return step.elementwise(lambda index: step.gradient * step.input(1 - index))


def divide(step: Step) -> Gradients:
    """Div: y = a / b; da = dy / b, db = -dy y / b."""

    def partial(index: int) -> Tensor:
        quotient = step.gradient / step.input(1)
        return -(quotient * step.output()) if index else quotient

    return step.elementwise(partial)


def power(step: Step) -> Gradients:
    """Pow: y = a^b; da = dy b a^(b - 1), db = dy y log a (0 where a is not positive)."""
    base = step.input(0)
    exponent = step.tape.cast(step.input(1), base.dtype)

    def partial(index: int) -> Tensor:
        if index:
            positive = base > 0.0
            logarithm = step.tape.node("Where", (positive, base, step.tape.number(1.0, base.dtype)), dtype=base.dtype)
            return step.gradient * step.output() * logarithm.apply("Log")
        return step.gradient * exponent * step.tape.node("Pow", (base, exponent - 1.0))

    return step.elementwise(partial)


def extreme(step: Step) -> Gradients:
    """Max, Min: dy goes to the inputs that are y, in equal parts where several are."""
    if len(step.node.inputs) == 1:
        return {0: step.gradient}
    dtype = step.output().dtype
    chosen = [step.tape.cast(step.input(index).equals(step.output()), dtype) for index in range(len(step.node.inputs))]
    share = step.gradient / step.tape.node("Sum", chosen)
    return step.elementwise(lambda index: share * chosen[index])


def where(step: Step) -> Gradients:
    """Where: dy goes to the input that was chosen."""
    condition = step.input(0)

    def partial(index: int) -> Tensor:
        return step.gradient.where(condition if index == 1 else condition.apply("Not"))

    return step.elementwise(partial)


def modulo(step: Step) -> Gradients:
    """Mod with fmod: y = a - b k with an integer k; da = dy."""
    if step.needs(1):
        raise NoGradientError("has no rule for its divisor")
    return step.elementwise(lambda _: step.gradient)
