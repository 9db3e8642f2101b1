"""Rules of elementwise operators, reductions and normalisations against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gradient_check import Case, check, drawn, gradients
from hypothesis import given, settings
from hypothesis import strategies as st

DETERMINISTIC = settings(deadline=None, derandomize=True, max_examples=8)


def header(opset: int = 18) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]>'


def uniform(low: float, high: float, *shape: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(low, high, shape).astype(np.float32)


@st.composite
def operands(draw, most: int = 3):
    """Shapes of an input ``a`` and of an operand ``b`` that broadcasts with it, the text of each with free axes among them,
    and ``a, b`` or ``b, a``.
    """
    whole = draw(st.lists(st.integers(1, 4), min_size=1, max_size=most))
    shapes = [tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in whole) for _ in range(2)]
    shapes[1] = shapes[1][draw(st.integers(0, len(whole))) :]
    texts = [
        ", ".join(f"{name}{axis}" if draw(st.booleans()) else str(size) for axis, size in enumerate(shape))
        for name, shape in zip("ab", shapes, strict=True)
    ]
    return *shapes, *texts, draw(st.sampled_from(["a, b", "b, a"]))


def binary(operator: str, drawn, values) -> Case:
    """``b`` is a constant when it has no axes, for text models have no inputs of rank 0."""
    first, second, one, two, order = drawn
    inputs = f"float[{one}] a" + (f", float[{two}] b" if second else "")
    rank = len(np.broadcast_shapes(first, second))
    text = f"{header()} net ({inputs}) => (float[{', '.join(f'r{axis}' for axis in range(rank))}] y) {{ y = {operator} ({order}) }}"
    feed, b = {"a": values(*first)}, {"b": values(*second) * np.float32(0.9)}
    return Case(text, feed | b) if second else Case(text, feed, b)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean"])
@DETERMINISTIC
@given(drawn=operands())
def test_broadcasting(operator, drawn):
    low = {"Div": 0.5, "Pow": 0.3}.get(operator, -2.0)
    case = binary(operator, drawn, lambda *shape: uniform(low, 2.0, *shape))
    lacking = operator == "Mean"  # the runtime has no Mean of float64, and ONNX's evaluator none that broadcasts
    check(replace(case, linear=lacking, doubles=not lacking))


@DETERMINISTIC
@given(drawn=operands())
def test_where_and_slope_of_a_rectifier(drawn):
    case = binary("Where", (*drawn[:4], f"c, {drawn[4]}"), lambda *shape: uniform(-1.0, 1.0, *shape))
    condition = np.random.default_rng(0).random(drawn[0][-1:]) > 0.5
    check(Case(case.text.replace("net (", "net (bool[m] c, "), {**case.feed, "c": condition}, case.weights))
    check(binary("PRelu", (*drawn[:4], "a, b"), lambda *shape: uniform(-1.0, 1.0, *shape))) if _fits(*drawn[:2]) else None


def _fits(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return np.broadcast_shapes(first, second) == first


def test_equal_elements_share_the_gradient_of_a_maximum():
    text = f"{header()} net (float[3] a, float[3] b) => (float[3] y, float[1] z) {{ y = Max (a, b) \n z = ReduceMax (a) }}"
    a, b = np.array([1, 2, 2], np.float32), np.array([1, 0, 3], np.float32)
    found, seeds = gradients(text, {"a": a, "b": b}, {}, ["a", "b"], {})
    np.testing.assert_allclose(found["b"], seeds["y"] * [0.5, 0, 1])
    np.testing.assert_allclose(found["a"], seeds["y"] * [0.5, 1, 0] + seeds["z"] * [0, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("bounds", ["x, lo, hi", "x, lo", "x, , hi", "x", "x, lo, inf"])
def test_clip(bounds):
    text = f"{header()} net (float[n, 5] x) => (float[m, 5] y) {{ y = Clip ({bounds}) }}"
    constants = {"lo": np.float32(-0.5), "hi": np.float32(0.6), "inf": np.float32(np.inf)}
    used = {name: np.asarray(value) for name, value in constants.items() if name in bounds.split(", ")}
    check(Case(text, {"x": uniform(-1, 1, 4, 5)}, used, untouched=list(used)))


REDUCTIONS = ["Sum", "Mean", "L2", "L1", "SumSquare", "LogSumExp", "LogSum", "Prod", "Max", "Min"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@DETERMINISTIC
@given(
    axes=st.sets(st.integers(-3, 2), max_size=3).filter(lambda axes: len({axis % 3 for axis in axes}) == len(axes)),
    keep=st.booleans(),
    as_input=st.booleans(),
    noop=st.booleans(),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_reductions_with_axes_of_both_forms(reduction, axes, keep, as_input, noop, shape):
    as_input |= reduction == "Sum"  # since operator set 13
    chosen = sorted(axes)
    given_axes = f"axes = {chosen}, " if chosen and not as_input else ""
    none = ", noop_with_empty_axes = 1" if noop and as_input else ""
    operand = "x, axes" if chosen and as_input else "x"
    text = f"""{header(18 if as_input else 17)} net (float[n, c, t] x) => (float[u, v, w] z) {{
        y = Reduce{reduction} <{given_axes}keepdims = {int(keep)}{none}> ({operand})
        z = Mul (y, scale)
    }}"""
    values = uniform(0.4, 1.5, *shape) * (np.float32(1) if "Log" in reduction else np.sign(uniform(-1, 1, *shape)))
    weights = {"scale": np.ones((1, 1, 1), np.float32)}
    if chosen and as_input:
        weights["axes"] = np.array(chosen, np.int64)
    check(Case(text, {"x": values}, weights, untouched=["scale"]))


NORMALIZED = {
    "LayerNormalization": "x, s, b",
    "LayerNormalization <axis = 1>": "x, s, b",
    "LayerNormalization <axis = -1, epsilon = 0.1>": "x, s",
    "RMSNormalization": "x, s",
    "RMSNormalization <axis = 1>": "x, s",
    "InstanceNormalization": "x, c, d",
    "BatchNormalization": "x, c, d, m, v",
    "BatchNormalization <epsilon = 0.1>": "x, c, d, m, v",
}


@pytest.mark.parametrize("operator", NORMALIZED)
@pytest.mark.parametrize("dims", ["2, 3, 4", "n, p, q", "n, 3, q"])
def test_normalizations(operator, dims):
    whole = "axis = 1" in operator
    sizes = {"s": (3, 4) if whole else (4,), "b": (3, 4) if whole else (4,), "c": (3,), "d": (3,), "m": (3,)}
    weights = {name: drawn(name, size) for name, size in sizes.items()} | {"v": uniform(0.5, 2, 3)}
    used = {name: weights[name] for name in NORMALIZED[operator].split(", ")[1:]}
    call = f"{operator} ({NORMALIZED[operator]})"
    text = f"{header(23)} net (float[{dims}] x) => (float[a, e, f] y) {{ y = {call} }}"
    doubles = operator != "InstanceNormalization"  # the runtime has it in float32 only
    check(Case(text, {"x": uniform(-2, 2, 2, 3, 4)}, used, doubles=doubles))


FUNCTIONS = {
    "Neg": (-2, 2), "Abs": (-2, 2), "Sqrt": (0.2, 3), "Reciprocal": (0.3, 2), "Exp": (-2, 2), "Log": (0.2, 3), "Erf": (-2, 2),
    "Sin": (-3, 3), "Cos": (-3, 3), "Atan": (-3, 3), "Relu": (-2, 2), "LeakyRelu": (-2, 2), "LeakyRelu <alpha = 0.3>": (-2, 2),
    "Elu": (-2, 2), "Elu <alpha = 0.7>": (-2, 2), "Selu": (-2, 2), "Celu <alpha = 1.7>": (-2, 2), "Sigmoid": (-4, 4),
    "Tanh": (-3, 3), "HardSigmoid": (-4, 4), "HardSigmoid <alpha = 0.3, beta = 0.4>": (-4, 4), "HardSwish": (-5, 5),
    "Softplus": (-4, 4), "Softsign": (-4, 4), "ThresholdedRelu <alpha = 0.5>": (-2, 2), "Mish": (-4, 4), "Gelu": (-4, 4),
    'Gelu <approximate = "tanh">': (-4, 4), "Identity": (-1, 1), "Floor": (-2, 2), "Ceil": (-2, 2), "Round": (-2, 2),
    "Sign": (-2, 2), "Softmax": (-3, 3), "Softmax <axis = 1>": (-3, 3), "LogSoftmax": (-3, 3), "LogSoftmax <axis = 0>": (-3, 3),
    "Dropout": (-2, 2), "Trilu <upper = 0>": (-2, 2), "GlobalAveragePool": (-2, 2),
    "Flatten": (-2, 2), "Flatten <axis = 2>": (-2, 2), "Transpose": (-2, 2), "Transpose <perm = [1, 2, 0]>": (-2, 2),
}  # fmt: skip
ONLY_FLOAT32 = {
    "Erf", "Gelu", "Celu", "HardSigmoid", "HardSwish", "Softsign", "ThresholdedRelu", "Mish", "Selu", "Atan", "LeakyRelu",
    "GlobalAveragePool", "Softplus", "Elu",
}  # fmt: skip
"""Operators without float64 kernels in the runtime's CPU provider."""


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 5, 1)])
def test_functions_of_one_tensor(function, shape):
    low, high = FUNCTIONS[function]
    name = function.split()[0]
    rank = 2 if name == "Flatten" else 3
    call = f"{function} (x)" if "<" in function else f"{name} (x)"
    text = f"{header(20)} net (float[n, c, t] x) => (float[{', '.join('abc'[:rank])}] y) {{ y = {call} }}"
    check(Case(text, {"x": uniform(low, high, *shape)}, doubles=name not in ONLY_FLOAT32))


@pytest.mark.parametrize("attributes", ["", " <alpha = 1.7>"])
def test_swish(attributes):
    text = f"{header(24)} net (float[n, t] x) => (float[n, t] y) {{ y = Swish{attributes} (x) }}"
    check(Case(text, {"x": uniform(-4, 4, 3, 4)}))
