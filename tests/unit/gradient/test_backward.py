"""The backward pass of whole models: what is reached, what is not and why, and gradients that predict what the model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from text_models import load, prepared

from qcompress.errors import ModelError
from qcompress.gradient import Backward, BackwardSettings
from qcompress.graph import Model, extend
from qcompress.graph.edit import constant_array, set_constant
from qcompress.operators import find_layers
from qcompress.pipeline.opening import load_prepared
from qcompress.runtime import open_session

SAMPLES = Path(__file__).resolve().parents[3] / "sample_models"
HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def objective(model: Model, feed, seeds) -> float:
    outputs = open_session(extend(model, [], {}, list(seeds))).run(feed)
    return sum(float((outputs[name].astype(np.float64) * seed).sum()) for name, seed in seeds.items())


def slope(model: Model, name: str, direction: np.ndarray, feed, seeds) -> float:
    """dJ along a direction in a weight, by central differences."""
    value = model.graph.initializers[name]
    weight = np.array(constant_array(value))
    found = []
    for sign in (1, -1):
        set_constant(value, (weight + sign * direction).astype(np.float32))
        found.append(objective(model, feed, seeds))
    set_constant(value, weight)
    return (found[0] - found[1]) / 2


@pytest.mark.parametrize("name", ["digits_cnn", "reviews_transformer"])
def test_all_weights_of_a_sample_model_are_reached_and_gradients_predict_its_outputs(name):
    model = load_prepared(SAMPLES / f"{name}.onnx")
    with np.load(SAMPLES / f"{name}.calib.npz") as data:
        feed = {item.name: data[item.name][:2] for item in model.inputs}
    weights = [layer.name for layer in find_layers(model)]
    backward = Backward(model, weights, ["logits"])
    assert backward.unreached == {}
    outputs = backward.forward(feed)
    seeds = {"logits": np.random.default_rng(0).normal(size=outputs["logits"].shape).astype(np.float32)}
    gradients = backward.run(feed, seeds)
    assert list(gradients) == weights
    checked = 0
    for weight in weights:
        array = constant_array(model.graph.initializers[weight])
        gradient = gradients[weight]
        assert gradient.shape == array.shape
        assert gradient.dtype == np.float32
        if checked == 12 or np.abs(gradient).max() < 1e-4:  # a bias of keys changes nothing
            continue
        errors = []
        for size in (1e-2, 3e-3):
            direction = gradient / np.abs(gradient).max() * array.std() * size
            expected = float((gradient.astype(np.float64) * direction).sum())
            errors.append(abs(slope(model, weight, direction, feed, seeds) - expected) / abs(expected))
        assert min(errors) < 2e-2, weight  # float32, and a step crosses kinks of Clip
        checked += 1
    assert checked >= 8


def test_a_recurrent_operator_stops_the_gradient_and_is_named():
    model = load_prepared(SAMPLES / "language_gru.onnx")
    backward = Backward(model, ["embedding.weight", "classifier.weight"], ["logits"])
    assert list(backward.unreached) == ["embedding.weight"]
    assert backward.unreached["embedding.weight"].startswith("GRU ")
    assert "no rule" in backward.unreached["embedding.weight"]
    assert backward.reached == ("classifier.weight",)


def test_readers_are_summed_and_other_outputs_cost_nothing(tmp_path):
    text = f"""{HEADER} net (float[n, 3] x) => (float[n, 3] y, float[n, 3] other) {{
        a = Mul (x, w)
        b = Mul (a, w)
        y = Add (a, b)
        other = Exp (b)
    }}"""
    model = load(tmp_path, text, {"w": np.array([2.0, 3.0, 5.0], np.float32)})
    backward = Backward(model, ["w", "a"], ["y"])
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    found = backward.run({"x": x}, {"y": np.ones((2, 3), np.float32)})
    w = np.array([2.0, 3.0, 5.0])
    np.testing.assert_allclose(found["w"], (x * (1 + 2 * w)).sum(0), rtol=1e-6)
    np.testing.assert_allclose(found["a"], np.broadcast_to(1 + w, (2, 3)), rtol=1e-6)


def test_fed_initializers_can_change_between_runs(tmp_path):
    text = f"""{HEADER} net (float[n, 2] x) => (float[n, 2] y) {{
        h = MatMul (x, w)
        y = Mul (h, h)
    }}"""
    weight = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    model = load(tmp_path, text, {"w": weight})
    backward = Backward(model, ["w"], ["y"], BackwardSettings(fed=["w"]))
    feed, seeds = {"x": np.array([[1.0, -1.0]], np.float32)}, {"y": np.ones((1, 2), np.float32)}
    for values in (None, weight, 2 * weight):
        fed = {} if values is None else {"w": values}
        hidden = feed["x"] @ (weight if values is None else values)
        np.testing.assert_allclose(backward.forward(feed, fed)["y"], hidden**2, rtol=1e-6)
        np.testing.assert_allclose(backward.run(feed, seeds, fed)["w"], feed["x"].T @ (2 * hidden), rtol=1e-6)


def test_reasons(tmp_path):
    text = f"""{HEADER} net (float[4] x, bool c) => (float[4] y, float[4] z) {{
        hidden = Mul (x, inner)
        d = Det (square)
        scaled = Mul (hidden, d)
        places = ArgMax <axis = 0> (ranked)
        g = Gather (table, places)
        b = If (c) < then_branch = t () => (float[4] o) {{ o = Mul (x, taken) }},
                     else_branch = e () => (float[4] p) {{ p = Identity (x) }} >
        s = Add (scaled, g)
        y = Add (s, b)
        z = Mul (x, aside)
    }}"""
    weights = {"inner": (4,), "square": (2, 2), "ranked": (4,), "table": (4, 1), "taken": (4,), "aside": (4,)}
    model = load(tmp_path, text, weights)
    backward = Backward(model, [*weights, "places"], ["y"])
    reasons = backward.unreached
    assert set(reasons) == {"square", "ranked", "taken", "aside", "places"}
    assert reasons["square"].startswith("Det ")
    assert "ArgMax" in reasons["ranked"]
    assert "body" in reasons["taken"]
    assert reasons["aside"] == "no seeded output depends on it"
    assert reasons["places"] == "it is int64"
    assert backward.reached == ("inner", "table")


def test_an_incomplete_gradient_is_no_gradient(tmp_path):
    text = f"""{HEADER} net (float[2, 2] x) => (float[2, 2] y) {{
        h = MatMul (x, w)
        d = Det (h)
        y = Mul (h, d)
    }}"""
    backward = Backward(load(tmp_path, text, {"w": (2, 2)}), ["w", "h", "d"], ["y"])
    assert set(backward.unreached) == {"w", "h"}
    assert backward.reached == ("d",)


def test_unknown_names_are_refused(tmp_path):
    model = prepared(tmp_path, f"{HEADER} net (float[2] x) => (float[2] y) {{ y = Mul (x, w) }}", {"w": (2,)})
    with pytest.raises(ModelError, match="no tensor 'v'"):
        Backward(model, ["v"], ["y"])
    with pytest.raises(ModelError, match="no output 'z'"):
        Backward(model, ["w"], ["z"])
    with pytest.raises(ModelError, match="no initializer"):
        Backward(model, ["w"], ["y"], BackwardSettings(fed=["x"]))
