"""Losses and their seeds, and what is accumulated over data: gradients of weights and effects of channels."""

from __future__ import annotations

import numpy as np
import pytest
from text_models import load

from qcompress.errors import CalibrationError
from qcompress.gradient import (
    ImportanceSettings,
    channel_effects,
    cross_entropy,
    divergence,
    drawn,
    projection,
    squared_error,
    weight_gradients,
)
from qcompress.structure import Slice

RNG = np.random.default_rng(0)
TEXT = """<ir_version: 8, opset_import: ["": 17]> net (float[n, 4] x) => (float[n, 3] scores) {
    hidden = MatMul (x, first)
    active = Relu (hidden)
    scores = MatMul (active, second)
}"""


def softmax(scores, axis):
    shares = np.exp(scores - scores.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [-1, 1])
def test_seeds_are_derivatives_of_their_losses(axis):
    scores, reference = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3, 4))
    labels = RNG.integers(0, 3, np.delete(scores.shape, axis))
    labels[0, 0] = -1  # not counted
    losses = {
        "cross-entropy": lambda y: cross_entropy(y, labels, axis),
        "divergence": lambda y: divergence(y, reference, axis),
        "squared error": lambda y: squared_error(y, reference),
    }
    for name, loss in losses.items():
        seed = loss(scores)[1]
        for place in np.ndindex(scores.shape):
            step = np.zeros_like(scores)
            step[place] = 1e-6
            slope = (loss(scores + step)[0] - loss(scores - step)[0]) / 2e-6
            assert slope == pytest.approx(seed[place], abs=1e-7), name


def test_losses_have_their_values():
    scores = np.array([[0.0, 0.0], [2.0, -np.inf]], np.float32)
    loss, seed = cross_entropy(scores, np.array([1, 0]))
    assert loss == pytest.approx(np.log(2))
    assert seed.dtype == np.float32
    np.testing.assert_allclose(seed, [[0.5, -0.5], [0, 0]])
    assert divergence(scores[:1], scores[:1])[0] == 0
    assert squared_error(np.array([1.0, 3.0]), np.array([1.0, 1.0]))[0] == 2


def test_drawn_seeds_have_mean_zero_and_the_variance_of_the_softmax():
    scores, generator = RNG.normal(size=(1, 4)).astype(np.float32), np.random.default_rng(1)
    seeds = np.array([drawn(scores, 1, generator)[0] for _ in range(20_000)])
    shares = softmax(scores[0].astype(np.float64), 0)
    np.testing.assert_allclose(seeds.mean(0), 0, atol=0.02)
    np.testing.assert_allclose((seeds**2).mean(0), shares * (1 - shares), atol=0.01)


def test_projections_are_signs():
    signs = projection(np.zeros((100, 3), np.float32), np.random.default_rng(0))
    assert signs.dtype == np.float32
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 0.2


def model_and_weights(tmp_path):
    weights = {"first": RNG.normal(size=(4, 5)).astype(np.float32), "second": RNG.normal(size=(5, 3)).astype(np.float32)}
    return load(tmp_path, TEXT, weights), weights


def gradients_by_hand(weights, x, seed):
    hidden = x @ weights["first"]
    back = (seed @ weights["second"].T) * (hidden > 0)
    return {"first": x.T @ back, "second": np.maximum(hidden, 0).T @ seed}


def test_weight_gradients_with_labels(tmp_path):
    model, weights = model_and_weights(tmp_path)
    feeds = [{"x": RNG.normal(size=(count, 4)).astype(np.float32)} for count in (1, 2, 3)]
    labels = [RNG.integers(0, 3, len(feed["x"])) for feed in feeds]
    found = weight_gradients(model, ["first", "second"], feeds, ImportanceSettings({"scores": 1}), labels)
    assert found.unreached == {}
    squares = {name: [] for name in weights}
    for feed, right in zip(feeds, labels, strict=True):
        scores = np.maximum(feed["x"] @ weights["first"], 0) @ weights["second"]
        for name, gradient in gradients_by_hand(weights, feed["x"], cross_entropy(scores, right)[1]).items():
            squares[name].append(gradient**2)
    for name in weights:
        np.testing.assert_allclose(found.rms[name], np.sqrt(np.mean(squares[name], 0)), rtol=1e-4, atol=1e-6)


def test_without_labels_they_are_the_curvature_of_the_outputs(tmp_path):
    model, weights = model_and_weights(tmp_path)
    x = RNG.normal(size=(1, 4)).astype(np.float32)
    settings = ImportanceSettings({"scores": None}, draws=400)
    found = weight_gradients(model, ["second"], [{"x": x}], settings).rms["second"]
    active = np.maximum(x @ weights["first"], 0)  # dy_c / dsecond[h, c] = active[h]
    np.testing.assert_allclose(found, np.repeat(active.T, 3, axis=1), rtol=1e-5)
    settings = ImportanceSettings({"scores": 1}, draws=4000)
    found = weight_gradients(model, ["second"], [{"x": x}], settings).rms["second"]
    shares = softmax((active @ weights["second"]).astype(np.float64), 1)
    np.testing.assert_allclose(found, active.T * np.sqrt(shares * (1 - shares)), rtol=0.15, atol=1e-3)


def test_effects_of_channels_say_what_removing_them_does_to_first_order(tmp_path):
    model, weights = model_and_weights(tmp_path)
    units = np.arange(5).reshape(5, 1)
    group = [Slice("first", 1, units, ()), Slice("second", 0, units, ())]
    feeds = [{"x": RNG.normal(size=(2, 4)).astype(np.float32)} for _ in range(3)]
    labels = [RNG.integers(0, 3, 2) for _ in feeds]
    found = channel_effects(model, [group[1:], group], feeds, ImportanceSettings({"scores": 1}), labels)
    expected = [[], []]
    for feed, right in zip(feeds, labels, strict=True):
        scores = np.maximum(feed["x"] @ weights["first"], 0) @ weights["second"]
        gradients = gradients_by_hand(weights, feed["x"], cross_entropy(scores, right)[1])
        rows, columns = (weights["second"] * gradients["second"]).sum(1), (weights["first"] * gradients["first"]).sum(0)
        expected[0].append(rows**2)
        expected[1].append((rows + columns) ** 2)
    for effects, wanted in zip(found.effects, expected, strict=True):
        np.testing.assert_allclose(effects, np.mean(wanted, 0), rtol=1e-4, atol=1e-7)


def test_data_is_needed_and_must_give_finite_gradients(tmp_path):
    model, _ = model_and_weights(tmp_path)
    settings = ImportanceSettings({"scores": None})
    with pytest.raises(CalibrationError, match="need data"):
        weight_gradients(model, ["first"], [], settings)
    with pytest.raises(CalibrationError, match="not finite"):
        weight_gradients(model, ["first"], [{"x": np.full((1, 4), np.inf, np.float32)}], settings)
