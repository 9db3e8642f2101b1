"""Costs of real variants of small models."""

from __future__ import annotations

import numpy as np
import pytest
from text_models import draw, plan_by_hand, prepared

from qcompress.calibrate import observe_shapes
from qcompress.measure.profile import ProfileSettings
from qcompress.operators import find_layers
from qcompress.plan.choose import STATIC, WEIGHTS, choose_forms, static_nodes
from qcompress.plan.cost import FLOAT, CostTable
from qcompress.plan.estimate import Estimator
from qcompress.plan.placement import place
from qcompress.planning.costs import alternating, measure_costs
from qcompress.recipe import Mode, Recipe
from qcompress.types import Form

NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[n, 32, 24, 24] x) => (float[n, 10] y) {
    [one] a = Conv <pads = [1, 1, 1, 1]> (x, one_w)
    [one_relu] b = Relu (a)
    [two] c = Conv <pads = [1, 1, 1, 1]> (b, two_w)
    [two_relu] d = Relu (c)
    [pool] p = GlobalAveragePool (d)
    [flat] f = Flatten (p)
    [left] l = MatMul (f, left_w)
    [right] r = MatMul (f, right_w)
    [sum] y = Add (l, r)
}
"""
WEIGHTS_OF_NET = {"one_w": (32, 32, 3, 3), "two_w": (32, 32, 3, 3), "left_w": (32, 10), "right_w": (32, 10)}
FEED = {"x": draw("x", 2, 32, 24, 24)}


@pytest.fixture
def net(tmp_path):
    return prepared(tmp_path, NET, WEIGHTS_OF_NET)


def test_variants_of_a_model_are_measured_and_estimated(net):
    layers, shapes = find_layers(net), observe_shapes(net, FEED)
    forms = {
        "static": {"one_w": Form.STATIC, "two_w": Form.STATIC},
        "dynamic": {"left_w": Form.DYNAMIC, "right_w": Form.DYNAMIC},
    }
    plans = {name: plan_by_hand(net, chosen, FEED) for name, chosen in forms.items()}
    before = net.serialize()
    table = measure_costs(net, layers, plans, [FEED], ProfileSettings(1, 1.0))
    assert net.serialize() == before
    assert list(table.variants) == [FLOAT, "static", "dynamic"]
    assert all(item.charges.total == pytest.approx(item.ms) for item in table.variants.values())
    assert table.machine.threads == 1
    plain, static, dynamic = table.variants.values()
    assert static.integer_nodes[:2] == ("one", "two")
    assert set(static.charges.quantize) == {"x"}
    assert set(dynamic.charges.dynamic) == {"f"}
    assert not plain.charges.quantize
    assert min(plain.charges.nodes["one"], plain.charges.nodes["two"]) > 0.1 * plain.ms
    estimator = Estimator(net, layers, CostTable.from_json(table.to_json()), shapes)
    for name, item in forms.items():
        chosen = {layer.name: item.get(layer.name, Form.FOLDED) for layer in layers}
        placement = place(net, static_nodes(net, layers, chosen, Mode.AUTO), shapes)
        assert estimator.milliseconds(chosen, placement) == pytest.approx(table.variants[name].ms, rel=0.01)


def test_layers_take_turns_and_those_of_one_input_go_together(net):
    layers, shapes = find_layers(net), observe_shapes(net, FEED)
    integer = choose_forms(layers, STATIC, Recipe(), shapes)
    stored = choose_forms(layers, WEIGHTS, Recipe(), shapes)
    first, second = alternating(layers, integer, stored)
    assert [first[name] is Form.STATIC for name in WEIGHTS_OF_NET] == [True, False, True, True]
    assert [second[name] is Form.STATIC for name in WEIGHTS_OF_NET] == [False, True, False, False]


def test_a_model_of_one_layer_has_a_turn_too(tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> net (float[2, 64] x) => (float[2, 64] y) { [one] y = MatMul (x, w) }'
    model = prepared(tmp_path, text, {"w": (64, 64)})
    layers = find_layers(model)
    feed = {"x": np.ones((2, 64), np.float32)}
    table = measure_costs(
        model, layers, {"dynamic": plan_by_hand(model, {"w": Form.DYNAMIC}, feed)}, [feed], ProfileSettings(1, 0.2)
    )
    assert table.variants["dynamic"].charges.nodes.keys() == {"one"}
    assert alternating(layers, {"w": Form.STATIC}, {"w": Form.FOLDED}) == ({"w": Form.STATIC}, {"w": Form.FOLDED})
