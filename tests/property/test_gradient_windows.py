"""Rules of convolutions, pools and Resize against finite differences."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from gradient_check import STEP_IN_FLOAT32, Case, check
from hypothesis import given, settings
from hypothesis import strategies as st
from text_models import load

from qcompress.gradient import Backward

DETERMINISTIC = settings(deadline=None, derandomize=True)


def header(opset: int = 18) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]>'


def listed(numbers) -> str:
    return str(list(numbers))


def spaced(*shape: int) -> np.ndarray:
    """Numbers that no small step brings into another order."""
    return np.random.default_rng(1).permutation(prod(shape)).reshape(shape).astype(np.float32) / np.float32(4)


def free(names: str, rank: int) -> str:
    return ", ".join(f"{names}{axis}" for axis in range(rank))


@st.composite
def layers(draw, transposed: bool = False):
    """The attributes of a convolution, its shapes, and whether lengths are known."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    axes = st.tuples(*[st.integers(1, 3)] * rank)
    kernel = draw(axes)
    group = draw(st.sampled_from([1, 1, 2, 4]))
    inputs, outputs = (group * draw(st.sampled_from([1, 1, 2])) for _ in range(2))
    strides = draw(st.tuples(*[st.integers(1, 3 if rank < 3 else 2)] * rank))
    dilations = draw(st.tuples(*[st.integers(1, 2)] * rank))
    reach = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    lengths = tuple(draw(st.integers(1, 4)) + along for along in reach)
    padding = draw(st.sampled_from(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    attributes = {"strides": strides, "group": group, "kernel_shape": kernel, "dilations": dilations}
    if padding == "pads":
        attributes["pads"] = draw(st.tuples(*[st.integers(0, 2)] * (2 * rank)))
        if transposed:
            attributes["pads"] = tuple(
                min(pad, along // 2) for pad, along in zip(attributes["pads"], reach * 2, strict=True)
            )
            attributes["output_padding"] = draw(st.tuples(*[st.integers(0, stride - 1) for stride in strides]))
    elif padding != "VALID" and any(dilation > 1 for dilation in dilations):
        attributes["dilations"] = (1,) * rank
    known = draw(st.booleans()) or (padding.startswith("SAME") and max(strides) > 1)
    x = (draw(st.integers(1, 2)), inputs, *lengths)
    weight = (inputs, outputs // group, *kernel) if transposed else (outputs, inputs // group, *kernel)
    text = ", ".join(
        [f"{name} = {listed(value) if isinstance(value, tuple) else value}" for name, value in attributes.items()]
        + ([f'auto_pad = "{padding}"'] if padding != "pads" else [])
    )
    bias = (outputs,) if draw(st.booleans()) else None
    dims = (
        free("d", rank + 2)
        if not known
        else ", ".join(["n", *map(str, x[1:])])
        if draw(st.booleans())
        else ", ".join(map(str, x))
    )
    return text, dims, x, weight, bias


def convolution(operator: str, drawn) -> Case:
    attributes, dims, x, weight, bias = drawn
    weights = {"w": weight} | ({} if bias is None else {"b": bias})
    call = f"{operator} <{attributes}> (x, w{', b' if bias else ''})"
    text = f"{header()} net (float[{dims}] x) => (float[{free('o', len(x))}] y) {{ y = {call} }}"
    return Case(text, {"x": x}, weights, linear=True, doubles=False)


@settings(DETERMINISTIC, max_examples=60)
@given(drawn=layers())
def test_conv(drawn):
    check(convolution("Conv", drawn))


@settings(DETERMINISTIC, max_examples=30)
@given(drawn=layers(transposed=True))
def test_conv_transpose(drawn):
    case = convolution("ConvTranspose", drawn)
    check(case)


@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("shape", [(7, 9), (8, 8)])
def test_conv_transpose_with_a_stated_output(mode, shape):
    attributes = f'auto_pad = "{mode}", output_shape = {listed(shape)}, strides = [2, 2]'
    text = f"""{header()} net (float[n, 3, 4, 4] x) => (float[m, 2, h, w] y) {{
        y = ConvTranspose <{attributes}, kernel_shape = [3, 3]> (x, w)
    }}"""
    check(Case(text, {"x": (2, 3, 4, 4)}, {"w": (3, 2, 3, 3)}, linear=True, doubles=False))


def test_a_pointwise_conv_with_few_places_and_many_weights():
    text = f"{header()} net (float[n, 8, 2, 2] x) => (float[m, 6, 2, 2] y) {{ y = Conv (x, w) }}"
    check(Case(text, {"x": (3, 8, 2, 2)}, {"w": (6, 8, 1, 1)}, linear=True, doubles=False))


@st.composite
def pools(draw):
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * rank))
    strides = draw(st.tuples(*[st.integers(1, 3)] * rank))
    pads = draw(st.tuples(*[st.integers(0, 1)] * (2 * rank)))
    pads = tuple(min(pad, size - 1) for pad, size in zip(pads, kernel * 2, strict=True))
    lengths = tuple(size + draw(st.integers(0, 4)) for size in kernel)
    ceil = draw(st.integers(0, 1))
    for axis, (size, stride, length) in enumerate(zip(kernel, strides, lengths, strict=True)):
        last = -(-(length + pads[axis] + pads[rank + axis] - size) // stride) * stride
        if last >= length + pads[axis]:  # the runtime leaves this window out and infers a shape with it
            ceil = 0
    attributes = f"kernel_shape = {listed(kernel)}, strides = {listed(strides)}, pads = {listed(pads)}, ceil_mode = {ceil}"
    same = draw(st.sampled_from(["", "", 'auto_pad = "SAME_UPPER"', 'auto_pad = "VALID"']))
    if same:
        strides = tuple(min(stride, size) for stride, size in zip(strides, kernel, strict=True))  # the runtime wants no gaps
        attributes = f"kernel_shape = {listed(kernel)}, strides = {listed(strides)}, {same}"
    x = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *lengths)
    dims = ", ".join(map(str, x)) if draw(st.booleans()) or "SAME" in same else free("d", len(x))
    return attributes, dims, x


def pool(operator: str, drawn, extra: str, values, opset: int = 19) -> Case:
    attributes, dims, x = drawn
    call = f"{operator} <{attributes}{extra}> (x)"
    text = f"{header(opset)} net (float[{dims}] x) => (float[{free('o', len(x))}] y) {{ y = {call} }}"
    return Case(text, {"x": values(*x)}, linear=True, doubles=False)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(DETERMINISTIC, max_examples=30)
@given(drawn=pools(), include=st.integers(0, 1), opset=st.sampled_from([13, 19]))
def test_average_pool(drawn, include, opset):
    check(pool("AveragePool", drawn, f", count_include_pad = {include}", normal, opset))


@settings(DETERMINISTIC, max_examples=30)
@given(drawn=pools(), opset=st.sampled_from([12, 19]))
def test_max_pool(drawn, opset):
    check(pool("MaxPool", drawn, "", lambda *shape: spaced(*shape) * np.float32(12 * STEP_IN_FLOAT32), opset))


@pytest.mark.parametrize("dims", ["2, 3, 4, 5", "n, c, h, w"])
def test_global_pools(dims):
    for operator in ("GlobalAveragePool", "GlobalMaxPool"):
        text = f"{header()} net (float[{dims}] x) => (float[a, b, d, e] y) {{ y = {operator} (x) }}"
        check(Case(text, {"x": spaced(2, 3, 4, 5)}, linear=True, doubles=False))


RESIZED = {
    'mode = "nearest"': [2.0, 3.0],
    'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"': [1.5, 2.5],
    'mode = "nearest", coordinate_transformation_mode = "asymmetric"': [0.5, 2.0],
    'mode = "linear"': [2.0, 1.7],
    'mode = "linear", coordinate_transformation_mode = "align_corners"': [2.0, 3.0],
    'mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"': [0.5, 0.7],
    'mode = "linear", coordinate_transformation_mode = "asymmetric"': [2.0, 1.0],
    'mode = "cubic"': [2.0, 1.5],
    'mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1': [0.6, 2.0],
}


@pytest.mark.parametrize("attributes", RESIZED)
@pytest.mark.parametrize("dims", ["2, 3, 4, 5", "n, c, h, w", "n, 3, h, w"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize(attributes, dims, by):
    scales = RESIZED[attributes]
    sizes = [2, 3, *(int(length * scale) for length, scale in zip((4, 5), scales, strict=True))]
    call = "x, , scales" if by == "scales" else "x, , , sizes"
    text = f"{header()} net (float[{dims}] x) => (float[a, b, d, e] y) {{ y = Resize <{attributes}> ({call}) }}"
    constant = np.array([1, 1, *scales], np.float32) if by == "scales" else np.array(sizes, np.int64)
    check(Case(text, {"x": (2, 3, 4, 5)}, {by: constant}, untouched=[by], linear=True, doubles=False))


def test_resize_of_other_ranks():
    for rank, mode in ((3, "linear"), (3, "nearest"), (2, "nearest"), (5, "nearest")):
        shape = (2, 3, 4, 2, 3)[:rank]
        scales = np.array([1, 1, 2, 1, 2][:rank] if rank > 2 else [2, 3], np.float32)
        text = f'{header()} net (float[{free("d", rank)}] x) => (float[{free("o", rank)}] y) {{ y = Resize <mode = "{mode}"> (x, , scales) }}'
        check(Case(text, {"x": shape}, {"scales": scales}, untouched=["scales"], linear=True, doubles=False))


@pytest.mark.parametrize("dims", ["2, 3, 8, 5", "n, 3, 8, 5", "n, 3, h, w"])
@pytest.mark.parametrize("attributes", ["", "dilations = [2, 1], ", "dilations = [1, 2], ", "strides = [2, 1], "])
def test_depthwise_by_blocks_of_rows_and_by_all_rows(dims, attributes):
    pads = "pads = [3, 1, 3, 0]" if "[2, 1], " in attributes else "pads = [1, 1, 1, 0]"
    text = f"""{header()} net (float[{dims}] x) => (float[a, b, c, d] y) {{
        y = Conv <{attributes}{pads}, group = 3> (x, w)
    }}"""
    check(Case(text, {"x": (2, 3, 8, 5)}, {"w": (3, 1, 3, 2)}, linear=True, doubles=False))


def test_padding_that_only_a_run_knows_stops_the_gradient(tmp_path):
    text = f"""{header()} net (float[n, 2, h, w] x) => (float[m, 2, a, b] y) {{
        y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, weight)
    }}"""
    backward = Backward(load(tmp_path, text, {"weight": (2, 2, 3, 3)}), ["weight"], ["y"])
    assert "SAME padding" in backward.unreached["weight"]
    assert backward.run({}, {}) == {}
