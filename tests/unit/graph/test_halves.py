"""Models in bfloat16, or with weights stored in it, are compressed from their own values; float16 is like it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from text_models import Array, assert_close, check, draw, load, plan_by_hand, prepared, run, run_reference, sqnr, three_ways

from qcompress.errors import ModelError
from qcompress.graph import load_model
from qcompress.operators import find_layers
from qcompress.pipeline import RunOptions, compress
from qcompress.rewrite import apply_plan
from qcompress.runtime import Optimization
from qcompress.types import Form

WHOLE = """<ir_version: 10, opset_import: ["": 21]>
net (HALF[n, 24] x, int64[n] i, bool c) => (HALF[n, 40] y) {
    e = Gather (table, i)
    s = Add (x, e)
    h = MatMul (s, w)
    a = Relu (h)
    y = If (c) <
      then_branch = then () => (HALF[n, 40] o) { o = Gemm <transB = 1> (a, v, b) },
      else_branch = other () => (HALF[n, 40] p) { p = Mul (a, b) }
    >
}"""
STORED = """<ir_version: 10, opset_import: ["": 21]>
net (float[n, 24] x, int64[n] i, bool c) => (float[n, 40] y) {
    t = Cast <to = 1> (table) \n e = Gather (t, i)
    s = Add (x, e)
    u = Cast <to = 1> (w) \n h = MatMul (s, u)
    a = Relu (h)
    d = Cast <to = 1> (b)
    y = If (c) <
      then_branch = then () => (float[n, 40] o) { r = Cast <to = 1> (v) \n o = Gemm <transB = 1> (a, r, d) },
      else_branch = other () => (float[n, 40] p) { p = Mul (a, d) }
    >
}"""
SHAPES = {"table": (30, 24), "w": (24, 40), "b": (40,), "then/v": (40, 40)}
TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def weights(name: str) -> dict[str, Array]:
    return {weight: draw(weight, *shape).astype(TYPES[name]) for weight, shape in SHAPES.items()}


def in_float(name: str) -> dict[str, Array]:
    return {weight: array.astype(np.float32) for weight, array in weights(name).items()}


def feed() -> dict[str, Array]:
    return {"x": draw("x", 5, 24), "i": np.array([0, 3, 29, -1, 3]), "c": np.array(True)}


def inside(text: str) -> str:
    """The same model with float32 everywhere, which computes what a half model should."""
    return text.replace("HALF", "float")


@pytest.mark.parametrize("form", [None, Form.FOLDED, Form.WEIGHT_ONLY, Form.DYNAMIC])
@pytest.mark.parametrize("name", TYPES)
def test_stored_halves_are_compressed_from_their_own_values(name, form, tmp_path):
    exact = run(load(tmp_path, inside(WHOLE), in_float(name)), feed())
    model = prepared(tmp_path, STORED, weights(name))
    layers = {layer.name: layer for layer in find_layers(model)}
    assert {weight: layer.stored_dtype for weight, layer in layers.items()} == dict.fromkeys(("table", "w", "b", "v"), name)
    assert [weight for weight, layer in layers.items() if not layer.reason] == ["table", "w", "v"]
    assert layers["w"].bytes == 24 * 40 * 2
    np.testing.assert_array_equal(layers["w"].array, in_float(name)["w"])
    forms = {} if form is None else {weight: form for weight in ("w", "v") if form in layers[weight].forms}
    apply_plan(plan_by_hand(model, forms | {"table": Form.GATHERED}, feed()), model)
    check(model)
    for found in three_ways(model, feed()).values():
        assert found[0].dtype == np.float32
        assert sqnr(found[0], exact[0]) > 30
    stored = {tensor.name: tensor for tensor in onnx.load_from_string(model.serialize()).graph.initializer}
    if form is None:  # what is kept is stored in its own type again, bit by bit
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["w_half"]), weights(name)["w"])
        assert len(model.serialize()) < len(load(tmp_path, STORED, weights(name)).serialize())


@pytest.mark.parametrize("name", TYPES)
def test_whole_graphs_keep_their_interface(name, tmp_path):
    text = WHOLE.replace("HALF", name)
    given = feed() | {"x": feed()["x"].astype(TYPES[name])}
    exact = run(load(tmp_path, inside(WHOLE), in_float(name)), feed() | {"x": given["x"].astype(np.float32)})
    source = load(tmp_path, text, weights(name))
    compress(source.path, tmp_path / "small.onnx", "int8-weights", options=RunOptions(threads=1, latency_seconds=0))
    model = load_model(tmp_path / "small.onnx")
    assert [signature.dtype for signature in (model.inputs[0], *model.outputs)] == [name, name]
    check(model)
    ways = [run_reference(model, given)]
    if name == "float16":  # arrays of bfloat16 cannot be fed through numpy
        ways += [run(model, given), run(model, given, Optimization.DISABLED)]
    for found in ways:
        assert found is not None
        assert found[0].dtype == TYPES[name]
        assert sqnr(found[0].astype(np.float32), exact[0]) > 30


def test_a_bfloat16_graph_that_the_runtime_refuses_loads_when_compressed(tmp_path):
    """The interface is float32 here, since arrays of bfloat16 cannot be fed through numpy."""
    text = WHOLE.replace("HALF[n, 24] x", "float[n, 24] given").replace("=> (HALF", "=> (float")
    text = text.replace("e = Gather", "x = Cast <to = 16> (given) \n e = Gather", 1).replace("HALF", "bfloat16")
    text = text.replace("y = If", "z = If").replace(">\n}", ">\n y = Cast <to = 1> (z)\n}")
    model = load(tmp_path, text, weights("bfloat16"))
    given = {"given": feed()["x"], "i": feed()["i"], "c": feed()["c"]}
    with pytest.raises(ModelError, match="cannot load"):
        run(model, given)
    report = compress(model.path, tmp_path / "small.onnx", "int8-weights", options=RunOptions(threads=1, latency_seconds=0))
    assert report.size.ratio < 0.9
    assert report.kernels is not None
    assert not report.kernels.note
    exact = run(load(tmp_path, inside(WHOLE), in_float("bfloat16")), feed())
    found = run((tmp_path / "small.onnx").read_bytes(), given)
    assert_close([np.asarray(found[0].shape)], [np.asarray(exact[0].shape)])
    assert sqnr(found[0], exact[0]) > 25
