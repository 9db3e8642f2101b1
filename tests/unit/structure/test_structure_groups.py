"""Groups of channels in every kind of network, what is left when some are cut, and why others stay."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cut_models import assert_cut_is_zeros, groups_of, reasons, sizes, slices_of, some_units
from cut_texts import CASES, STAYING, Case
from text_models import prepared

from qcompress.calibrate import observe_shapes
from qcompress.graph import Model
from qcompress.pipeline import load_prepared
from qcompress.structure import RULES, Groups, cut, find_groups, multiply_adds, shapes_after
from qcompress.types import Array

SAMPLES = Path(__file__).resolve().parents[3] / "sample_models"


def sample(name: str) -> tuple[Model, Groups, list[dict[str, Array]]]:
    """A sample model with its groups and three feeds."""
    model = load_prepared(SAMPLES / f"{name}.onnx")
    with np.load(SAMPLES / f"{name}.calib.npz") as data:
        feeds = [{item.name: data[item.name][place : place + 1] for item in model.inputs} for place in (0, 5, 9)]
    return model, find_groups(model, observe_shapes(model, feeds[0])), feeds


@pytest.mark.parametrize("share", [0.7, 0.2])
@pytest.mark.parametrize(("name", "count"), [("digits_cnn", 11), ("reviews_transformer", 4)])
def test_sample_models_are_cut(name: str, count: int, share: float) -> None:
    model, groups, feeds = sample(name)
    assert len(groups.groups) == count
    kept = some_units(groups, 3, share)
    smaller = model
    for feed in feeds:
        smaller = assert_cut_is_zeros(model, groups, kept, feed)
    before = sum(multiply_adds(model, observe_shapes(model, feeds[0])).values())
    after = sum(multiply_adds(smaller, observe_shapes(smaller, feeds[0])).values())
    assert after < (share + 0.1) * before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_goes_together_is_found(tmp_path: Path, case: Case) -> None:
    _, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    assert slices_of(groups) == case.groups


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("share", [0.7, 0.01])
def test_a_cut_is_as_good_as_zeros_in_the_consumers(tmp_path: Path, case: Case, share: float) -> None:
    model, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    kept = some_units(groups, 7, share)
    before = sizes(model)
    smaller = assert_cut_is_zeros(model, groups, kept, case.feed)
    assert sizes(model) == before  # the copy was cut
    assert {name for name, shape in sizes(smaller).items() if before.get(name, shape) != shape} >= {
        piece.constant for group in groups.groups for piece in group.slices if len(kept[group.name]) < group.units
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_left_is_known_without_cutting(tmp_path: Path, case: Case) -> None:
    model, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    kept = some_units(groups, 5)
    shapes = observe_shapes(model, case.feed)
    known = shapes_after(model, groups, shapes, {name: len(units) for name, units in kept.items()})
    foretold = multiply_adds(model, known)
    cut(model, groups, kept)
    seen = observe_shapes(model, case.feed)
    assert foretold == multiply_adds(model, seen)
    assert {name: known[name] for name, shape in seen.items() if shapes.get(name, shape) != shape} == {
        name: shape for name, shape in seen.items() if shapes.get(name, shape) != shape
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_groups_are_independent_of_each_other(tmp_path: Path, case: Case) -> None:
    model, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    for group in groups.groups:
        assert_cut_is_zeros(model, groups, {group.name: np.arange(1, group.units)}, case.feed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sizes_of_one_feed_are_enough(tmp_path: Path, case: Case) -> None:
    """Groups that are found on a batch of one are those of any batch; a cut model takes any, too."""
    ((name, array),) = case.feed.items()
    model, groups = groups_of(tmp_path, case.text, case.weights, {name: array[:1]})
    assert slices_of(groups) == case.groups
    assert_cut_is_zeros(model, groups, some_units(groups, 11), case.feed)


@pytest.mark.parametrize("case", STAYING, ids=lambda case: case.name)
def test_what_must_stay_says_why(tmp_path: Path, case: Case) -> None:
    _, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    assert slices_of(groups) == case.groups
    for name, reason in case.reasons.items():
        assert reason in reasons(groups)[name]


def test_every_rule_is_tried() -> None:
    used = {word for case in (*CASES, *STAYING) for word in re.findall(r"= (\w+) ", case.text)}
    families = {rule: name for name, rule in RULES.items()}
    tried = {RULES[name] for name in used if name in RULES}
    assert not {name for rule, name in families.items() if rule not in tried}


def test_an_operator_without_a_rule_lets_everything_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[0]
    monkeypatch.delitem(RULES, "Relu")
    _, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    assert "w1" not in slices_of(groups)
    assert reasons(groups)["w1"] == reasons(groups)["w2"] == "Relu 'a1': it has no rule"


def test_a_cut_keeps_something(tmp_path: Path) -> None:
    case = CASES[0]
    model, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    name = groups.groups[0].name
    for wrong in ([], [1, 0], [0, 0], [-1, 2], [0, groups.groups[0].units]):
        with pytest.raises(ValueError, match="ascending"):
            cut(model, groups, {name: np.array(wrong, dtype=np.int64)})
    with pytest.raises(KeyError, match="nobody"):
        cut(model, groups, {"nobody": np.array([0])})


def test_keeping_everything_changes_nothing(tmp_path: Path) -> None:
    case = CASES[0]
    model, groups = groups_of(tmp_path, case.text, case.weights, case.feed)
    before = model.serialize()
    cut(model, groups, {group.name: np.arange(group.units) for group in groups.groups})
    assert model.serialize() == before


def test_without_shapes_nothing_is_cut(tmp_path: Path) -> None:
    case = CASES[0]
    model = prepared(tmp_path, case.text, case.weights)
    groups = find_groups(model, {})
    assert not groups.groups


def test_multiply_adds_are_those_of_the_formulas(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 4, 8, 8] x, float[5, 2, 6] s) => (float[1, 3] y, float[5, 1, 2, 7] h) {
      [conv] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2], group = 2> (x, w1)
      [up] b = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (a, w2)
      p = GlobalAveragePool (b)
      f = Flatten (p)
      [product] m = MatMul (f, w3)
      [gemm] y = Gemm <transB = 1> (m, w4)
      [lstm] h = LSTM <hidden_size = 7> (s, wi, wr)
    }
    """
    weights = {"w1": (6, 2, 3, 3), "w2": (6, 5, 2, 2), "w3": (5, 9), "w4": (3, 9), "wi": (1, 28, 6), "wr": (1, 28, 7)}
    feed = {"x": np.ones((1, 4, 8, 8), np.float32), "s": np.ones((5, 2, 6), np.float32)}
    model = prepared(tmp_path, text, weights)
    assert multiply_adds(model, observe_shapes(model, feed)) == {
        "conv": 6 * 4 * 4 * 2 * 9,
        "up": 6 * 4 * 4 * 5 * 4,
        "product": 5 * 9,
        "gemm": 9 * 3,
        "lstm": 5 * 2 * 28 * (6 + 7),
    }
