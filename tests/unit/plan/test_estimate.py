"""Estimates are exact where something was measured, and plausible in between."""

from __future__ import annotations

import time

import numpy as np
import pytest
from text_models import prepared

from qcompress.decisions import Keep
from qcompress.operators import find_layers
from qcompress.plan.cost import FLOAT, Charges, CostTable, VariantCost
from qcompress.plan.estimate import Estimator, fit_rate
from qcompress.plan.placement import Placement, place
from qcompress.results import MachineFacts
from qcompress.types import Form

CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
    [one] a = Conv (x, one_w)
    [one_relu] b = Relu (a)
    [two] c = Conv (b, two_w)
    [two_relu] d = Relu (c)
    [three] e = Conv (d, three_w)
    [wave] y = Sin (e)
}
"""
PRODUCTS = """
<ir_version: 8, opset_import: ["": 17]>
net (float[8, 64] x) => (float[8, 64] y, float[8, 64] z) {
    [left] y = MatMul (x, left_w)
    [right] z = MatMul (x, right_w)
}
"""
MACHINE = MachineFacts("cpu", "arch", 2, 1, "onnxruntime 1")
NAMES = ("one_w", "two_w", "three_w")
SHAPE = (1, 16, 8, 8)
SHAPES = dict.fromkeys("xabcdey", SHAPE)


class Chain:
    """Three convolutions and the estimator over a table of given variants."""

    def __init__(self, folder):
        self.model = prepared(folder, CHAIN, dict.fromkeys(NAMES, (16, 16, 1, 1)))
        self.layers = find_layers(self.model)
        self.nodes = {node.name: node for node in self.model.graph}

    def place(self, static):
        return place(self.model, [self.nodes[name] for name in static], SHAPES)

    def variant(self, static, charges):
        placement = self.place(static)
        forms = {f"{name}_w": "static" for name in static}
        return VariantCost(charges.total, forms, placement.nodes, placement.tensors, charges)

    def estimator(self, variants):
        return Estimator(self.model, self.layers, CostTable("digest", 60.0, MACHINE, variants), SHAPES)

    def estimate(self, estimator, static):
        chosen = {name: Form.STATIC if name.removesuffix("_w") in static else Form.FOLDED for name in NAMES}
        return estimator.milliseconds(chosen, self.place(static))


ALL = ("one", "two", "three")
FLOAT_MS = Charges({"one": 10.0, "two": 20.0, "three": 30.0, "wave": 1.0}, layout={"x": 0.5})
STATIC_MS = Charges({"one": 4.0, "two": 8.0, "three": 12.0, "wave": 1.5}, {"x": 0.25}, {"e": 0.75}, layout={"x": 0.125})


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


@pytest.fixture
def variants(chain):
    return {FLOAT: chain.variant((), FLOAT_MS), "static": chain.variant(ALL, STATIC_MS)}


def test_what_was_measured_is_estimated_as_it_was_measured(chain, variants):
    estimator = chain.estimator(variants)
    assert chain.estimate(estimator, ()) == pytest.approx(FLOAT_MS.total, rel=1e-4)
    assert chain.estimate(estimator, ALL) == pytest.approx(STATIC_MS.total, rel=1e-4)


def test_a_float_neighbour_costs_conversions(chain, variants):
    """Between one and two a tensor leaves the integers: it is dequantized, as e was, and nothing else is new."""
    estimator = chain.estimator(variants)
    nodes, borders = estimator.parts({"one_w": Form.STATIC}, chain.place(("one",)))
    assert nodes == pytest.approx({"one": 4.0, "two": 20.0, "three": 30.0, "wave": 1.0}, rel=1e-2)
    turning = 0.125 / 3  # layouts took 0.125 ms at x, e and y, where they can be turned
    assert borders == pytest.approx({"x": 0.375, "b": 0.75 + turning}, rel=1e-2)
    assert chain.estimate(estimator, ("one",)) == pytest.approx(sum(nodes.values()) + sum(borders.values()))


def test_borders_that_were_met_cost_what_they_cost_there(chain, variants):
    part = Charges(
        {"one": 4.0, "two": 20.0, "three": 30.0, "wave": 1.0}, {"x": 0.25}, {"b": 5.0}, layout={"x": 0.125, "b": 3.0}
    )
    estimator = chain.estimator(variants | {"mixed": chain.variant(("one",), part)})
    assert chain.estimate(estimator, ("one",)) == pytest.approx(part.total, rel=1e-4)
    _, borders = estimator.parts({"one_w": Form.STATIC, "three_w": Form.STATIC}, chain.place(("one", "three")))
    assert "b" not in borders, "two reads and writes integers there: the runtime makes it static"


def test_a_convolution_between_integers_becomes_one_by_itself(chain, variants):
    estimator = chain.estimator(variants)
    nodes, borders = estimator.parts({"one_w": Form.STATIC, "three_w": Form.STATIC}, chain.place(("one", "three")))
    assert nodes["two"] == pytest.approx(8.0, rel=1e-3)
    assert set(borders) == {"x", "e"}


def test_forms_nobody_measured_take_float_time(chain, variants):
    estimator = chain.estimator(variants)
    kept = {name: Keep("") for name in NAMES}
    nothing = Placement((), (), {})
    assert estimator.milliseconds(kept, nothing) == pytest.approx(FLOAT_MS.total, rel=1e-4)
    assert estimator.milliseconds(dict.fromkeys(NAMES, Form.WEIGHT_ONLY), nothing) == pytest.approx(FLOAT_MS.total, rel=1e-2)


@pytest.fixture
def products(tmp_path):
    model = prepared(tmp_path, PRODUCTS, {"left_w": (64, 64), "right_w": (64, 64)})
    both = {"left_w": "dynamic", "right_w": "dynamic"}
    variants = {
        FLOAT: VariantCost(20.0, {}, (), (), Charges({"left": 10.0, "right": 10.0})),
        "dynamic": VariantCost(5.0, both, (), (), Charges({"left": 2.0, "right": 2.0}, dynamic={"x": 1.0})),
        "weights": VariantCost(14.0, dict.fromkeys(both, "weight-only"), (), (), Charges({"left": 7.0, "right": 7.0})),
    }
    shapes = dict.fromkeys("xyz", (8, 64))
    return Estimator(model, find_layers(model), CostTable("digest", 20.0, MACHINE, variants), shapes)


def test_dynamic_products_share_their_quantized_input(products):
    nothing = Placement((), (), {})
    forms = {"left_w": Form.DYNAMIC, "right_w": Form.DYNAMIC}
    assert products.milliseconds(forms, nothing) == pytest.approx(5.0, rel=1e-3)
    assert products.milliseconds({**forms, "right_w": Form.FOLDED}, nothing) == pytest.approx(13.0, rel=1e-2)
    assert products.milliseconds({**forms, "right_w": Form.WEIGHT_ONLY}, nothing) == pytest.approx(10.0, rel=1e-2)


def test_variants_that_are_the_same_are_averaged(chain, variants):
    twice = Charges({name: ms * 1.1 for name, ms in FLOAT_MS.nodes.items()})
    again = VariantCost(twice.total, dict.fromkeys(NAMES, "folded"), (), (), twice)
    estimator = chain.estimator(variants | {"weights": again})
    assert chain.estimate(estimator, ()) == pytest.approx((FLOAT_MS.total + twice.total) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("elements", "times", "call", "element"),
    [
        ([100, 200, 400], [0.3, 0.5, 0.9], 0.1, 0.002),
        ([100, 100], [0.3, 0.5], 0.0, 0.004),
        ([100, 400], [0.5, 0.2], 0.35, 0.0),
        ([100, 200, 400], [0.1, 0.3, 0.9], 0.0, 0.0015),
        ([0, 100], [5.0, 0.0], 0.0, 0.0),
    ],
)
def test_a_rate_is_a_line_without_negative_parts(elements, times, call, element):
    rate = fit_rate(np.array(elements), np.array(times))
    assert rate.call == pytest.approx(call, abs=1e-9)
    assert rate.element == pytest.approx(element, abs=1e-9)


def test_an_estimate_takes_no_time(tmp_path):
    """A search asks for thousands of them; 1,500 nodes are a large model."""
    lines = "\n".join(f"[n{index}] t{index + 1} = Conv (t{index}, w{index})" for index in range(1500))
    text = f'<ir_version: 8, opset_import: ["": 17]> net (float[1, 8, 2, 2] t0) => (float[1, 8, 2, 2] t1500) {{ {lines} }}'
    model = prepared(tmp_path, text, {f"w{index}": (8, 8, 1, 1) for index in range(1500)})
    layers = find_layers(model)
    names = [layer.name for layer in layers]
    shapes = {f"t{index}": (1, 8, 2, 2) for index in range(1501)}
    nodes = tuple(node.name or "" for node in model.graph)
    placement = Placement(nodes, tuple(shapes), {})
    plain = VariantCost(1.0, {}, (), (), Charges(dict.fromkeys(nodes, 0.001)))
    table = {FLOAT: plain, "static": VariantCost(0.5, dict.fromkeys(names, "static"), nodes, tuple(shapes), plain.charges)}
    estimator = Estimator(model, layers, CostTable("digest", 1.0, MACHINE, table), shapes)
    chosen = dict.fromkeys(names, Form.STATIC)
    fastest = min(_seconds(lambda: estimator.milliseconds(chosen, placement)) for _ in range(20))
    assert fastest < 0.005  # about 0.0009 on a quiet core


def _seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
