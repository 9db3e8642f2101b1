"""What is written into a model has short names; what was there keeps its own."""

from __future__ import annotations

import pytest
from test_bodies import CASES
from text_models import check, draw, plan_by_hand, prepared

from qcompress.graph.edit import taken_names
from qcompress.operators import find_layers, why_not_stored
from qcompress.rewrite import apply_plan
from qcompress.types import Form, parse_scheme

TEXT = """<ir_version: 10, opset_import: ["": 17]> net (float[n, 16, 8, 8] x) => (float[n, k] y)
{ [first] q1 = Conv <pads = [1, 1, 1, 1]> (x, w, b) \n [relu] q3 = Relu (q1) \n [pool] m = GlobalAveragePool (q3) \n f = Flatten (m)
  [last] y = Gemm <transB = 1> (f, u, c) }"""
WEIGHTS = {"w": (24, 16, 3, 3), "b": (24,), "u": (10, 24), "c": (10,)}


@pytest.mark.parametrize("form", [Form.STATIC, Form.FOLDED])
def test_names_of_the_model_stay_and_others_are_numbers_that_were_free(form, tmp_path):
    model = prepared(tmp_path, TEXT, WEIGHTS)
    before = {node.name for node in model.graph} | {value.name for node in model.graph for value in node.outputs}
    apply_plan(plan_by_hand(model, dict.fromkeys(("w", "u"), form), {"x": draw("x", 2, 16, 8, 8)}, "int4/channel"), model)
    check(model)
    after = {value.name for node in model.graph for value in node.outputs} | {node.name for node in model.graph}
    assert before - after <= {"relu", "q3"}, "saturation makes up for it"
    assert all(name is None or name in before or (name[0] == "q" and name[1:].isdigit()) for name in after)
    constants = set(model.graph.initializers)
    assert {"w/q", "w/s", "u/q", "u/s"} <= constants
    assert all(name.partition("/")[0] in WEIGHTS or name[1:].isdigit() for name in constants)


@pytest.mark.parametrize("name", CASES)
def test_names_in_bodies_are_not_those_around_them(name, tmp_path):
    text, weights, feed = CASES[name]
    model = prepared(tmp_path, text, weights)
    scheme = parse_scheme("int4/channel")
    forms = {layer.name: Form.FOLDED for layer in find_layers(model) if not why_not_stored(layer, Form.FOLDED, scheme)}
    apply_plan(plan_by_hand(model, forms, feed, "int4/channel"), model)
    check(model)
    tensors = [value.name for graph in model.ir.graphs() for node in graph for value in node.outputs if value.name]
    stored = [key for graph in model.ir.graphs() for key in graph.initializers]
    assert len({*tensors, *stored}) == len(tensors) + len(stored)
    assert taken_names(model.graph) >= {*tensors, *stored}
