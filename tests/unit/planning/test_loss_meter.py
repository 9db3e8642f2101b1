"""Measured losses: a change measured on cached prefixes is the change measured on the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from text_models import UNET_BODY, UNET_WEIGHTS, draw, load, plan_by_hand, prepared, prepared_from, run

from qcompress.decisions import CompressionPlan
from qcompress.errors import RecipeError
from qcompress.graph import Model, load_model
from qcompress.graph.outputs import judged_outputs
from qcompress.operators import find_layers
from qcompress.planning.losses import LossMeter, LossSettings
from qcompress.types import Array, Feed, Form

SAMPLES = Path(__file__).resolve().parents[3] / "sample_models"
HEADER = '<ir_version: 8, opset_import: ["": 17]>'
UNET = f"{HEADER} net (float[1, 4, 16, 16] x) => (float[1, 4, 16, 16] y, float[1, 8, 8, 8] inner, int64[1, 1, 16, 16] best) {{ {UNET_BODY} best = ArgMax <axis = 1> (y) }}"
BRANCHES = f"""{HEADER} net (float[n, 16] x, bool c) => (float[n, 12] y, int64[n, 1] i) {{
    v = Abs (x)
    before = MatMul (v, outer)
    s = Sigmoid (before)
    z = If (c) <
      then_branch = then () => (float[n, 12] o) {{ [m] h = MatMul (v, w) \n o = Add (h, s) }},
      else_branch = other () => (float[n, 12] o) {{ [m] h = MatMul (x, outer) \n o = Mul (h, before) }}
    >
    y = Add (z, s)
    i = ArgMax <axis = 1> (y)
}}"""
TIED = f"""{HEADER} net (int64[n, 6] tokens) => (float[n, 6, 40] scores) {{
    e = Gather (table, tokens)
    h = MatMul (e, w1)
    g = Tanh (h)
    k = MatMul (g, w2)
    r = Add (e, k)
    t = Transpose <perm = [1, 0]> (table)
    scores = MatMul (r, t)
}}"""
TIED_WEIGHTS = {"table": draw("table", 40, 16) * 8.0, "w1": (16, 32), "w2": (32, 16)}


def feeds_of(count: int, *shape: int, **others: Array) -> list[Feed]:
    return [{"x": draw(f"feed {index}", *shape) * 2.0, **others} for index in range(count)]


def branch_feeds() -> list[Feed]:
    return [*feeds_of(2, 5, 16, c=np.array(True)), *feeds_of(2, 5, 16, c=np.array(False))]


def meter_of(model: Model, feeds: Sequence[Feed], segments: int = 4, memory_bytes: int = 1 << 30) -> LossMeter:
    return LossMeter(model, feeds, judged_outputs(model), LossSettings(1, memory_bytes, segments))


def one_by_one(model: Model, feed: Feed, forms: Sequence[Form], at_most: int = 100) -> list[CompressionPlan]:
    """Plans of one weight each, in every form it can take, spread over the model."""
    able = [(layer.name, form) for layer in find_layers(model) for form in forms if form in layer.forms]
    step = -(-len(able) // at_most)
    return [plan_by_hand(model, {name: form}, feed) for name, form in able[::step]]


@pytest.mark.parametrize("segments", [1, 3, 20])
@pytest.mark.parametrize("name", ["skip connections", "bodies"])
def test_a_layer_alone_loses_what_the_whole_model_loses(name: str, segments: int, tmp_path: Path) -> None:
    if name == "bodies":
        model, feeds = prepared(tmp_path, BRANCHES, {"then/w": (16, 12), "outer": (16, 12)}), branch_feeds()
    else:
        model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(3, 1, 4, 16, 16)
    meter = meter_of(model, feeds, segments)
    assert meter.segments == 1 if segments == 1 else 1 < meter.segments <= segments
    plans = one_by_one(model, feeds[0], list(Form))
    assert len(plans) >= (3 if name == "bodies" else 10)
    for plan in plans:
        alone = meter.alone(plan)
        assert alone == pytest.approx(meter.joint(plan), rel=0.05, abs=2e-6)
        assert 0.0 < alone < 0.1


def test_the_whole_plan_alone_is_the_whole_plan(tmp_path: Path) -> None:
    model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(3, 1, 4, 16, 16)
    meter = meter_of(model, feeds, 20)
    everything = plan_by_hand(model, {f"w{number}": Form.STATIC for number in range(1, 6)}, feeds[0])
    assert meter.segments > 4
    assert meter.alone(everything) == pytest.approx(meter.joint(everything), rel=0.05, abs=1e-6)
    assert meter.alone(plan_by_hand(model, {}, feeds[0])) == 0.0
    assert meter.joint(plan_by_hand(model, {}, feeds[0])) < 1e-6


@pytest.mark.parametrize("form", [Form.WEIGHT_ONLY, Form.FOLDED])
def test_a_weight_of_several_segments_changes_in_all_of_them(form: Form, tmp_path: Path) -> None:
    model = prepared(tmp_path, TIED, TIED_WEIGHTS)
    feeds = [{"tokens": np.random.default_rng(index).integers(0, 40, (2, 6))} for index in range(3)]
    meter = meter_of(model, feeds, 20)
    assert meter.segments == 3  # what lies between the table's users is in none of theirs
    plan = plan_by_hand(model, {"table": form}, feeds[0], "int4/channel" if form is Form.FOLDED else "int8/channel")
    assert meter.alone(plan) == pytest.approx(meter.joint(plan), rel=0.02, abs=1e-6)
    assert meter.alone(plan) > 1e-6
    assert meter.estimate([["table"]]) > meter.estimate([["w2"]]) > 0.0


@pytest.mark.parametrize(("tensor", "channels"), [("p", 4), ("q", 8)], ids=["through the skip connection", "by a new node"])
def test_rescaled_channels_that_span_segments_lose_nothing(tensor: str, channels: int, tmp_path: Path) -> None:
    model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(2, 1, 4, 16, 16)
    meter = meter_of(model, feeds, 20)
    nothing = plan_by_hand(model, {}, feeds[0])
    factors = tuple(2.0 ** (index % 5 - 2) for index in range(channels))
    assert meter.alone(replace(nothing, channel_scales={tensor: factors})) < 1e-6
    static = replace(plan_by_hand(model, {"w3": Form.STATIC}, feeds[0]), channel_scales={tensor: factors})
    assert meter.alone(static) == pytest.approx(meter.joint(static), rel=0.05, abs=2e-6)
    with pytest.raises(RecipeError):
        meter.alone(replace(nothing, channel_scales={tensor: (2.0,)}))


def test_float_outputs_are_those_of_the_whole_model(tmp_path: Path) -> None:
    model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(3, 1, 4, 16, 16)
    meter = meter_of(model, feeds, 5)
    assert meter.judged == ("y",)
    for feed, outputs in zip(feeds, meter.float_outputs, strict=True):
        assert np.allclose(outputs["y"], run(model, feed)[0], atol=1e-5)
    assert meter.seconds_per_run > 0.0


def test_little_memory_costs_feeds_then_segments_but_not_the_answer(tmp_path: Path) -> None:
    model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(8, 1, 4, 16, 16)
    plan = plan_by_hand(model, {"w4": Form.STATIC}, feeds[0])
    sizes = [1 << 20, 80_000, 60_000, 40_000, 0]
    meters = [meter_of(model, feeds, 8, memory_bytes) for memory_bytes in sizes]
    found = [(meter.feeds_alone, meter.segments) for meter in meters]
    assert found[0] == (8, meters[0].segments)
    assert found[-1] == (8, 1)
    assert any(2 <= feeds_alone < 8 and segments == found[0][1] for feeds_alone, segments in found)
    exact = meters[0].joint(plan)
    for meter in meters:
        assert len(meter.float_outputs) == 8
        assert meter.joint(plan) == pytest.approx(exact, rel=0.05)
        few = feeds[: meter.feeds_alone]
        assert meter.alone(plan) == pytest.approx(meters[0].joint(plan, few), rel=0.05, abs=2e-6)


def test_fewer_feeds_for_a_first_look_and_others_for_a_second(tmp_path: Path) -> None:
    model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(4, 1, 4, 16, 16)
    meter = meter_of(model, feeds)
    plan = plan_by_hand(model, {"w2": Form.STATIC}, feeds[0])
    assert meter.alone(plan, feeds=1) == pytest.approx(meter.joint(plan, feeds[:1]), rel=0.05)
    assert meter.alone(plan, feeds=1) != meter.alone(plan)
    assert meter.joint(plan, feeds) == pytest.approx(meter.joint(plan), rel=1e-6)


def test_measured_twice_is_measured_the_same(tmp_path: Path) -> None:
    model, feeds = prepared(tmp_path, UNET, UNET_WEIGHTS), feeds_of(3, 1, 4, 16, 16)
    plan = plan_by_hand(model, {"w1": Form.STATIC, "w4": Form.STATIC}, feeds[0])
    first, second = meter_of(model, feeds), meter_of(model, feeds)
    assert first.alone(plan) == first.alone(plan) == second.alone(plan)


def test_an_output_that_is_an_input_is_not_judged(tmp_path: Path) -> None:
    text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] x, float[n, 8] y) {{ y = MatMul (x, w) }}"
    model = prepared_from(load(tmp_path, text, {"w": (16, 8)}))
    meter = LossMeter(model, feeds_of(2, 5, 16), ["x", "y"], LossSettings(1))
    assert meter.judged == ("y",)
    assert meter.alone(plan_by_hand(model, {"w": Form.DYNAMIC}, feeds_of(1, 5, 16)[0])) > 0.0


@pytest.mark.parametrize("name", ["digits_cnn", "language_gru", "reviews_transformer"])
def test_sample_models(name: str) -> None:
    model = prepared_from(load_model(SAMPLES / f"{name}.onnx"))
    with np.load(SAMPLES / f"{name}.eval.npz") as stored:
        data = {key: stored[key] for key in stored.files if key != "labels"}
    feeds = [{key: array[at : at + 8] for key, array in data.items()} for at in (0, 8)]
    meter = meter_of(model, feeds, 6)
    assert meter.segments > 1
    for plan in one_by_one(model, feeds[0], [Form.STATIC, Form.DYNAMIC, Form.GATHERED], at_most=4):
        assert meter.alone(plan) == pytest.approx(meter.joint(plan), rel=0.05, abs=1e-6)
