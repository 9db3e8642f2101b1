"""Weights in and around the bodies of If, Loop and Scan, and in functions."""

from __future__ import annotations

import numpy as np
import pytest
from text_models import assert_close, check, draw, load, plan_by_hand, prepared, run, sqnr, three_ways, with_rounded_weights

from qcompress.operators import find_layers
from qcompress.rewrite import apply_plan
from qcompress.runtime import Optimization
from qcompress.types import Form

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
BRANCHES = f"""{HEADER} net (float[n, 16] x, int64[n] i, bool c) => (float[n, 12] y) {{
    v = Abs (x)
    before = MatMul (v, outer)
    z = If (c) <
      then_branch = then () => (float[n, 12] o) {{ [m] h = MatMul (v, w) \n [g] e = Gather (table, i) \n t = Add (h, e) \n
        u = MatMul (v, outer) \n o = Add (t, u) }},
      else_branch = other () => (float[n, 12] o) {{ [m] h = Gemm <transB = 1> (v, w, b) \n [g] e = Gather (table, i) \n o = Add (h, e) }}
    >
    k = Gather (table, i)
    l = Add (before, k)
    y = Add (z, l)
}}"""
BRANCH_WEIGHTS = {"then/w": (16, 12), "other/w": (12, 16), "other/b": (12,), "table": (20, 12), "outer": (16, 12)}
LOOP = f"""{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{
    times = Constant <value = int64 {{3}}> ()
    y = Loop (times, , x) <body = body (int64 i, bool go, float[n, 16] s) => (bool on, float[n, 16] o) {{
        on = Identity (go)
        h = MatMul (s, w)
        a = Tanh (h)
        p = Gemm (a, outer, b)
        o = Tanh (p)
    }}>
}}"""
SCAN = f"""{HEADER} net (float[n, 16] x, float[t, n, 16] xs) => (float[n, 16] y, float[t, n, 16] ys) {{
    y, ys = Scan <num_scan_inputs = 1, body = body (float[n, 16] s, float[n, 16] v) => (float[n, 16] o, float[n, 16] q) {{
        h = MatMul (s, w)
        g = MatMul (v, outer)
        r = Add (h, g)
        o = Tanh (r)
        q = Identity (o)
    }}> (x, xs)
}}"""
X = draw("x", 5, 16)
INDICES = np.array([0, 3, 19, -1, 3])
CASES = {
    "If, first branch": (BRANCHES, BRANCH_WEIGHTS, {"x": X, "i": INDICES, "c": np.array(True)}),
    "If, second branch": (BRANCHES, BRANCH_WEIGHTS, {"x": X, "i": INDICES, "c": np.array(False)}),
    "Loop": (LOOP, {"body/w": (16, 16), "outer": (16, 16), "b": (16,)}, {"x": X}),
    "Scan": (SCAN, {"body/w": (16, 16), "outer": (16, 16)}, {"x": X, "xs": draw("xs", 4, 5, 16)}),
}


@pytest.mark.parametrize("scheme", ["int8/channel", "uint8/asym"])
@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("name", CASES)
def test_every_form_works_in_and_around_bodies(name, form, scheme, tmp_path):
    text, weights, feed = CASES[name]
    model = prepared(tmp_path, text, weights)
    layers = find_layers(model)
    if form is Form.STATIC:
        inside = [layer for layer in layers if any(use.node.graph is not model.graph for use in layer.uses)]
        assert len(inside) >= 2
        assert not [layer.name for layer in inside if form in layer.forms]  # integers flow in the main graph only
    forms = {layer.name: form for layer in layers if form in layer.forms}
    if form is Form.STATIC or (form is Form.GATHERED and "If" not in name) or (form is Form.DYNAMIC and "asym" in scheme):
        return
    assert forms
    plan = plan_by_hand(model, forms, feed, scheme)
    expected = run(with_rounded_weights(model, plan), feed, Optimization.DISABLED)
    apply_plan(plan, model)
    check(model)
    for level in (Optimization.ALL, Optimization.DISABLED):
        found = run(model, feed, level)
        for got, wanted in zip(found, expected, strict=True):
            assert sqnr(got, wanted) > (30 if form in (Form.DYNAMIC, Form.WEIGHT_ONLY) else 90)


NARROW = [
    "int2/channel",
    "int3/channel",
    "uint4/asym/channel",
    "int5/channel",
    "codebook16/channel",
    "log4/channel",
    "float16",
]


@pytest.mark.parametrize("scheme", NARROW)
@pytest.mark.parametrize("name", CASES)
def test_narrow_weights_are_unpacked_in_and_around_bodies(name, scheme, tmp_path):
    text, weights, feed = CASES[name]
    # ONNX's own evaluator runs a Loop without a condition no times at all
    text = text.replace("(times, , x)", "(times, yes, x)").replace(
        "y = Loop", "yes = Constant <value = bool {1}> ()\n y = Loop"
    )
    model = prepared(tmp_path, text, weights)
    forms = {
        layer.name: Form.GATHERED if Form.GATHERED in layer.forms else Form.FOLDED
        for layer in find_layers(model)
        if not layer.reason
    }
    assert len(forms) == sum(len(shape) == 2 for shape in weights.values())
    plan = plan_by_hand(model, forms, feed, scheme)
    expected = run(with_rounded_weights(model, plan), feed, Optimization.DISABLED)
    apply_plan(plan, model)
    check(model)
    ways = three_ways(model, feed)
    assert set(ways) == {"all", "disabled", "reference"}
    for found in ways.values():
        for got, wanted in zip(found, expected, strict=True):
            assert sqnr(got, wanted) > 90
    left = [
        value.name
        for graph in model.ir.graphs()
        for value in graph.initializers.values()
        if value.dtype is not None
        and value.dtype.name == "FLOAT"
        and len(value.shape or ()) == 2
        and value.shape == (16, 16)
    ]
    assert not left


def test_weights_of_one_name_in_two_branches_are_two_layers(tmp_path):
    model = prepared(tmp_path, BRANCHES, BRANCH_WEIGHTS)
    layers = find_layers(model)
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    assert {layer.shape for layer in layers if layer.name.startswith("w")} == {(16, 12), (12, 16)}
    plan = plan_by_hand(
        model, {name: Form.FOLDED for name in names if not name.startswith("b")}, CASES["If, first branch"][2]
    )
    apply_plan(plan, model)
    for graph in model.ir.graphs():
        left = {
            value.name for value in graph.initializers.values() if value.dtype is not None and value.dtype.name == "FLOAT"
        }
        assert not left & set(names) - {"b"}


def test_a_table_gathered_in_and_outside_bodies_is_stored_once(tmp_path):
    model = prepared(tmp_path, BRANCHES, BRANCH_WEIGHTS)
    apply_plan(plan_by_hand(model, {"table": Form.GATHERED}, CASES["If, first branch"][2]), model)
    stored = [value for graph in model.ir.graphs() for value in graph.initializers.values() if value.shape == (20, 12)]
    assert [value.name for value in stored] == ["table/q"]
    assert stored[0].graph is model.graph


FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
net (float[n, 16] x) => (float[n, 16] y) { a = local.block (x, w1) \n y = local.block (a, w2) }
<domain: "local", opset_import: ["": 17]>
block (x, w) => (y) { [product] p = MatMul (x, w) \n y = Relu (p) }
"""


def test_weights_used_through_functions_are_compressed(tmp_path):
    weights = {"w1": (16, 16), "w2": (16, 16)}
    model = prepared(tmp_path, FUNCTIONS, weights)
    assert {layer.name: layer.reason for layer in find_layers(model)} == {"w1": "", "w2": ""}
    feed = {"x": X}
    plan = plan_by_hand(model, {"w1": Form.STATIC, "w2": Form.DYNAMIC}, feed)
    expected = run(load(tmp_path, FUNCTIONS, weights), feed)
    apply_plan(plan, model)
    check(model)
    assert sqnr(run(model, feed)[0], expected[0]) > 25


NESTED = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
net (float[n, 16] x, bool c) => (float[n, 16] y) {
    a = local.outer (x)
    y = If (c) <
      then_branch = then () => (float[n, 16] o) { o = local.outer (a) },
      else_branch = other () => (float[n, 16] p) { p = local.block (a, w1) }
    >
}
<domain: "local", opset_import: ["": 17, "local": 1]>
outer (x) => (y) { w = Constant <value = WEIGHT> () \n p = local.block (x, w) \n y = Tanh (p) }
<domain: "local", opset_import: ["": 17]>
block (x, w) => (y) { [product] p = MatMul (x, w) \n y = Relu (p) }
"""


@pytest.mark.parametrize("scheme", ["int8/channel", "int4/channel", "int3/channel"])
@pytest.mark.parametrize("branch", [True, False])
def test_weights_inside_nested_functions_and_bodies_are_folded(branch, scheme, tmp_path):
    numbers = ", ".join(f"{number:.4f}" for number in draw("w", 256).tolist())
    text = NESTED.replace("WEIGHT", f"float[16, 16] {{{numbers}}}")
    feed = {"x": X, "c": np.array(branch)}
    before = run(load(tmp_path, text, {"w1": (16, 16)}), feed)
    model = prepared(tmp_path, text, {"w1": (16, 16)})
    assert not model.ir.functions
    layers = [layer for layer in find_layers(model) if not layer.reason]
    assert len(layers) == 3  # of both calls of the function, and of the branch
    assert_close(run(model, feed), before)
    plan = plan_by_hand(model, {layer.name: Form.FOLDED for layer in layers}, feed, scheme)
    expected = run(with_rounded_weights(model, plan), feed, Optimization.DISABLED)
    apply_plan(plan, model)
    check(model)
    for found in three_ways(model, feed).values():
        assert sqnr(found[0], expected[0]) > 90


def test_weights_used_by_functions_that_cannot_be_inlined_are_kept(tmp_path):
    text = FUNCTIONS.replace('"local", opset_import: ["": 17]', '"local", opset_import: ["": 16]')
    weights = {"w1": (16, 16), "w2": (16, 16)}
    model = prepared(tmp_path, text, weights)
    assert {layer.name: layer.reason for layer in find_layers(model)} == dict.fromkeys(
        weights, "is not the weight of an operator in the table (block)"
    )
    assert_close(run(model, {"x": X}), run(load(tmp_path, text, weights), {"x": X}))
