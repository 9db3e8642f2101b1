"""Pruning end to end: alone, with integers, by channels, replayed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result

from qcompress.cli import main
from qcompress.recipe import RECIPES, Pruning, merged
from qcompress.types import CHANNELS, Pattern

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "sample_models" / "digits_cnn.onnx"
SAME = ("--prune-spread", "layer")
"""The same share of every layer: nothing is measured for that, so tests are quick."""


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits."""
    path = tmp_path_factory.mktemp("digits") / "calib.npz"
    with np.load(DIGITS.with_suffix(".calib.npz")) as data:
        np.savez(path, **{name: data[name][:64] for name in data.files})
    return path


def run(*words: str | Path, code: int = 0) -> Result:
    """A quiet command that must end with ``code``."""
    result = CliRunner().invoke(main, [*map(str, words), "-q"])
    assert result.exit_code == code, result.stderr
    return result


def report_of(*words: str | Path, code: int = 0) -> dict[str, Any]:
    """The report of a command that must end with ``code``."""
    loaded: dict[str, Any] = json.loads(run(*words, "--no-latency", "--format", "json", code=code).stdout)
    return loaded


def ratio_of(report: dict[str, Any]) -> float:
    return float(report["size"]["compressed_bytes"] / report["size"]["float_bytes"])


def runs(path: Path) -> np.ndarray[Any, Any]:
    """Scores of a few digits; the model is valid."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    with np.load(DIGITS.with_suffix(".eval.npz")) as data:
        image = data["image"][:64]
    scores: np.ndarray[Any, Any] = ort.InferenceSession(path).run(None, {"image": image})[0]
    return scores


def test_half_of_the_weights_are_left_out_of_the_file(calib: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = report_of("prune", DIGITS, "--data", calib, "-o", out, *SAME)
    assert report["recipe"] == "prune"
    assert 0.5 < ratio_of(report) < 0.58  # half of the numbers, and a bit for each
    pruned = [row for row in report["coverage"] if row["pruned"]]
    assert pruned
    assert all(row["zeros"] == pytest.approx(0.5, abs=0.02) for row in pruned)
    agreement = float((runs(out).argmax(1) == runs(DIGITS).argmax(1)).mean())
    assert agreement >= 0.95


@pytest.mark.parametrize(("recipe", "most"), [("prune-int8", 0.2), ("prune-int4", 0.145)])
def test_pruned_and_rounded(calib: Path, tmp_path: Path, recipe: str, most: float) -> None:
    out = tmp_path / "out.onnx"
    report = report_of("compress", DIGITS, "--recipe", recipe, "--data", calib, "-o", out, *SAME, "--effort", "quick")
    assert ratio_of(report) <= most
    assert float((runs(out).argmax(1) == runs(DIGITS).argmax(1)).mean()) >= 0.95


def test_channels_are_cut_out(calib: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = report_of("prune", DIGITS, "--data", calib, "-o", out, "--prune", "30%", "--prune-pattern", "channel", *SAME)
    assert ratio_of(report) < 0.9
    assert any("fewer multiply-adds" in note for note in report["notes"])
    assert float((runs(out).argmax(1) == runs(DIGITS).argmax(1)).mean()) >= 0.95
    largest = max(np.prod(item.dims) for item in onnx.load(out).graph.initializer)
    assert largest < max(np.prod(item.dims) for item in onnx.load(DIGITS).graph.initializer)


@pytest.mark.parametrize("how", [("--prune", "0.5"), ("--prune", "0.3", "--prune-pattern", "channel")])
def test_a_plan_prunes_the_same_way_again(calib: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    plan, first, second = (tmp_path / name for name in ("plan.json", "first.onnx", "second.onnx"))
    words = ("--mode", "weights", "--data", calib, *how, *SAME)
    run("plan", DIGITS, *words, "-o", plan)
    run("compress", DIGITS, *words, "-o", first, "--no-latency")
    run("compress", DIGITS, "--plan", plan, "--data", calib, "-o", second, "--no-latency")
    assert second.read_bytes() == first.read_bytes()


def test_a_recipe_file_says_what_is_pruned(calib: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "prune"\n[prune]\npattern = "2:4"\ncriterion = "wanda"\n')
    report = report_of("compress", DIGITS, "--recipe", recipe, "--data", calib, "-o", tmp_path / "out.onnx")
    assert any("2:4, by wanda" in note for note in report["notes"])


def test_losses_by_share(calib: Path) -> None:
    found = json.loads(run("sensitivity", DIGITS, "--data", calib, "--prune", "--format", "json").stdout)
    assert {item["name"] for item in found} >= {"classifier.weight"}
    for item in found:
        losses = [entry["loss"] for entry in item["losses"]]
        assert losses[-1] >= losses[0]
    told = run("sensitivity", DIGITS, "--data", calib, "--prune", "--format", "markdown").stdout
    assert "loss at 50%" in told


def test_too_much_is_said_and_ends_with_1(calib: Path, tmp_path: Path) -> None:
    words = ("--prune", "95%", "--prune-criterion", "random", "--no-prune-compensate", *SAME)
    report = report_of("prune", DIGITS, "--data", calib, "-o", tmp_path / "out.onnx", *words, code=1)
    assert [gate["name"] for gate in report["gates"] if not gate["passed"]] == ["accuracy_budget"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("prune", DIGITS, "--prune", "150%"), 3, "cannot be pruned"),
        (("compress", DIGITS, "--prune-criterion", "wanda"), 2, "not said how much"),
        (("compress", DIGITS, "--prune-pattern", "channel"), 3, "does not say how much"),
        (("compress", DIGITS, "--prune", "0.5", "--prune-threshold", "0.1"), 3, "exclude each other"),
        (("prune", DIGITS, "--prune-pattern", "3:2"), 3, "not a pattern"),
        (("prune", DIGITS, "--prune-criterion", "magnitud"), 2, "did you mean magnitude"),
        (("prune", DIGITS), 3, "without data"),
        (("compress", DIGITS, "--weights", "float32"), 3, "save nothing unless they are pruned"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, words: tuple[str | Path, ...], code: int, told: str) -> None:
    out = tmp_path / "out.onnx"
    result = run(*words, "-o", out, code=code)
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_what_does_not_go_together(calib: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    run("plan", DIGITS, "--mode", "weights", "-o", plan)
    result = run("compress", DIGITS, "--plan", plan, "--prune", "0.5", "-o", tmp_path / "out.onnx", code=2)
    assert "--plan already says" in result.stderr
    result = run("plan", DIGITS, "--data", calib, "--frontier", "--prune", "0.5", code=3)
    assert "no frontier" in result.stderr


def test_a_replay_needs_neither_the_recipe_nor_its_options(calib: Path, tmp_path: Path) -> None:
    plan, first, second = (tmp_path / name for name in ("plan.json", "first.onnx", "second.onnx"))
    words = ("--data", calib, "--recipe", "prune", "--no-sequential", *SAME)
    run("plan", DIGITS, *words, "-o", plan)
    run("compress", DIGITS, *words, "-o", first, "--no-latency")
    run("compress", DIGITS, "--plan", plan, "--data", calib, "-o", second, "--no-latency")
    assert second.read_bytes() == first.read_bytes()
    refused = run("compress", DIGITS, "--plan", plan, "-o", tmp_path / "third.onnx", "--no-latency", code=3)
    assert "there is none" in refused.stderr


def test_half_precision_stays_half_precision(calib: Path, tmp_path: Path) -> None:
    half, out = tmp_path / "half.onnx", tmp_path / "out.onnx"
    model = onnx.load(DIGITS)
    constants = [item.t for node in model.graph.node if node.op_type == "Constant" for item in node.attribute]
    for tensor in [*model.graph.initializer, *constants]:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            narrow = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            tensor.CopyFrom(narrow)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]
    onnx.save(model, half)
    with np.load(calib) as data:
        np.savez(tmp_path / "half.npz", image=data["image"].astype(np.float16))
    report = report_of("prune", half, "--data", tmp_path / "half.npz", "-o", out, *SAME)
    assert ratio_of(report) < 0.65
    largest = max((row for row in report["coverage"] if row["form"]), key=lambda row: row["bytes_before"])["weight"]
    words = (
        "prune",
        half,
        "--data",
        tmp_path / "half.npz",
        "-o",
        tmp_path / "both.onnx",
        "--layer",
        f"{largest}=int8/channel",
    )
    both = report_of(*words, *SAME)
    assert {row["scheme"] for row in both["coverage"] if row["form"]} == {"float16", "int8/channel"}
    assert ratio_of(both) < ratio_of(report)


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        ("channels-int8", {"amount": 0.3}, Pruning(amount=0.3, pattern=CHANNELS)),
        ("prune", {"pattern": CHANNELS}, Pruning(amount=0.5, pattern=CHANNELS)),
        ("prune", {"pattern": Pattern.parse("2:4")}, Pruning(pattern=Pattern.parse("2:4"))),
        ("prune", {"threshold": 0.1}, Pruning(threshold=0.1)),
        ("int8", {"amount": 0.1, "pattern": CHANNELS}, Pruning(amount=0.1, pattern=CHANNELS)),
    ],
)
def test_how_much_is_said_in_one_way(base: str, changes: dict[str, Any], expected: Pruning) -> None:
    assert merged(RECIPES[base].pruning, changes) == expected
