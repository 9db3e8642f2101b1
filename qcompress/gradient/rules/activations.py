"""Gradients of activation functions.

They are taken from the output where it says enough: the input then need not be kept, and the runtime can still join the
activation with the layer before it.
"""

from __future__ import annotations

import math

from qcompress.gradient.broadcasting import unbroadcast
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor
from qcompress.graph.edit import constant_number


def relu(step: Step) -> Gradients:
    """Relu: dy where y > 0."""
    return {0: step.gradient.where(step.output() > 0.0)}


def leaky_relu(step: Step) -> Gradients:
    """LeakyRelu: dy where x > 0, else alpha dy."""
    return {0: step.gradient * _either(step.input(0), 1.0, step.real("alpha", 0.01))}


def parametric_relu(step: Step) -> Gradients:
    """PRelu: dx = dy where x > 0, else slope dy; dslope = x dy where x < 0."""
    x, slope = step.input(0), step.input(1)
    found = {}
    if step.needs(0):
        negative = step.gradient * slope
        found[0] = step.tape.node("Where", (x > 0.0, step.gradient, negative), dtype=x.dtype)
    if step.needs(1):
        found[1] = unbroadcast((step.gradient * x).where(x < 0.0), slope, step.output())
    return found


def elu(step: Step) -> Gradients:
    """Elu: dy where x > 0, else alpha exp(x) dy."""
    return {0: _with_exponential(step, 1.0, step.real("alpha", 1.0))}


def selu(step: Step) -> Gradients:
    """Selu: gamma dy where x > 0, else gamma alpha exp(x) dy."""
    gamma = step.real("gamma", 1.0507009873554805)
    return {0: _with_exponential(step, gamma, gamma * step.real("alpha", 1.6732632423543772))}


def celu(step: Step) -> Gradients:
    """Celu: dy where x > 0, else exp(x / alpha) dy."""
    return {0: _with_exponential(step, 1.0, 1.0, step.real("alpha", 1.0))}


def thresholded_relu(step: Step) -> Gradients:
    """ThresholdedRelu: dy where x > alpha."""
    return {0: step.gradient.where(step.input(0) > step.real("alpha", 1.0))}


def clip(step: Step) -> Gradients:
    """Clip: dy where y lies between the bounds."""
    y, inside = step.output(), None
    for index, operator in ((1, "Greater"), (2, "Less")):
        if not step.has(index) or abs(constant_number(step.node.inputs[index]) or 0.0) == math.inf:
            continue
        within = step.tape.node(operator, (y, step.input(index)), dtype="bool")
        inside = within if inside is None else inside & within
    return {0: step.gradient if inside is None else step.gradient.where(inside)}


def sigmoid(step: Step) -> Gradients:
    """Sigmoid: dy y (1 - y)."""
    y = step.output()
    return {0: step.gradient * y * (1.0 - y)}


def tanh(step: Step) -> Gradients:
    """Tanh: dy (1 - y^2)."""
    y = step.output()
    return {0: step.gradient * (1.0 - y * y)}


def hard_sigmoid(step: Step) -> Gradients:
    """HardSigmoid: alpha dy where 0 < y < 1."""
    y = step.output()
    return {0: (step.gradient * step.real("alpha", 0.2)).where((y > 0.0) & (y < 1.0))}


def hard_swish(step: Step) -> Gradients:
    """HardSwish: y = x clip(x / 6 + 1/2, 0, 1); dy where x > 3, (2 x + 3) / 6 dy between -3 and 3."""
    x = step.input(0)
    middle = (x * (1.0 / 3.0) + 0.5).where(x > -3.0)
    return {0: step.gradient * step.tape.node("Where", (x < 3.0, middle, step.tape.number(1.0, x.dtype)), dtype=x.dtype)}


def swish(step: Step) -> Gradients:
    """Swish: y = x s, s = sigmoid(alpha x); dy (s + alpha y (1 - s))."""
    s = (step.input(0) * step.real("alpha", 1.0)).apply("Sigmoid")
    return {0: step.gradient * (s + step.output() * (1.0 - s) * step.real("alpha", 1.0))}


def gelu(step: Step) -> Gradients:
    """Gelu: y = x P(x), P the normal distribution or its approximation by tanh; dy (P(x) + x P'(x))."""
    x = step.input(0)
    if step.text("approximate", "none") == "tanh":
        scale, cubic = math.sqrt(2.0 / math.pi), 0.044715
        t = (x * (x * x * cubic + 1.0) * scale).apply("Tanh")
        slope = (1.0 - t * t) * (x * x * (3.0 * cubic) + 1.0) * (0.5 * scale)
        return {0: step.gradient * ((t + 1.0) * 0.5 + x * slope)}
    share = ((x * math.sqrt(0.5)).apply("Erf") + 1.0) * 0.5
    density = (x * x * -0.5).apply("Exp") * (1.0 / math.sqrt(2.0 * math.pi))
    return {0: step.gradient * (share + x * density)}


def softplus(step: Step) -> Gradients:
    """Softplus: dy sigmoid(x)."""
    return {0: step.gradient * step.input(0).apply("Sigmoid")}


def softsign(step: Step) -> Gradients:
    """Softsign: dy / (1 + |x|)^2."""
    below = step.input(0).apply("Abs") + 1.0
    return {0: step.gradient / (below * below)}


def mish(step: Step) -> Gradients:
    """Mish: y = x t, t = tanh(softplus x); dy (t + x (1 - t^2) sigmoid(x))."""
    x = step.input(0)
    t = x.apply("Softplus").apply("Tanh")
    return {0: step.gradient * (t + x * (1.0 - t * t) * x.apply("Sigmoid"))}


def dropout(step: Step) -> Gradients:
    """Dropout as it runs in inference: dy."""
    if step.has(2) and step.numbers(2) != (0,):
        raise NoGradientError("drops numbers: it is in training mode")
    return {0: step.gradient}


def _either(x: Tensor, positive: float, negative: float) -> Tensor:
    tape = x.tape
    return tape.node("Where", (x > 0.0, tape.number(positive, x.dtype), tape.number(negative, x.dtype)), dtype=x.dtype)


def _with_exponential(step: Step, positive: float, negative: float, width: float = 1.0) -> Tensor:
    """The gradient through a function that is linear above 0 and ``negative * exp(x / width)`` in slope below."""
    x, tape = step.input(0), step.tape
    below = tape.node("Min", (x, tape.number(0.0, x.dtype)))  # exp(x) of large x is infinite, and 0 times it is not 0
    slope = (below * (1.0 / width)).apply("Exp") * negative
    return step.gradient * tape.node("Where", (x > 0.0, tape.number(positive, x.dtype), slope), dtype=x.dtype)
