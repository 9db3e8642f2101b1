"""Segments: run one after the other they are the model, names and weights stay, and cuts lie where they are cheap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from text_models import UNET_BODY, UNET_WEIGHTS, assert_close, draw, prepared, run

from qcompress.graph import Model
from qcompress.graph.segments import CutSettings, Segments, stated_types
from qcompress.planning.pieces import Tensors, cut
from qcompress.runtime import SessionSettings, open_session

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
CHAIN = f"""{HEADER} net (float[n, 16] x) => (float[n, 8] y) {{
    a = MatMul (x, w1)
    b = Add (a, b1)
    c = Relu (b)
    d = MatMul (c, w2)
    e = Relu (d)
    f = MatMul (e, w3)
    y = Tanh (f)
}}"""
CHAIN_WEIGHTS = {"w1": (16, 16), "b1": (16,), "w2": (16, 16), "w3": (16, 8)}
UNET = f"{HEADER} net (float[1, 4, 16, 16] x) => (float[1, 4, 16, 16] y, float[1, 8, 8, 8] inner) {{ {UNET_BODY} }}"
BRANCHES = f"""{HEADER} net (float[n, 16] x, bool c) => (float[n, 12] y) {{
    v = Abs (x)
    before = MatMul (v, outer)
    s = Sigmoid (before)
    z = If (c) <
      then_branch = then () => (float[n, 12] o) {{ [m] h = MatMul (v, w) \n o = Add (h, s) }},
      else_branch = other () => (float[n, 12] o) {{ [m] h = MatMul (x, outer) \n o = Mul (h, before) }}
    >
    y = Add (z, s)
}}"""
BRANCH_WEIGHTS = {"then/w": (16, 12), "outer": (16, 12)}
TURNED = f"""{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{
    t = Transpose <perm = [1, 0]> (table)
    a = MatMul (x, t)
    b = Tanh (a)
    c = MatMul (b, t)
    d = Tanh (c)
    y = MatMul (d, table)
}}"""
X = draw("x", 5, 16)
CASES = {
    "chain": (CHAIN, CHAIN_WEIGHTS, {"x": X}),
    "skip connections": (UNET, UNET_WEIGHTS, {"x": draw("image", 1, 4, 16, 16)}),
    "If, first branch": (BRANCHES, BRANCH_WEIGHTS, {"x": X, "c": np.array(True)}),
    "If, second branch": (BRANCHES, BRANCH_WEIGHTS, {"x": X, "c": np.array(False)}),
    "a table read through a Transpose": (TURNED, {"table": (16, 16)}, {"x": X}),
}


def run_segments(model: Model, segments: Segments, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All values that the segments give, each opened as a model of its own."""
    types, values = Tensors.of(model, {}).types, dict(feed)
    for number in range(len(segments)):
        segment = segments.between(number, number)
        piece = segments.extract(number, number, types)
        assert {value.name for value in piece.graph.inputs} == set(segment.inputs)
        session = open_session(piece.serialize(), SessionSettings(1))
        values |= session.run({name: values[name] for name in segment.inputs})
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 100])
@pytest.mark.parametrize("name", CASES)
def test_segments_in_a_row_are_the_model(name: str, count: int, tmp_path: Path) -> None:
    text, weights, feed = CASES[name]
    model = prepared(tmp_path, text, weights)
    segments = Segments(model, CutSettings(count))
    assert len(segments) == min(count, len(segments))
    assert count < 100 or len(segments) > 3
    values = run_segments(model, segments, feed)
    assert_close([values[output.name] for output in model.outputs], run(model, feed))


def test_every_node_is_in_one_segment_under_its_name_and_weights_are_shared(tmp_path: Path) -> None:
    model = prepared(tmp_path, UNET, UNET_WEIGHTS)
    segments = Segments(model, CutSettings(4))
    pieces = [segments.extract(number, number, {}) for number in range(len(segments))]
    assert [node.name for piece in pieces for node in piece.graph] == [node.name for node in model.graph]
    for piece in pieces:
        for name, value in piece.graph.initializers.items():
            assert value.const_value is model.graph.initializers[name].const_value


def test_a_run_of_segments_needs_nothing_that_is_inside(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    segments = Segments(model, CutSettings(100))
    whole = segments.between(0, len(segments) - 1)
    assert (whole.inputs, whole.outputs) == (("x",), ("y",))
    assert segments.between(1, 3).outputs == segments.between(3, 3).outputs


def test_constants_computed_from_a_weight_come_along(tmp_path: Path) -> None:
    model = prepared(tmp_path, TURNED, {"table": (16, 16)})
    segments = Segments(model, CutSettings(100))
    assert "t" not in segments.crossing
    assert set(segments.crossing) == {"a", "b", "c", "d"}
    assert "Transpose" in [node.op_type for node in segments.extract(2, 2, {}).graph]


def test_values_captured_by_bodies_are_inputs(tmp_path: Path) -> None:
    model = prepared(tmp_path, BRANCHES, BRANCH_WEIGHTS)
    segments = Segments(model, CutSettings(100))
    number = segments.index()["m"]
    assert number == next(index for index in range(len(segments)) if "z" in segments.between(index, index).outputs)
    assert set(segments.between(number, number).inputs) == {"x", "c", "v", "before", "s"}


def test_a_layer_and_what_it_absorbs_stay_together(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    segments = cut(model, Tensors.of(model, {}), {}, 100)
    index = segments.index()
    by_output = {node.outputs[0].name: index[node.name or ""] for node in model.graph}
    assert by_output["a"] == by_output["b"] == by_output["c"] < by_output["d"] == by_output["e"] < by_output["f"]


def test_cuts_are_where_little_crosses_and_costs_are_equal(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    sizes = {"a": 100, "b": 100, "c": 1, "d": 100, "e": 100, "f": 100}
    assert Segments(model, CutSettings(2, sizes=sizes)).crossing == ("c",)
    costs = {node.name or "": 1.0 if node.outputs[0].name == "y" else 0.0 for node in model.graph}
    assert Segments(model, CutSettings(2, costs=costs)).crossing == ()  # a single node has all the cost: no cut helps


def test_missing_types_are_found_by_the_runtime(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    for node in model.graph:
        for value in node.outputs[:1]:
            value.type = value.type if value.is_graph_output() else None
    assert set(stated_types(model)) == {"x", "y"}
    types = Tensors.of(model, {"c": (5, 16)}).types
    assert {name: types[name].dtype for name in ("a", "c")} == {"a": "float32", "c": "float32"}
    assert (types["a"].shape, types["c"].shape) == (None, (None, None))
