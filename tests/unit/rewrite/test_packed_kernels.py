"""Packed codes reach the same kernels as whole bytes, in the main graph and in bodies, on layers of real proportions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from test_bodies import CASES
from test_sparse_storage import thinned
from text_models import check, draw, plan_by_hand, prepared, run, sqnr, three_ways, with_rounded_weights

from qcompress.measure.kernels import measure_kernels
from qcompress.operators import find_layers, why_not_stored
from qcompress.operators.support import BLOCKS, CHANNEL_SCALES
from qcompress.rewrite import apply_plan
from qcompress.runtime import Optimization, SessionSettings
from qcompress.types import Form, parse_scheme

STATIC, DYNAMIC, WEIGHT_ONLY, FOLDED, GATHERED = Form

CONVS = (
    """[a] p = Conv <pads = [1, 1, 1, 1]> (x, w, b) \n r = Relu (p) \n [d] q = Conv <group = 24, pads = [1, 1, 1, 1]> (r, v)
    s = Relu (q) \n m = GlobalAveragePool (s) \n f = Flatten (m) \n y = Gemm <transB = 1> (f, u, c)""",
    "(float[n, 16, 8, 8] x) => (float[n, k] y)",
    {"w": (24, 16, 3, 3), "b": (24,), "v": (24, 1, 3, 3), "u": (10, 24), "c": (10,)},
    {"x": draw("x", 2, 16, 8, 8)},
)
PRODUCTS = (
    """h = MatMul (x, w) \n i = Add (h, b) \n g = Relu (i) \n u = Transpose (v) \n z = MatMul (g, u) \n y = Gemm <transB = 1> (z, t, c)""",
    "(float[n, 64] x) => (float[n, k] y)",
    {"w": (64, 96), "b": (96,), "v": (32, 96), "t": (48, 32), "c": (48,)},
    {"x": draw("x", 4, 64)},
)
TIED = (
    "e = Gather (w, i) \n t = Transpose <perm = [1, 0]> (w) \n y = MatMul (e, t)",
    "(int64[a, b] i) => (float[a, b, v] y)",
    {"w": (80, 64)},
    {"i": np.array([[1, 5, 0], [79, -1, 2]])},
)


def kernels(folder, net, form, scheme, opset, zeros=0.0):
    """The kernels of the model that has every weight that can in the form, and how close it is to the rounded weights.

    ``zeros``: the share of numbers in large weights that are made zero first; then some must be stored without them.
    """
    body, signature, weights, feed = net
    if zeros:
        weights = {
            name: thinned(draw(name, *what), zeros) if isinstance(what, tuple) and np.prod(what) > 1000 else what
            for name, what in weights.items()
        }
    text = f'<ir_version: 10, opset_import: ["": {opset}]> net {signature} {{ {body} }}'
    model = prepared(folder, text, weights)
    wanted = parse_scheme(scheme)
    forms = {layer.name: form for layer in find_layers(model) if not why_not_stored(layer, form, wanted)}
    plan = plan_by_hand(model, forms, feed, scheme)
    rounded = with_rounded_weights(model, plan)
    plan = plan_by_hand(rounded, forms, feed, scheme) if form is STATIC else plan
    expected = run(rounded, feed, Optimization.DISABLED)
    done = apply_plan(plan, model)
    assert bool(done.saved) is bool(zeros)
    check(model)
    for found in three_ways(model, feed).values():
        assert sqnr(found[0], expected[0]) > 20
    path = folder / "written.onnx"
    path.write_bytes(model.serialize())
    return Counter(measure_kernels(path, SessionSettings(1)).integer)


@pytest.mark.parametrize("scheme", ["int8/channel", "int4/channel", "int3/channel", "int2"])
def test_static_layers_run_on_integer_kernels_at_any_width(scheme, tmp_path):
    found = kernels(tmp_path, CONVS, STATIC, scheme, CHANNEL_SCALES)
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == 1


@pytest.mark.parametrize("scheme", ["int8/channel", "int4/channel", "int5/channel"])
def test_dynamic_products_fuse_at_any_width(scheme, tmp_path):
    found = kernels(tmp_path, PRODUCTS, DYNAMIC, scheme, CHANNEL_SCALES)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 3


@pytest.mark.parametrize("opset", [CHANNEL_SCALES, BLOCKS])
@pytest.mark.parametrize(
    "scheme",
    [
        "int8/channel",
        "int4/channel",
        "uint4/asym/channel",
        "int3/channel",
        "uint6/asym",
        "int4/block32",
        "uint4/asym/block16",
        "int5/block16",
    ],
)
def test_products_multiply_codes_at_any_width(scheme, opset, tmp_path):
    found = kernels(tmp_path, PRODUCTS, WEIGHT_ONLY, scheme, opset)
    assert found["MatMulNBits"] == (0 if "block" in scheme and opset < BLOCKS else 3)


@pytest.mark.parametrize("scheme", ["int8/channel", "int4/channel", "int4/block32", "uint4/asym/block32", "int3/block16"])
def test_a_tied_table_is_looked_up_and_multiplied_as_codes(scheme, tmp_path):
    assert kernels(tmp_path, TIED, WEIGHT_ONLY, scheme, BLOCKS)["MatMulNBits"] == 1


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("int4/block32", 4), ("uint4/asym/block32", 4), ("int4/channel", 4), ("int3/channel", 8), ("int8/channel", 8)],
)
def test_products_of_four_bits_have_a_kernel_of_their_own(scheme, bits, tmp_path):
    for net, forms in ((PRODUCTS, dict.fromkeys(("w", "u_value", "t"), WEIGHT_ONLY)), (TIED, {"w": WEIGHT_ONLY})):
        body, signature, weights, feed = net
        model = prepared(tmp_path, f'<ir_version: 10, opset_import: ["": 21]> net {signature} {{ {body} }}', weights)
        apply_plan(plan_by_hand(model, forms, feed, scheme), model)
        nodes = optimized(model.serialize(), tmp_path)
        widths = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "bits"]
        assert widths == [bits] * len(forms)


@pytest.mark.parametrize("opset", [CHANNEL_SCALES, BLOCKS])
@pytest.mark.parametrize(
    "clip", ["r = Relu (p)", "r = Clip (p, zero, six)", "r = Clip (p, zero)", "r = Clip (p, , six)", "r = Clip (p)"]
)
@pytest.mark.parametrize("product", ["p = MatMul (x, w)", "q = MatMul (x, w) \n p = Add (q, b)", "p = Gemm (x, w, b)"])
def test_what_clips_a_product_does_not_keep_its_weight_from_the_kernel(product, clip, opset, tmp_path):
    net = (
        f"{product} \n {clip} \n y = MatMul (r, v) \n z = Exp (r)",
        "(float[n, 64] x) => (float[n, k] y, float[n, l] z)",
        {"w": (64, 48), "b": (48,), "v": (48, 8), "zero": np.float32(-0.1), "six": np.float32(0.5)},
        {"x": draw("x", 4, 64)},
    )
    assert kernels(tmp_path, net, WEIGHT_ONLY, "int8/channel", opset)["MatMulNBits"] == 2


@pytest.mark.parametrize("scheme", ["int8/channel", "int4/channel", "uint8/asym/channel"])
def test_sparse_static_layers_run_on_integer_kernels(scheme, tmp_path):
    found = kernels(tmp_path, CONVS, STATIC, scheme, CHANNEL_SCALES, 0.9)
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == 1


@pytest.mark.parametrize("scheme", ["int8/channel", "int4/channel"])
def test_sparse_products_fuse(scheme, tmp_path):
    found = kernels(tmp_path, PRODUCTS, DYNAMIC, scheme, CHANNEL_SCALES, 0.9)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 3
    assert kernels(tmp_path, PRODUCTS, STATIC, scheme, CHANNEL_SCALES, 0.9) == {"QGemm": 2, "QLinearMatMul": 1}


@pytest.mark.parametrize("opset", [CHANNEL_SCALES, BLOCKS])
@pytest.mark.parametrize(
    "scheme", ["int8/channel", "int4/channel", "uint4/asym/channel", "int4/block32", "uint8/asym/block16"]
)
def test_sparse_codes_are_multiplied_as_codes(scheme, opset, tmp_path):
    if "block" in scheme and opset < BLOCKS:
        return
    assert kernels(tmp_path, PRODUCTS, WEIGHT_ONLY, scheme, opset, 0.9)["MatMulNBits"] == 3


def optimized(content, folder):
    """The nodes of a model as the runtime runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx").graph.node


def test_nothing_is_unpacked_at_run_time(tmp_path):
    """All that unpacks is folded at load; only looked-up rows are unpacked as they come."""
    for net, form, left in (
        (CONVS, FOLDED, 0),
        (CONVS, STATIC, 0),
        (PRODUCTS, FOLDED, 0),
        (PRODUCTS, DYNAMIC, 0),
        (TIED, WEIGHT_ONLY, 1),
    ):
        body, signature, weights, feed = net
        model = prepared(tmp_path, f'<ir_version: 10, opset_import: ["": 21]> net {signature} {{ {body} }}', weights)
        forms = {layer.name: form for layer in find_layers(model) if form in layer.forms}
        apply_plan(plan_by_hand(model, forms, feed, "int4/channel"), model)
        nodes = optimized(model.serialize(), tmp_path)
        tables = [node for node in nodes if node.op_type == "Gather" and not node.input[0].startswith("w/")]
        assert len(tables) == left, form


@pytest.mark.parametrize("scheme", ["int4/channel", "uint3/asym", "codebook16/channel", "float16", "int4/block8"])
@pytest.mark.parametrize("opset", [17, BLOCKS])
@pytest.mark.parametrize("name", CASES)
def test_packed_weights_in_and_around_bodies_load_and_compute(name, opset, scheme, tmp_path):
    text, weights, feed = CASES[name]
    text = text.replace('"": 17', f'"": {opset}').replace("ir_version: 8", "ir_version: 10")
    model = prepared(tmp_path, text, weights)
    wanted = parse_scheme(scheme)
    for form in (DYNAMIC, WEIGHT_ONLY, FOLDED, GATHERED):
        written = model.clone()
        forms = {layer.name: form for layer in find_layers(model) if not why_not_stored(layer, form, wanted)}
        plan = plan_by_hand(model, forms, feed, scheme)
        expected = run(with_rounded_weights(model, plan), feed, Optimization.DISABLED)
        apply_plan(plan, written)
        check(written)
        for level in (Optimization.ALL, Optimization.DISABLED):
            for got, wanted_output in zip(run(written, feed, level), expected, strict=True):
                assert sqnr(got, wanted_output) > (28 if form in (DYNAMIC, WEIGHT_ONLY) else 90), form


@pytest.mark.parametrize("scheme", ["int8/channel", "uint8/asym/channel", "uint4/asym", "int3/channel"])
def test_static_products_with_biases_behind_them_fuse(scheme, tmp_path):
    assert kernels(tmp_path, PRODUCTS, STATIC, scheme, CHANNEL_SCALES) == {"QGemm": 2, "QLinearMatMul": 1}


@pytest.mark.parametrize("scheme", ["uint8/asym/channel", "uint4/asym/channel", "uint2/channel"])
def test_static_codes_are_int8_whatever_the_scheme(scheme, tmp_path):
    body, signature, weights, feed = CONVS
    model = prepared(tmp_path, f'<ir_version: 8, opset_import: ["": 13]> net {signature} {{ {body} }}', weights)
    apply_plan(plan_by_hand(model, {"w": STATIC}, feed, scheme), model)
    products = [node for node in optimized(model.serialize(), tmp_path) if node.op_type == "QLinearConv"]
    stored = {item.name: item for item in onnx.load(tmp_path / "optimized.onnx").graph.initializer}
    (codes,) = (stored[node.input[3]] for node in products)
    assert codes.data_type == onnx.TensorProto.INT8
