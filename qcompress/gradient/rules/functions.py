"""Gradients of functions of one number: the result's gradient times the derivative."""

from __future__ import annotations

import math

from qcompress.gradient.step import Gradients, Step


def negate(step: Step) -> Gradients:
    """Neg: dx = -dy."""
    return {0: -step.gradient}


def absolute(step: Step) -> Gradients:
    """Abs: dx = dy sign(x)."""
    return {0: step.gradient * step.input(0).apply("Sign")}


def square_root(step: Step) -> Gradients:
    """Sqrt: dx = dy / (2 y)."""
    return {0: step.gradient * 0.5 / step.output()}


def reciprocal(step: Step) -> Gradients:
    """Reciprocal: dx = -dy y^2."""
    return {0: -(step.gradient * step.output() * step.output())}


def exponential(step: Step) -> Gradients:
    """Exp: dx = dy y."""
    return {0: step.gradient * step.output()}


def logarithm(step: Step) -> Gradients:
    """Log: dx = dy / x."""
    return {0: step.gradient / step.input(0)}


def error_function(step: Step) -> Gradients:
    """Erf: dx = dy 2 / sqrt(pi) exp(-x^2)."""
    x = step.input(0)
    return {0: step.gradient * (-(x * x)).apply("Exp") * (2.0 / math.sqrt(math.pi))}


def sine(step: Step) -> Gradients:
    """Sin: dx = dy cos x."""
    return {0: step.gradient * step.input(0).apply("Cos")}


def cosine(step: Step) -> Gradients:
    """Cos: dx = -dy sin x."""
    return {0: -(step.gradient * step.input(0).apply("Sin"))}


def arc_tangent(step: Step) -> Gradients:
    """Atan: dx = dy / (1 + x^2)."""
    x = step.input(0)
    return {0: step.gradient / (x * x + 1.0)}


def constant_pieces(step: Step) -> Gradients:
    """Floor, Ceil, Round, Sign: 0, for they are constant but for their jumps."""
    return {0: step.tape.zeros_like(step.input(0))}
