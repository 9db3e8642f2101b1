"""Every preparation pass leaves the results of the model as they are and does what it is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from text_models import Weights, assert_close, check, draw, load, operators, run, run_reference, three_ways

from qcompress.graph.opset import raise_opset
from qcompress.graph.passes import PREPARATION, UNPACKING, prepare, unpack
from qcompress.pipeline import prepared_from
from qcompress.runtime import Optimization

IMAGE = draw("image", 2, 4, 8, 8)


@dataclass(frozen=True)
class Case:
    """A model body, its weights, and which operators must be left after preparation."""

    text: str
    weights: Weights
    left: list[str] | None
    header: str = '<ir_version: 8, opset_import: ["": 17]>'
    signature: str = "(float[n, 4, 8, 8] x) => (float[n, c, h, w] y)"
    feed: dict[str, Any] = field(default_factory=lambda: {"x": IMAGE})
    tolerance: float = 1e-5

    @property
    def model(self) -> str:
        return f"{self.header} net {self.signature} {{ {self.text} }}"


NORM = {"gamma": 1 + draw("gamma", 6), "beta": draw("beta", 6), "mean": draw("mean", 6), "var": 0.5 + np.abs(draw("v", 6))}
CONV = {"w": (6, 4, 3, 3), "b": (6,)}
VECTOR = {"a": 1 + 0.1 * draw("a", 1, 6, 1, 1)}

CASES = {
    "batch norm behind a convolution": Case(
        "t = Conv (x, w) \n y = BatchNormalization (t, gamma, beta, mean, var)", {"w": (6, 4, 3, 3), **NORM}, ["Conv"]
    ),
    "batch norm behind a biased convolution": Case(
        "t = Conv (x, w, b) \n y = BatchNormalization <epsilon = 0.1> (t, gamma, beta, mean, var)",
        {**CONV, **NORM},
        ["Conv"],
    ),
    "batch norm of a graph output is left": Case(
        "t = Conv (x, w, b) \n y = BatchNormalization (t, gamma, beta, mean, var)",
        {**CONV, **NORM},
        ["Conv", "BatchNormalization"],
        signature="(float[n, 4, 8, 8] x) => (float[n, c, h, w] y, float[n, c, h, w] t)",
    ),
    "batch norm behind a transposed convolution": Case(
        "t = ConvTranspose (x, w, b) \n y = BatchNormalization (t, gamma, beta, mean, var)",
        {"w": (4, 6, 2, 2), "b": (6,), **NORM},
        ["ConvTranspose"],
    ),
    "batch norm behind a grouped transposed convolution": Case(
        "t = ConvTranspose <group = 2> (x, w, b) \n y = BatchNormalization (t, gamma, beta, mean, var)",
        {"w": (4, 3, 2, 2), "b": (6,), **NORM},
        None,
    ),
    "offset behind a grouped transposed convolution": Case(
        "t = ConvTranspose <group = 2> (x, w) \n y = Add (t, a)", {"w": (4, 3, 2, 2), **VECTOR}, ["ConvTranspose"]
    ),
    "scalar behind a grouped transposed convolution": Case(
        "t = ConvTranspose <group = 2> (x, w, b) \n y = Mul (t, s)",
        {"w": (4, 3, 2, 2), "b": (6,), "s": np.float32(3.0)},
        ["ConvTranspose"],
    ),
    "batch norm in training is left": Case(
        "t = Conv (x, w, b) \n y, m, v = BatchNormalization <training_mode = 1> (t, gamma, beta, mean, var)",
        {**CONV, **NORM},
        ["Conv", "BatchNormalization"],
        tolerance=1e-4,
    ),
    "a chain of affine nodes": Case(
        "t = Conv (x, w, b) \n u = Mul (a, t) \n v = Add (u, s) \n z = Sub (v, a) \n y = Div (z, a)",
        {**CONV, **VECTOR, "s": np.float32(0.3)},
        ["Conv"],
    ),
    "constant minus layer is left": Case("t = Conv (x, w, b) \n y = Sub (a, t)", {**CONV, **VECTOR}, ["Conv", "Sub"]),
    "constant over layer is left": Case(
        "t = Conv (x, w, b) \n u = Abs (t) \n o = Add (u, s) \n y = Div (a, o)",
        {**CONV, **VECTOR, "s": np.float32(1.0)},
        ["Conv", "Abs", "Add", "Div"],
    ),
    "a map over the width is left": Case(
        "t = Conv (x, w) \n y = Mul (t, a)", {"w": (6, 4, 3, 3), "a": (6,)}, ["Conv", "Mul"]
    ),
    "a map that adds an axis is left": Case(
        "t = Conv (x, w) \n y = Add (t, a)",
        {"w": (6, 4, 3, 3), "a": (1, 1, 6, 1, 1)},
        ["Conv", "Add"],
        signature="(float[n, 4, 8, 8] x) => (float[a, n, c, h, w] y)",
    ),
    "a map that widens one channel is left": Case(
        "t = Conv (x, w) \n y = Add (t, a)", {"w": (1, 4, 3, 3), **VECTOR}, ["Conv", "Add"]
    ),
    "division by zero is left": Case(
        "t = Conv (x, w, b) \n u = Div (t, s) \n y = Clip (u, low, high)",
        {**CONV, "s": np.float32(0.0), "low": np.float32(-1.0), "high": np.float32(1.0)},
        ["Conv", "Div", "Clip"],
    ),
    "an overflowing bias is left": Case(
        "t = Conv (x, w, b) \n u = Mul (t, s) \n y = Mul (u, r)",
        {
            "w": draw("tiny", 6, 4, 3, 3) * 1e-30,
            "b": np.full(6, 1e-3, np.float32),
            "s": np.float32(1e38),
            "r": np.float32(1e-3),
        },
        ["Conv"],
    ),
    "a weight shared with a folded layer": Case(
        "t = Conv (x, w, b) \n u = BatchNormalization (t, gamma, beta, mean, var) \n v = Conv (x, w, b) \n y = Add (u, v)",
        {**CONV, **NORM},
        ["Conv", "Conv", "Add"],
    ),
    "a bias shared with a folded layer": Case(
        "t = Conv (x, w, b) \n u = Mul (t, a) \n v = Conv (x, w2, b) \n y = Add (u, v)",
        {**CONV, **VECTOR, "w2": (6, 4, 3, 3)},
        ["Conv", "Conv", "Add"],
    ),
    "a folded weight that is an output keeps its values": Case(
        "t = Conv (x, w, b) \n y = Mul (t, a)",
        {**CONV, **VECTOR},
        ["Conv"],
        signature="(float[n, 4, 8, 8] x) => (float[n, c, h, w] y, float[6, 4, 3, 3] w, float[6] b)",
    ),
    "padding in a node of its own": Case(
        "p = Pad (x, pads) \n y = Conv <pads = [0, 1, 0, 0]> (p, w, b)",
        {**CONV, "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])},
        ["Conv"],
    ),
    "padding before a convolution without padding of its own": Case(
        'p = Pad (x, pads) \n y = Conv <auto_pad = "VALID"> (p, w, b)',
        {**CONV, "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])},
        ["Conv"],
    ),
    "padding before automatic padding is left": Case(
        'p = Pad (x, pads) \n y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (p, w, b)',
        {**CONV, "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])},
        ["Pad", "Conv"],
    ),
    "padding with ones is left": Case(
        "p = Pad (x, pads, one) \n y = Conv (p, w, b)",
        {**CONV, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1.0)},
        ["Pad", "Conv"],
    ),
    "padded channels are left": Case(
        "p = Pad (x, pads) \n y = Conv (p, w, b)",
        {"w": (6, 6, 3, 3), "b": (6,), "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0])},
        ["Pad", "Conv"],
    ),
    "negative padding is left": Case(
        "p = Pad (x, pads) \n y = Conv (p, w, b)", {**CONV, "pads": np.array([0, 0, -1, 0, 0, 0, 1, 0])}, ["Pad", "Conv"]
    ),
    "padding that something else reads is left": Case(
        "p = Pad (x, pads) \n t = Conv (p, w, b) \n m = ReduceMean (p) \n y = Add (t, m)",
        {**CONV, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        ["Pad", "Conv", "ReduceMean", "Add"],
    ),
    "reflected padding is left": Case(
        'p = Pad <mode = "reflect"> (x, pads) \n y = Conv (p, w, b)',
        {**CONV, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        ["Pad", "Conv"],
    ),
    "padding with ones of operator set 10": Case(
        "p = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 1.0> (x) \n y = Conv (p, w, b)",
        CONV,
        None,
        header='<ir_version: 5, opset_import: ["": 10]>',
    ),
    "shape arithmetic": Case(
        """three = Constant <value = int64[1] {3}> ()
        minus = Neg (three)
        five = Constant <value = int64[1] {5}> ()
        two = Constant <value = int64[1] {2}> ()
        half = Div (minus, two)
        sum = Add (five, half)
        shape = Concat <axis = 0> (zero, sum, rest)
        y = Reshape (x, shape)""",
        {"zero": np.array([0]), "rest": np.array([-1])},
        ["Reshape"],
        signature="(float[n, 4, 8, 8] x) => (float[a, b, c] y)",
    ),
    "constants through Identity": Case(
        "k = Constant <value = float {2.0}> () \n i = Identity (k) \n v = Identity (w) \n t = Conv (x, v, b) \n y = Max (t, i)",
        CONV,
        ["Conv", "Max"],
    ),
    "nodes and weights nobody reads": Case(
        "d = Relu (x) \n e = Conv (d, unused) \n y = Conv (x, w, b)", {**CONV, "unused": (6, 4, 3, 3)}, ["Conv"]
    ),
    "a written hard swish": Case(
        """t = Add (x, three)
        c = Clip (t, zero, six)
        m = Mul (x, c)
        d = Div (m, six)
        y = Relu (d)""",
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        ["HardSigmoid", "Mul", "Relu"],
    ),
    "a written hard sigmoid with a factor left": Case(
        "t = Add (three, x) \n c = Clip (t, zero, six) \n y = Mul (half, c)",
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "half": np.float32([0.5])},
        ["HardSigmoid", "Mul"],
    ),
    "a clip that another node reads is left": Case(
        "t = Add (x, three) \n c = Clip (t, zero, six) \n d = Div (c, six) \n y = Add (c, d)",
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        ["Add", "Clip", "Div", "Add"],
    ),
    "a clip from another bound than zero is left": Case(
        "t = Add (x, three) \n c = Clip (t, one, six) \n y = Div (c, six)",
        {"three": np.float32(3), "one": np.float32(1), "six": np.float32(6)},
        ["Add", "Clip", "Div"],
    ),
    "a residual gate": Case(
        "p = GlobalAveragePool (x) \n h = Sigmoid (p) \n m = Mul (h, x) \n r = Add (x, m) \n y = Relu (r)",
        {},
        ["GlobalAveragePool", "Sigmoid", "Add", "Mul", "Relu"],
    ),
    "a gate of something else is left": Case(
        "p = GlobalAveragePool (x) \n h = Sigmoid (p) \n r = Relu (x) \n m = Mul (r, h) \n y = Add (x, m)",
        {},
        ["GlobalAveragePool", "Sigmoid", "Relu", "Mul", "Add"],
    ),
    "a gain and a shift before convolutions without pads": Case(
        "g = Mul (k, x) \n s = Sub (g, c) \n a = Conv (s, w, b) \n d = Conv (s, v) \n y = Add (a, d)",
        {**CONV, "v": (6, 4, 3, 3), "k": np.float32([-2.5]), "c": np.float32(0.75)},
        ["Conv", "Conv", "Add"],
    ),
    "before a padded convolution the shift stays": Case(
        "g = Mul (x, k) \n s = Add (g, c) \n y = Conv <pads = [1, 1, 1, 1]> (s, w, b)",
        {**CONV, "k": np.float32(2.5), "c": np.float32([0.75])},
        ["Add", "Conv"],
    ),
    "a gain before a grouped padded convolution": Case(
        "g = Div (x, k) \n y = Conv <pads = [1, 1, 1, 1], group = 2> (g, w)",
        {"w": (6, 2, 3, 3), "k": np.float32(4)},
        ["Conv"],
    ),
    "a gain that is read elsewhere too is left": Case(
        "g = Mul (x, k) \n t = Conv (g, w) \n r = GlobalAveragePool (g) \n m = ReduceMean (r) \n y = Add (t, m)",
        {"w": (6, 4, 3, 3), "k": np.float32(4)},
        ["Mul", "Conv", "GlobalAveragePool", "ReduceMean", "Add"],
    ),
    "a gain before convolutions that share a weight is left": Case(
        "g = Mul (x, k) \n t = Conv (g, w) \n r = Conv (x, w) \n y = Add (t, r)",
        {"w": (6, 4, 3, 3), "k": np.float32(4)},
        ["Mul", "Conv", "Conv", "Add"],
    ),
    "short lines": Case(
        """a = Conv <pads = [1, 1]> (x, w, b)
        r = Relu (a)
        t = Conv <kernel_shape = [3], strides = [2], dilations = [2], pads = [2, 2]> (r, v)
        y = Sigmoid (t)""",
        {"w": (48, 64, 3), "b": (48,), "v": (64, 48, 3)},
        ["Unsqueeze", "Conv", "Relu", "Conv", "Squeeze", "Sigmoid"],
        signature="(float[n, 64, 6] x) => (float[n, c, l] y)",
        feed={"x": draw("line", 3, 64, 6)},
    ),
    "a short line read twice": Case(
        'a = Conv <pads = [1, 1]> (x, w, b) \n r = Relu (a) \n t = Conv <auto_pad = "SAME_UPPER"> (r, v) \n y = Add (r, t)',
        {"w": (48, 64, 3), "b": (48,), "v": (48, 48, 4)},
        ["Unsqueeze", "Conv", "Squeeze", "Relu", "Unsqueeze", "Conv", "Squeeze", "Add"],
        signature="(float[n, 64, 6] x) => (float[n, c, l] y)",
        feed={"x": draw("line", 3, 64, 6)},
    ),
    "a line of free length is left": Case(
        "a = Conv <pads = [1, 1]> (x, w, b) \n y = Relu (a)",
        {"w": (48, 64, 3), "b": (48,)},
        ["Conv", "Relu"],
        signature="(float[n, 64, l] x) => (float[n, c, l] y)",
        feed={"x": draw("line", 3, 64, 6)},
    ),
    "a long line is left": Case(
        "a = Conv <pads = [1, 1]> (x, w, b) \n y = Relu (a)",
        {"w": (48, 64, 3), "b": (48,)},
        ["Conv", "Relu"],
        signature="(float[n, 64, 9] x) => (float[n, c, l] y)",
        feed={"x": draw("long line", 3, 64, 9)},
    ),
    "a line of one sample is left": Case(
        "a = Conv <pads = [1, 1]> (x, w, b) \n y = Relu (a)",
        {"w": (48, 64, 3), "b": (48,)},
        ["Conv", "Relu"],
        signature="(float[1, 64, 6] x) => (float[n, c, l] y)",
        feed={"x": draw("line", 1, 64, 6)},
    ),
    "a large computed constant stays computed": Case(
        "big = Expand (s, shape) \n m = ReduceSum (big) \n y = Mul (x, m)",
        {"s": np.float32(1e-6), "shape": np.array([300, 300])},
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_preparation_changes_no_result(name, tmp_path):
    case = CASES[name]
    model = load(tmp_path, case.model, case.weights)
    expected = run(model, case.feed, Optimization.DISABLED)
    prepared = prepared_from(load(tmp_path, case.model, case.weights))
    check(prepared)
    for found in three_ways(prepared, case.feed).values():
        assert_close(found, expected, max(case.tolerance, 1e-5))
    if case.left is not None:
        assert operators(prepared) == case.left


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [*UNPACKING, *PREPARATION])
def test_every_pass_alone_changes_no_result(name, step, tmp_path):
    case = CASES[name]
    if 'opset_import: ["": 17]' not in case.header:
        pytest.skip("older models are prepared as a whole")
    model = load(tmp_path, case.model, case.weights)
    expected = run(model, case.feed, Optimization.DISABLED)
    before = model.serialize()
    changed = ({**UNPACKING, **PREPARATION})[step](model)
    if step in PREPARATION and not changed and step not in ("unique names",):
        assert model.serialize() == before
    assert_close(run(model, case.feed, Optimization.DISABLED), expected, max(case.tolerance, 1e-5))


def test_preparing_twice_is_preparing_once(tmp_path):
    for name, case in CASES.items():
        prepared = prepared_from(load(tmp_path, case.model, case.weights))
        once = prepared.serialize()
        again = prepare(prepared)
        assert prepared.serialize() == once, name
        assert not any(again.values()), (name, again)


def test_layers_keep_their_names(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 8, 8] x) => (float[n, c, h, w] y) {
        [pad] p = Pad (x, pads)
        [stem] t = Conv (p, w, b)
        [norm] y = BatchNormalization (t, gamma, beta, mean, var)
    }"""
    model = prepared_from(load(tmp_path, text, {**CONV, **NORM, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}))
    (node,) = model.graph
    assert node.name == "stem"
    assert [value.name for value in node.inputs] == ["x", "w", "b"]
    assert node.outputs[0].name == "y"


OLD = """
<ir_version: {ir}, opset_import: ["": {opset}]>
net (float[n, 4, 8, 8] x, float[6, 4, 3, 3] w, float[6] b, float[6] gamma, float[6] beta, float[6] mean, float[6] var,
     float[54, 5] m, float[5] c) => (float[n, k] y) {{
    [conv] t = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
    [norm] u = BatchNormalization (t, gamma, beta, mean, var)
    {clip}
    {pad}
    [pool] p = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (r2)
    [shape] s = Constant <value = int64[2] {{0, -1}}> ()
    [flat] f = Reshape (p, s)
    [wide] e = Unsqueeze <axes = [2]> (f)
    [thin] q = Squeeze <axes = [2]> (e)
    [gemm] g = Gemm (q, m, c)
    [soft] y = Softmax (g)
}}
"""


@pytest.mark.parametrize("opset", range(7, 13))
@pytest.mark.parametrize("ir", [3, 4])
def test_old_operator_sets_are_raised_and_listed_initializers_become_constants(opset, ir, tmp_path):
    clip = "[clip] r = Clip <min = 0.0, max = 6.0> (u)"
    pad = "[pad] r2 = Pad <pads = [0, 0, 0, 0, 0, 0, 1, 1]> (r)"
    if opset >= 11:
        clip = """low = Constant <value = float {0.0}> () \n high = Constant <value = float {6.0}> ()
        [clip] r = Clip (u, low, high)"""
        pad = "pads = Constant <value = int64[8] {0, 0, 0, 0, 0, 0, 1, 1}> () \n [pad] r2 = Pad (r, pads)"
    text = OLD.format(ir=ir, opset=opset, clip=clip, pad=pad)
    weights = {**CONV, **NORM, "m": (54, 5), "c": (5,)}
    expected = run(load(tmp_path, text, weights), {"x": IMAGE}, Optimization.DISABLED)
    model = prepared_from(load(tmp_path, text, weights))
    check(model)
    assert model.opset == 13
    assert [signature.name for signature in model.inputs] == ["x"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    names = {node.name for node in model.graph}
    assert {"conv", "clip", "gemm"} <= names
    assert "norm" not in names
    for found in three_ways(model, {"x": IMAGE}).values():
        assert_close(found, expected, 1e-5)


def test_inputs_a_caller_may_feed_stay_inputs(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[n, 4, 8, 8] x, float[6] b) => (float[n, c, h, w] y) {
        y = Conv (x, w, b)
    }"""
    model = prepared_from(load(tmp_path, text, CONV))
    assert [value.name for value in model.graph.inputs] == ["x", "b"]
    bias = draw("another", 6)
    assert_close(run(model, {"x": IMAGE, "b": bias}), run(load(tmp_path, text, CONV), {"x": IMAGE, "b": bias}))


def test_metadata_survives_the_raise_of_the_operator_set(tmp_path):
    text = '<ir_version: 4, opset_import: ["": 9]> net (float[n] x) => (float[n] y) { y = Relu (x) }'
    model = load(tmp_path, text, {})
    model.ir.metadata_props["character"] = "abc"
    assert raise_opset(model, 13) == ""
    assert model.ir.metadata_props["character"] == "abc"


def test_an_operator_set_that_cannot_be_raised_says_so_and_stays(tmp_path):
    text = """<ir_version: 4, opset_import: ["": 9]> net (float[n, 4, 8, 8] x) => (float[n, 4, h, w] y) {
        y = Upsample <mode = "nearest"> (x, scales)
    }"""
    model = load(tmp_path, text, {"scales": np.array([1, 1, 2, 2], np.float32)})
    unpack(model)
    before = model.serialize()
    reason = raise_opset(model, 13)
    if reason:
        assert model.serialize() == before
        assert "cannot be raised" in reason
    else:
        check(model)
    assert_close(run(model, {"x": IMAGE}), [IMAGE.repeat(2, axis=2).repeat(2, axis=3)])


def test_bodies_are_raised_with_the_graph_around_them(tmp_path):
    text = """<ir_version: 7, opset_import: ["": 12]> net (float[2, 3, 4] x, bool c) => (float[2, 3, 4] y) {
        y = If (c) <
          then_branch = then () => (float[2, 3, 4] o) { o = Softmax (x) },
          else_branch = other () => (float[2, 3, 4] p) { s = Unsqueeze <axes = [0]> (x) \n p = Squeeze <axes = [0]> (s) }
        >
    }"""
    for condition in (True, False):
        feed = {"x": draw("x", 2, 3, 4), "c": np.array(condition)}
        expected = run(load(tmp_path, text, {}), feed, Optimization.DISABLED)
        model = prepared_from(load(tmp_path, text, {}))
        check(model)
        for found in three_ways(model, feed).values():
            assert_close(found, expected)


NAMES = """
<ir_version: 8, opset_import: ["": 17]>
net (float[n, 8] x, bool c) => (float[n, 8] y, float[n, 8] t) {
    [same] t = Relu (x)
    [same] u = Abs (t)
    v = Neg (u)
    y = If (c) <
      then_branch = then () => (float[n, 8] o) { [same] h = MatMul (v, w) \n o = Relu (h) },
      else_branch = other () => (float[n, 8] o) { h = MatMul (v, w) \n [same] o = Abs (h) }
    >
}
"""


def test_every_node_and_tensor_has_a_name_of_its_own(tmp_path):
    weights = {"then/w": (8, 8), "other/w": (8, 8)}
    model = prepared_from(load(tmp_path, NAMES, weights))
    check(model)
    graphs = list(model.ir.graphs())
    nodes = [node.name for graph in graphs for node in graph]
    assert len(set(nodes)) == len(nodes)
    assert all(nodes)
    tensors = [value.name for graph in graphs for value in graph.initializers.values()]
    tensors += [value.name for graph in graphs for node in graph for value in node.outputs]
    assert len(set(tensors)) == len(tensors)
    assert [value.name for value in model.graph.outputs] == ["y", "t"]
    assert next(iter(model.graph)).name == "same"
    again = prepared_from(load(tmp_path, NAMES, weights))
    assert [node.name for graph in again.ir.graphs() for node in graph] == nodes
    for condition in (True, False):
        feed = {"x": draw("x", 2, 8), "c": np.array(condition)}
        expected = run_reference(load(tmp_path, NAMES, weights), feed)  # the runtime refuses names used twice
        assert expected is not None
        for found in three_ways(model, feed).values():
            assert_close(found, expected)


FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
net (float[n, 8] x) => (float[n, 8] y) {
    [first] a = local.block <k = 2.0> (x, w1)
    [second] b = local.block <k = 3.0> (a, w2)
    y = Relu (b)
}
<domain: "local", opset_import: ["": 17, "local": 1]>
block <k> (x, w) => (y) {
    [product] p = MatMul (x, w)
    s = Constant <value_float: float = @k> ()
    q = Mul (p, s)
    [act] y = local.inner (q)
}
<domain: "local", opset_import: ["": 17]>
inner (x) => (y) { [abs] y = Abs (x) }
"""


def test_functions_become_nodes(tmp_path):
    weights = {"w1": (8, 8), "w2": (8, 8)}
    model = prepared_from(load(tmp_path, FUNCTIONS, weights))
    check(model)
    assert not model.ir.functions
    assert operators(model) == ["MatMul", "Mul", "Abs", "MatMul", "Mul", "Abs", "Relu"]
    feed = {"x": draw("x", 3, 8)}
    for found in three_ways(model, feed).values():
        assert_close(found, run(load(tmp_path, FUNCTIONS, weights), feed))


def test_functions_of_another_operator_set_stay(tmp_path):
    text = FUNCTIONS.replace('"local", opset_import: ["": 17', '"local", opset_import: ["": 16')
    weights = {"w1": (8, 8), "w2": (8, 8)}
    model = prepared_from(load(tmp_path, text, weights))
    assert len(model.ir.functions) == 2
    feed = {"x": draw("x", 3, 8)}
    assert_close(run(model, feed), run(load(tmp_path, text, weights), feed))


def test_the_other_name_of_the_default_domain(tmp_path):
    text = '<ir_version: 7, opset_import: ["ai.onnx": 12]> net (float[n, 8] x) => (float[n, 8] y) { y = Softmax (x) }'
    model = load(tmp_path, text, {})
    assert model.opset == 12
    prepared = prepared_from(model)
    feed = {"x": draw("x", 3, 8)}
    assert_close(run(prepared, feed), run(load(tmp_path, text, {}), feed))


HALF = """
<ir_version: 8, opset_import: ["": 17]>
net (float16[n, 4, 8, 8] x, float16[n] unused) => (float16[n, c, h, w] y, float16[6] b) {
    t = Conv (x, w, b)
    u = Relu (t)
    k = Identity (half)
    v = Mul (u, k)
    f = Cast <to = 1> (v)
    g = Sqrt (f)
    y = Cast <to = 10> (g)
}
"""


def test_float16_models_compute_in_float32_behind_their_own_interface(tmp_path):
    text = HALF
    weights = {"half": np.float16(0.5)} | {name: draw(name, *shape, dtype="float16") for name, shape in CONV.items()}
    feed = {"x": IMAGE.astype(np.float16), "unused": np.zeros(2, np.float16)}
    expected = run(load(tmp_path, text, weights), feed)
    model = prepared_from(load(tmp_path, text, weights))
    check(model)
    assert [signature.dtype for signature in (*model.inputs, *model.outputs)] == ["float16"] * 4
    for found in three_ways(model, feed).values():
        assert_close(found, expected, 2e-3)
    assert all(value.dtype is None or value.dtype.name != "FLOAT16" for value in [model.graph.initializers["w"]])


def test_a_float16_body_computes_in_float32(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]> net (float16[n, 8] x, bool c) => (float16[n, 8] y) {
        v = Abs (x)
        y = If (c) <
          then_branch = then () => (float16[n, 8] o) { o = MatMul (v, w) },
          else_branch = other () => (float16[n, 8] p) { p = Mul (v, k) }
        >
    }"""
    weights = {"then/w": draw("w", 8, 8, dtype="float16"), "other/k": np.float16(2.0)}
    for condition in (True, False):
        feed = {"x": draw("x", 3, 8, dtype="float16"), "c": np.array(condition)}
        expected = run(load(tmp_path, text, weights), feed)
        model = prepared_from(load(tmp_path, text, weights))
        check(model)
        assert_close(run(model, feed), expected, 2e-3)
        assert_close(run(model, feed, Optimization.DISABLED), expected, 2e-3)


def test_a_loop_in_float16(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]> net (float16[n, 8] x) => (float16[n, 8] y) {
        times = Constant <value = int64 {3}> ()
        y = Loop (times, , x) <body = body (int64 i, bool go, float16[n, 8] s) => (bool on, float16[n, 8] o) {
            on = Identity (go)
            h = MatMul (s, w)
            o = Tanh (h)
        }>
    }"""
    weights = {"body/w": draw("w", 8, 8, dtype="float16")}
    feed = {"x": draw("x", 3, 8, dtype="float16")}
    expected = run(load(tmp_path, text, weights), feed)
    model = prepared_from(load(tmp_path, text, weights))
    check(model)
    assert_close(run(model, feed), expected, 2e-3)


def test_the_reference_evaluator_takes_part(tmp_path):
    case = CASES["a chain of affine nodes"]
    assert set(three_ways(load(tmp_path, case.model, case.weights), case.feed)) == {"all", "disabled", "reference"}


def test_an_overflowing_weight_is_left(tmp_path):
    weights = {"w": draw("w", 6, 4, 3, 3) * 1e20, "s": np.float32(1e30)}
    model = prepared_from(load(tmp_path, Case("t = Conv (x, w) \n y = Mul (t, s)", weights, None).model, weights))
    assert operators(model) == ["Conv", "Mul"]
