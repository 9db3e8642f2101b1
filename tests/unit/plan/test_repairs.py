"""Proposals of repairs: who gets factors, who does not, and that the layer really becomes less wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from text_models import draw, plan_by_hand, prepared, run, sqnr

from qcompress.calibrate import CalibrationSettings, collect, collect_channels
from qcompress.operators import find_layers
from qcompress.plan.repairs import REPAIRS, Evidence, rescaled_range
from qcompress.progress import SILENT
from qcompress.recipe import RangeMethod
from qcompress.rewrite import apply_plan
from qcompress.types import Form, QuantScheme, StatisticsNeeds

HEAD = '<ir_version: 8, opset_import: ["": 17]> net '
WEIGHTS, ACTIVATIONS = QuantScheme.parse("int8/channel"), QuantScheme.parse("uint8/asym")


class OneBatch:
    def __init__(self, feed):
        self.feed, self.samples = feed, 1


def evidence(model, feed, axes, static=()):
    settings = CalibrationSettings(threads=1, total=1, alternatives=(RangeMethod.MINMAX, RangeMethod.ENTROPY))
    statistics = collect(model, StatisticsNeeds(frozenset(axes)), [OneBatch(feed)], settings, SILENT)
    channels = collect_channels(model, axes, [OneBatch(feed)], settings, SILENT)
    layers = {layer.name: layer for layer in find_layers(model)}
    return Evidence(model, layers, statistics, channels, WEIGHTS, ACTIVATIONS, frozenset(static))


def loud(count: int) -> np.ndarray:
    gains = np.ones(count, np.float32)
    gains[[2, 9]] = 60.0
    return gains


def transformer(folder, gains):
    text = f"""{HEAD} (float[1, 40, 32] x) => (float[a, b, c] y, float[a, b, c] z) {{
        n = LayerNormalization (x, gain, bias) \n y = MatMul (n, first) \n z = MatMul (n, second) }}"""
    return prepared(folder, text, {"gain": gains, "bias": np.zeros(32, np.float32), "first": (32, 32), "second": (32, 48)})


def convolutions(folder, gains, group=1):
    text = f"""{HEAD} (float[1, 4, 12, 12] x) => (float[a, b, c, d] y) {{
        c = Conv (x, first) \n r = Relu (c) \n y = Conv <group = {group}, pads = [1, 1, 1, 1]> (r, second) }}"""
    first = draw("first", 16, 4, 1, 1) * gains.reshape(-1, 1, 1, 1)
    second = draw("second", 16, 16 // group, 3, 3)
    return prepared(folder, text, {"first": first, "second": second})


ROWS, IMAGE = {"x": draw("rows", 1, 40, 32)}, {"x": draw("image", 1, 4, 12, 12)}


@pytest.mark.parametrize("form", [Form.DYNAMIC, Form.STATIC])
def test_smoothing_makes_products_less_wrong_at_no_cost(form, tmp_path):
    model = transformer(tmp_path, loud(32))
    static = ("first", "second") if form is Form.STATIC else ()
    (repair,) = REPAIRS["smoothing"](["first", "second"], evidence(model, ROWS, {"n": -1}, static))
    assert repair.inserted == ()
    assert repair.recollect == ("n",)
    assert repair.gain < 0.5
    exact = run(model, ROWS)
    plans = {}
    for name, scales in {"off": {}, "on": repair.channel_scales}.items():
        rescaled = model.clone()
        apply_plan(replace(plan_by_hand(model, {}, ROWS), channel_scales=scales, weights={}), rescaled)
        plan = replace(plan_by_hand(rescaled, {"first": form, "second": form}, ROWS), channel_scales=scales)
        copy = model.clone()
        apply_plan(plan, copy)
        plans[name] = min(sqnr(got, wanted) for got, wanted in zip(run(copy, ROWS), exact, strict=True))
    assert plans["on"] > plans["off"] + 3.0


def test_even_channels_are_left_alone(tmp_path):
    model = transformer(tmp_path, np.ones(32, np.float32))
    seen = evidence(model, ROWS, {"n": -1})
    assert REPAIRS["smoothing"](["first"], seen) == []
    assert REPAIRS["equalization"](["first"], seen) == [], "a norm before it has no weights"


@pytest.mark.parametrize("group", [1, 16])
@pytest.mark.parametrize("name", ["smoothing", "equalization"])
def test_convolutions_get_factors(name, group, tmp_path):
    model = convolutions(tmp_path, loud(16), group)
    seen = evidence(model, IMAGE, {"r": 1}, ("first", "second"))
    (repair,) = REPAIRS[name](["second"], seen)
    scales = np.array(repair.channel_scales["r"])
    assert scales[2] > 4 * scales[0]
    assert set(repair.recollect) == {"c", "r"}
    found = rescaled_range(seen.channels["r"], scales)
    copy = model.clone()
    apply_plan(replace(plan_by_hand(model, {}, IMAGE), weights={}, channel_scales=repair.channel_scales), copy)
    again = evidence(copy, IMAGE, {"r": 1}).channels["r"]
    assert (found.low, found.high) == pytest.approx((float(again.low.min()), float(again.high.max())), rel=1e-6)


def test_what_needs_a_mul_says_so(tmp_path):
    text = f"{HEAD} (float[1, 40, 32] x) => (float[a, b, c] y) {{ g = Mul (x, gain) \n s = Tanh (g) \n h = Mul (s, gain) \n r = Erf (h) \n y = MatMul (r, first) }}"
    first = draw("first", 32, 32)
    first[::2] *= 50.0
    model = prepared(tmp_path, text, {"gain": 1.0 / loud(32), "first": first})
    repairs = REPAIRS["smoothing"](["first"], evidence(model, ROWS, {"r": -1}))
    assert [repair.inserted for repair in repairs] == [("r",)]


def test_other_ranges_differ_from_those_in_use_and_from_each_other(tmp_path):
    model = convolutions(tmp_path, np.ones(16, np.float32))
    feed = {"x": IMAGE["x"] * np.where(np.arange(144) == 7, 50.0, 1.0).astype(np.float32).reshape(12, 12)}
    seen = evidence(model, feed, {"x": 1, "r": 1}, ("first", "second"))
    repairs = REPAIRS["range method"](["first", "second"], seen)
    assert repairs
    for repair in repairs:
        method = repair.name.removeprefix("range method ")
        for tensor, activation in repair.activations.items():
            other, now = seen.statistics.alternatives[method][tensor], seen.statistics.ranges[tensor]
            assert activation.scale == pytest.approx((other.high - other.low) / 255.0, rel=1e-5)
            assert abs((other.high - other.low) / (now.high - now.low) - 1.0) > 0.03
    assert REPAIRS["range method"](["first"], evidence(model, feed, {"x": 1, "r": 1})) == [], "dynamic layers have no ranges"
