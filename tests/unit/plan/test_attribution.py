"""Kernels as profiles of real models list them find the nodes and tensors they belong to."""

from __future__ import annotations

import pytest
from text_models import prepared

from qcompress.operators import find_layers
from qcompress.plan.anatomy import anatomy
from qcompress.plan.attribution import attribute, profiling_overhead, without_overhead
from qcompress.results import KernelTime

RESIDUAL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
    [one] a = Conv (x, one_w)
    [one_relu] b = Relu (a)
    [two] c = Conv (b, two_w)
    [sum] d = Add (b, c)
    [sum_relu] e = Relu (d)
    [turn] t = Transpose <perm = [0, 1, 3, 2]> (e)
    [three] y = Conv (t, three_w)
}
"""
PRODUCTS = """
<ir_version: 8, opset_import: ["": 17]>
net (int64[1, 8] i) => (float[1, 8, 32] y) {
    [look] e = Gather (table, i)
    [left] a = MatMul (e, left_w)
    [left_bias] b = Add (a, left_b)
    [right] c = MatMul (e, right_w)
    [mix] y = Add (b, c)
}
"""
CONV = (16, 16, 1, 1)


@pytest.fixture
def residual(tmp_path):
    model = prepared(tmp_path, RESIDUAL, {"one_w": CONV, "two_w": CONV, "three_w": CONV})
    return anatomy(model, find_layers(model))


@pytest.fixture
def products(tmp_path):
    weights = {"table": (50, 32), "left_w": (32, 32), "left_b": (32,), "right_w": (32, 32)}
    model = prepared(tmp_path, PRODUCTS, weights)
    return anatomy(model, find_layers(model))


def kernel(name, kind, ms, inputs, outputs):
    return KernelTime(name, kind, ms, tuple(inputs.split()), tuple(outputs.split()))


FLOAT = [
    kernel("ReorderInput", "ReorderInput", 1.0, "x", "reorder_token_1"),
    kernel("b_nchwc", "Conv", 10.0, "reorder_token_1 w1", "reorder_token_2"),
    kernel("e_nchwc", "Conv", 20.0, "reorder_token_2 w2 reorder_token_2", "reorder_token_3"),
    kernel("ReorderOutput_token_9", "ReorderOutput", 2.0, "reorder_token_3", "e"),
    kernel("turn", "Transpose", 4.0, "e", "t"),
    kernel("y_nchwc", "Conv", 30.0, "t w3", "reorder_token_4"),
    kernel("ReorderOutput_token_8", "ReorderOutput", 3.0, "reorder_token_4", "y"),
]
STATIC = [
    kernel("QuantizeLinear_7", "QuantizeLinear", 1.0, "x s z", "x/q"),
    kernel("Transpose", "Transpose", 0.5, "x/q", "Transpose_out0"),
    kernel("one_token_35", "QLinearConv", 4.0, "Transpose_out0 w1", "one"),
    kernel("two_token_38", "QLinearConv", 5.0, "one w2", "two"),
    kernel("sum", "QLinearAdd", 2.0, "one two", "sum"),
    kernel("/duplicated_token_1", "DequantizeLinear", 1.5, "sum", "/duplicated_token_1"),
    kernel("Transpose_token_240", "Transpose", 0.25, "/duplicated_token_1", "e"),
    kernel("turn", "Transpose", 4.0, "e", "t"),
    kernel("y_nchwc", "Conv", 30.0, "t w3", "reorder_token_4"),
    kernel("ReorderOutput", "ReorderOutput", 3.0, "reorder_token_4", "y"),
]


def test_fused_kernels_are_their_convolutions_and_layouts_their_tensors(residual):
    found = attribute(FLOAT, residual)
    assert found.nodes == {"one": 10.0, "two": 20.0, "turn": 4.0, "three": 30.0}
    assert found.layout == {"x": 1.0, "e": 2.0, "y": 3.0}
    assert not found.quantize
    assert not found.dequantize


def test_integer_kernels_and_conversions_of_static_ranges(residual):
    found = attribute(STATIC, residual, ("x", "b", "c", "e"))
    assert found.nodes == {"one": 4.0, "two": 5.0, "sum": 2.0, "turn": 4.0, "three": 30.0}
    assert found.quantize == {"x": 1.0}
    assert found.dequantize == {"e": 1.5}
    assert found.layout == {"x": 0.5, "e": 0.25, "y": 3.0}
    assert found.total == pytest.approx(sum(item.ms for item in STATIC))


def test_a_conversion_that_was_moved_belongs_to_its_tensor(residual):
    """The runtime quantizes in front of the transposition, the plan behind it."""
    moved = [*FLOAT[:4], kernel("e_q", "QuantizeLinear", 1.0, "e s z", "e_q_to_dq"), *FLOAT[4:]]
    assert attribute(moved, residual, ("t",)).quantize == {"t": 1.0}


def test_without_tensors_names_and_order_are_enough(residual):
    found = attribute([KernelTime(item.name, item.kernel, item.ms) for item in FLOAT], residual)
    assert found.nodes == {"one": 11.0, "two": 20.0, "turn": 4.0, "three": 30.0}
    assert found.layout == {"e": 2.0, "y": 3.0}
    assert found.total == pytest.approx(sum(item.ms for item in FLOAT))


def test_dynamic_products_share_what_quantizing_their_input_takes(products):
    kernels = [
        kernel("Gather_3", "Gather", 0.5, "s i", "look_scales"),
        kernel("Gather_1", "Gather", 1.0, "q i", "look/q"),
        kernel("Cast_2", "Cast", 0.25, "look/q", "look_cast"),
        kernel("Mul_4", "Mul", 0.25, "look_cast look_scales", "e"),
        kernel("DynamicQuantizeLinear_5", "DynamicQuantizeLinear", 1.0, "e", "e_codes e_scale e_zero_point"),
        kernel("MatMulIntegerToFloat_6", "MatMulIntegerToFloat", 3.0, "e_codes w e_scale s e_zero_point", "b"),
        kernel("MatMulIntegerToFloat_7", "MatMulIntegerToFloat", 4.0, "e_codes v e_scale s e_zero_point", "c"),
        kernel("mix", "Add", 0.5, "b c", "y"),
    ]
    found = attribute(kernels, products)
    assert found.nodes == {"look": 2.0, "left": 3.0, "right": 4.0, "mix": 0.5}
    assert found.dynamic == {"e": 1.0}


def test_weights_decoded_on_every_run_are_charged_to_their_layer(products):
    kernels = [
        kernel("look", "Gather", 1.0, "table i", "e"),
        kernel("DequantizeLinear_4", "DequantizeLinear", 6.0, "w_q w_s", "left_w/dq"),
        kernel("left", "MatMul", 3.0, "e left_w/dq", "a"),
        kernel("left_bias", "Add", 0.5, "a left_b", "b"),
        kernel("right", "MatMulNBits", 2.0, "e w s", "c"),
        kernel("mix", "Add", 0.5, "b c", "y"),
    ]
    found = attribute(kernels, products)
    assert found.nodes == {"look": 1.0, "left": 9.0, "left_bias": 0.5, "right": 2.0, "mix": 0.5}
    assert not found.dequantize


def test_one_kernel_for_several_layers_is_divided_by_their_weights(products):
    kernels = [kernel("look", "Gather", 1.0, "table i", "e"), kernel("Fused", "Everything", 8.0, "e w v", "y")]
    assert attribute(kernels, products).nodes == {"look": 1.0, "left": 4.0, "right": 4.0}


def test_what_leads_nowhere_is_charged_to_all(products):
    kernels = [kernel("look", "Gather", 1.0, "table i", "e"), kernel("Odd_3", "Odd", 1.0, "table", "nobody_reads")]
    assert attribute(kernels, products).nodes == {"look": 2.0}


def test_overhead_is_taken_from_every_kernel_and_the_total_is_kept():
    kernels = [KernelTime("large", "Conv", 10.0), KernelTime("small", "Relu", 3.0), KernelTime("tiny", "Relu", 2.0)]
    overhead = profiling_overhead(kernels, 9.0)
    assert overhead == pytest.approx(2.0)
    assert [item.ms for item in without_overhead(kernels, 9.0, overhead)] == pytest.approx([8.0, 1.0, 0.0], abs=0.05)
    assert sum(item.ms for item in without_overhead(kernels, 9.0, overhead)) == pytest.approx(9.0)
    assert profiling_overhead(kernels, 20.0) == 0.0
    assert [item.ms for item in without_overhead(kernels, 30.0, 0.0)] == pytest.approx([20.0, 6.0, 4.0])
    assert without_overhead([], 1.0, 0.0) == []
