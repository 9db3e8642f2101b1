"""Every float weight is listed exactly once, with the forms it can take or the reason it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from text_models import Weights, assert_close, check, draw, load, plan_by_hand, prepared, run

from qcompress.graph import Model, load_model
from qcompress.operators import OPERATORS, Role, find_layers, support_rows
from qcompress.pipeline import prepared_from
from qcompress.rewrite import apply_plan
from qcompress.types import Form, PerBlock, PerChannel, PerTensor, QuantScheme

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def reasons(model: Model) -> dict[str, str]:
    return {layer.name: layer.reason for layer in find_layers(model)}


def small(folder: Any, text: str, weights: Weights, signature: str = "(float[n, 16] x) => (float[n, k] y)") -> Model:
    return prepared(folder, f"{HEADER} net {signature} {{ {text} }}", weights)


KEPT = {
    "a bias": ("y = Gemm (x, w, b)", {"w": (16, 12), "b": (12,)}, "b", "is a bias"),
    "few elements": ("y = MatMul (x, w)", {"w": (16, 2)}, "w", "has only 32 elements"),
    "one element": (
        "u = Unsqueeze (x, axis) \n t = Conv (u, w) \n y = Squeeze (t, axis)",
        {"w": (1, 1, 1), "axis": np.array([1])},
        "w",
        "has only 1 elements",
    ),
    "NaN": ("y = MatMul (x, w)", {"w": np.full((16, 12), np.nan, np.float32)}, "w", "has NaN or infinite values"),
    "infinity": ("y = MatMul (x, w)", {"w": np.full((16, 12), -np.inf, np.float32)}, "w", "has NaN or infinite values"),
    "used otherwise too": (
        "t = MatMul (x, w) \n [sum] u = Add (t, w) \n y = Abs (u)",
        {"w": (16, 16)},
        "w",
        "is also used by Add 'sum'",
    ),
    "convolution and sum": (
        "u = Unsqueeze (x, axis) \n t = Conv <pads = [1, 1]> (u, w) \n v = Squeeze (t, axis) \n s = ReduceSum <keepdims = 0> (w) \n y = Add (v, s)",
        {"w": (1, 1, 3), "axis": np.array([1])},
        "w",
        "is also used by ReduceSum 's'",
    ),
    "unknown operator": ("y = Sub (x, w)", {"w": (80, 16)}, "w", "is not the weight of an operator in the table (Sub)"),
    "gathered along columns": (
        "i = Shape (x) \n g = Gather <axis = 1> (w, i) \n y = MatMul (x, g)",
        {"w": (16, 100)},
        "w",
        "is gathered along another axis than the first",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_says_why(name, tmp_path):
    text, weights, weight, reason = KEPT[name]
    signature = (
        "(float[16, 16] x) => (float[a, k] y)" if name == "used otherwise too" else "(float[80, 16] x) => (float[a, k] y)"
    )
    model = small(tmp_path, text, weights, signature)
    found = {layer.name: layer for layer in find_layers(model)}
    assert found[weight].reason == reason
    assert found[weight].forms == ()


def test_an_empty_weight_is_listed(tmp_path):
    model = small(tmp_path, "y = MatMul (x, w)", {"w": (16, 0)})
    assert reasons(model) == {"w": "has only 0 elements"}


def test_a_model_output_is_listed_even_when_nobody_else_reads_it(tmp_path):
    signature = "(float[n, 16] x) => (float[n, k] y, float[16, 12] w, float[16, 12] lonely)"
    model = small(tmp_path, "y = MatMul (x, w)", {"w": (16, 12), "lonely": (16, 12)}, signature)
    assert reasons(model) == {"w": "is also a model output", "lonely": "is also a model output"}
    before = run(model, {"x": draw("x", 3, 16)})
    apply_plan(plan_by_hand(model, {}, {"x": draw("x", 3, 16)}), model)
    assert_close(run(model, {"x": draw("x", 3, 16)}), before)


def test_an_input_with_a_default_is_kept(tmp_path):
    signature = "(float[n, 16] x, float[16, 12] w) => (float[n, k] y)"
    model = small(tmp_path, "t = MatMul (x, w) \n y = Gemm (t, v)", {"w": (16, 12), "v": (12, 12)}, signature)
    assert reasons(model) == {"w": "is also a model input that a caller may feed", "v": ""}


def test_other_float_types_are_kept(tmp_path):
    weights = {"w": draw("w", 16, 12, dtype="float64")}
    model = small(tmp_path, "y = MatMul (x, w)", weights, "(double[n, 16] x) => (double[n, k] y)")
    assert reasons(model) == {"w": "is float64: only float32, float16 and bfloat16 weights are compressed"}


def test_float16_weights_count_as_stored(tmp_path):
    weights = {"w": draw("w", 16, 12, dtype="float16"), "b": draw("b", 12, dtype="float16")}
    model = small(tmp_path, "y = Gemm (x, w, b)", weights, "(float16[n, 16] x) => (float16[n, k] y)")
    found = {layer.name: layer for layer in find_layers(model)}
    assert (found["w"].bytes, found["w"].stored_dtype, found["w"].reason) == (16 * 12 * 2, "float16", "")
    assert (found["b"].bytes, found["b"].reason) == (24, "is a bias")


def test_what_stays_of_a_float16_model_is_stored_as_float16(tmp_path):
    weights = {"w": draw("w", 16, 96, dtype="float16"), "b": draw("b", 96, dtype="float16")}
    model = small(tmp_path, "y = Gemm (x, w, b)", weights, "(float16[n, 16] x) => (float16[n, k] y)")
    feed = {"x": draw("x", 5, 16, dtype="float16")}
    expected = run(model, feed)
    apply_plan(plan_by_hand(model, {"w": Form.FOLDED}, feed), model)
    check(model)
    types = {
        value.dtype.name
        for value in model.graph.initializers.values()
        if value.dtype is not None and len(value.shape or ()) == 1
    }
    assert types == {"FLOAT16"}
    assert_close(run(model, feed), expected, 2e-2)


def test_a_float16_weight_that_is_an_output_stays_one(tmp_path):
    weights = {"w": draw("w", 16, 12, dtype="float16"), "v": draw("v", 12, 12, dtype="float16")}
    signature = "(float16[n, 16] x) => (float16[n, k] y, float16[16, 12] w)"
    model = small(tmp_path, "t = MatMul (x, w) \n y = MatMul (t, v)", weights, signature)
    feed = {"x": draw("x", 5, 16, dtype="float16")}
    apply_plan(plan_by_hand(model, {"v": Form.FOLDED}, feed), model)
    check(model)
    assert_close(run(model, feed)[1:], [weights["w"]], 0.0)


def test_all_zero_weights_stay_zero_in_every_form(tmp_path):
    for form in OPERATORS["MatMul"].forms:
        model = small(tmp_path, "y = MatMul (x, w)", {"w": np.zeros((16, 12), np.float32)})
        feed = {"x": draw("x", 3, 16)}
        apply_plan(plan_by_hand(model, {"w": form}, feed), model)
        assert float(np.abs(run(model, feed)[0]).max()) < 1e-8


def test_external_data_is_read(tmp_path):
    import onnx

    text = f"{HEADER} net (float[n, 64] x) => (float[n, k] y) {{ y = MatMul (x, w) }}"
    inside = load(tmp_path, text, {"w": (64, 64)})
    proto = onnx.load(inside.path)
    outside = tmp_path / "outside.onnx"
    onnx.save(proto, outside, save_as_external_data=True, location="outside.bin", size_threshold=0)
    feed = {"x": draw("x", 3, 64)}
    results = []
    for path in (inside.path, outside):
        model = prepared_from(load_model(path))
        assert reasons(model) == {"w": ""}
        apply_plan(plan_by_hand(model, {"w": Form.FOLDED}, feed), model)
        results.append(model.serialize())
    assert results[0] == results[1]


def test_weights_of_an_operator_set_that_cannot_be_raised_need_no_new_operators(tmp_path):
    text = '<ir_version: 4, opset_import: ["": 9, "other": 1]> net (float[n, 16] x) => (float[n, k] y) { y = MatMul (x, w) }'
    model = load(tmp_path, text, {"w": (16, 12)})
    (layer,) = find_layers(model)
    assert layer.forms == (Form.FOLDED,)


AXES = [
    ("y = MatMul (x, w)", (16, 12), "(float[n, 16] x) => (float[n, k] y)", PerChannel(1), PerBlock(4, 0)),
    ("y = MatMul (x, w)", (3, 16, 12), "(float[3, n, 16] x) => (float[3, n, k] y)", PerChannel(2), PerBlock(4, 1)),
    ("y = MatMul (w, x)", (12, 16), "(float[16, n] x) => (float[k, n] y)", PerChannel(0), PerBlock(4, 1)),
    ("y = Gemm <transB = 1> (x, w)", (12, 16), "(float[n, 16] x) => (float[n, k] y)", PerChannel(0), PerBlock(4, 1)),
    ("y = Gemm (x, w)", (16, 12), "(float[n, 16] x) => (float[n, k] y)", PerChannel(1), PerBlock(4, 0)),
    ("y = Conv (x, w)", (12, 8, 3), "(float[n, 8, 9] x) => (float[n, k, l] y)", PerChannel(0), PerBlock(4, 1)),
    ("y = ConvTranspose (x, w)", (8, 12, 3), "(float[n, 8, 9] x) => (float[n, k, l] y)", PerChannel(1), PerBlock(4, 0)),
    ("y = Gather (w, x)", (20, 8), "(int64[n] x) => (float[n, k] y)", PerChannel(0), PerBlock(4, 1)),
    ("y = Gather (w, x)", (90,), "(int64[n] x) => (float[n] y)", PerTensor(), PerTensor()),
    ("y = MatMul (x, w)", (80,), "(float[n, 80] x) => (float[n] y)", PerTensor(), PerTensor()),
    (
        "_, y = LSTM <hidden_size = 4> (x, w, r)",
        (1, 16, 8),
        "(float[t, n, 8] x) => (float[d, n, h] y)",
        PerBlock(8, 2),
        PerBlock(4, 2),
    ),
]


@pytest.mark.parametrize(("text", "shape", "signature", "channel", "block"), AXES)
def test_channels_run_over_outputs_and_blocks_over_inputs(text, shape, signature, channel, block, tmp_path):
    weights = {"w": shape, "r": (1, 16, 4)} if "LSTM" in text else {"w": shape}
    model = small(tmp_path, text.replace("_, y", "all, y"), weights, signature)
    layer = next(layer for layer in find_layers(model) if layer.name == "w")
    assert layer.scheme(QuantScheme.parse("int8/channel")).granularity == channel
    assert layer.scheme(QuantScheme.parse("int8/block4")).granularity == block
    assert layer.scheme(QuantScheme.parse("int8")).granularity == PerTensor()


def test_the_table_is_consistent():
    for name, row in OPERATORS.items():
        assert row.op_type == name
        assert bool(row.weights) == bool(row.forms) == (row.role in (Role.LINEAR, Role.RECURRENT, Role.LOOKUP))
        assert row.bias is None or row.bias not in row.weights
        assert not row.forms or Form.FOLDED in row.forms  # whatever else fails, a weight can be stored compressed
    assert [row[0] for row in support_rows()] == list(OPERATORS)
    assert all(remark for _, _, remark in support_rows())
