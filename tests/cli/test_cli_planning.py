"""What the user touches of the search, end to end: frontier, pick, sensitivity, cost files and limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_models import Sample

from qcompress.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "sample_models" / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits."""
    path = tmp_path_factory.mktemp("digits") / "calib.npz"
    with np.load(DIGITS.with_suffix(".calib.npz")) as data:
        np.savez(path, **{name: data[name][:48] for name in data.files})
    return path


@pytest.fixture(scope="module")
def costs(calib: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measurements of the digits, made once."""
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    done("plan", DIGITS, "--data", calib, "--effort", "quick", "--cost-file", path, "-o", path.with_name("plan.json"))
    return path


def done(*words: str | Path, code: int = 0) -> Result:
    """A quiet command that must end with ``code``."""
    result = CliRunner().invoke(main, [*map(str, words), "-q"])
    assert result.exit_code == code, result.stderr
    return result


def test_the_same_cost_file_gives_the_same_plan(calib: Path, costs: Path, tmp_path: Path) -> None:
    first = costs.with_name("plan.json").read_bytes()
    before = json.loads(costs.read_text())
    assert before["losses"]
    assert before["speedups"]
    done("plan", DIGITS, "--data", calib, "--effort", "quick", "--cost-file", costs, "-o", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == first
    assert json.loads(costs.read_text()) == before


def test_a_search_goes_on_from_what_was_measured(calib: Path, costs: Path, tmp_path: Path) -> None:
    whole = json.loads(costs.read_text())
    kept = dict(list(whole["losses"].items())[:1])
    part = tmp_path / "part.json"
    part.write_text(json.dumps({**whole, "losses": kept}))
    done("plan", DIGITS, "--data", calib, "--effort", "quick", "--cost-file", part, "-o", tmp_path / "plan.json")
    after = json.loads(part.read_text())
    assert kept.items() <= after["losses"].items()
    assert after["losses"].keys() == whole["losses"].keys()
    assert after["costs"] == whole["costs"]
    assert (tmp_path / "plan.json").read_bytes() == costs.with_name("plan.json").read_bytes()


def test_a_cost_file_of_another_model_is_refused(mlp: Sample, costs: Path, tmp_path: Path) -> None:
    result = done("plan", mlp.model, "--data", mlp.calib, "--cost-file", costs, "-o", tmp_path / "plan.json", code=3)
    assert "other model" in result.stderr
    assert "--cost-file" in result.stderr


@pytest.mark.parametrize("taken", ["model", "data", "output"])
def test_a_cost_file_is_no_other_file(taken: str, mlp: Sample, tmp_path: Path) -> None:
    files = {"model": mlp.model, "data": mlp.calib, "output": tmp_path / "o.onnx"}
    before = mlp.model.read_bytes(), mlp.calib.read_bytes()
    done("compress", mlp.model, "--data", mlp.calib, "-o", files["output"], "--cost-file", files[taken], code=2)
    assert (mlp.model.read_bytes(), mlp.calib.read_bytes()) == before


def test_a_plan_leaves_nothing_to_choose(mlp: Sample, tmp_path: Path) -> None:
    words = ["compress", mlp.model, "-o", tmp_path / "o.onnx", "--plan", tmp_path / "plan.json"]
    for more in (["--pick", "1"], ["--cost-file", tmp_path / "c.json"], ["--objective", "size"]):
        assert "--plan" in done(*words, *more, code=2).stderr


def test_the_frontier_is_listed_and_a_point_of_it_written(calib: Path, costs: Path, tmp_path: Path) -> None:
    words = ["--data", calib, "--effort", "quick", "--cost-file", costs]
    points = json.loads(done("plan", "--frontier", DIGITS, *words, "--format", "json").stdout)
    assert [point["point"] for point in points] == list(range(1, len(points) + 1))
    assert len(points) >= 2
    for one in points:
        better = [
            other
            for other in points
            if other is not one and all(other[key] <= one[key] for key in ("size_bytes", "milliseconds", "loss"))
        ]
        assert not better
    done("plan", "--frontier", DIGITS, *words, "-o", tmp_path / "frontier.json")
    assert json.loads((tmp_path / "frontier.json").read_text()) == points
    assert "stored" in done("plan", "--frontier", DIGITS, *words, "--format", "markdown").stdout
    target = tmp_path / "small.onnx"
    report = json.loads(
        done("compress", DIGITS, "-o", target, *words, "--pick", "2", "--no-latency", "--format", "json").stdout
    )
    (gate,) = [gate for gate in report["gates"] if gate["name"] == "accuracy_budget"]
    assert gate["value"] == pytest.approx(points[1]["loss"], rel=1e-4)
    assert target.stat().st_size == pytest.approx(points[1]["size_bytes"], rel=0.15)
    result = done("compress", DIGITS, "-o", tmp_path / "no.onnx", *words, "--pick", "99", code=2)
    assert f"{len(points)} points" in result.stderr
    assert not (tmp_path / "no.onnx").exists()


def test_a_point_beyond_the_budget_ends_with_code_1(calib: Path, costs: Path, tmp_path: Path) -> None:
    words = ["--data", calib, "--effort", "quick", "--cost-file", costs, "--no-latency", "-o", tmp_path / "o.onnx"]
    result = done("compress", DIGITS, *words, "--plan", costs.with_name("plan.json"), code=2)  # one or the other
    words = ["--data", calib, "--no-latency", "-o", tmp_path / "o.onnx", "--plan", costs.with_name("plan.json")]
    result = done("compress", DIGITS, *words, "--max-accuracy-drop", "0.0000000001", code=1)
    assert "budget 1e-10 of agreement" in result.stderr
    assert (tmp_path / "o.onnx").exists()


def test_sensitivity_ranks_every_group(calib: Path, costs: Path, tmp_path: Path) -> None:
    words = ["--data", calib, "--cost-file", costs]
    files = [tmp_path / "r.json", tmp_path / "r.md"]
    result = done("sensitivity", DIGITS, *words, "--format", "json", "-o", files[0], "-o", files[1])
    ranking = json.loads(result.stdout)
    assert json.loads(files[0].read_text()) == ranking
    assert "| group |" in files[1].read_text()
    losses = [row["loss"] for row in ranking]
    assert losses == sorted(losses, reverse=True)
    assert {row["form"] for row in ranking} >= {"stored", "static"}
    assert all(row["layers"] for row in ranking)


def test_what_cannot_be_searched_is_told(mlp: Sample, tmp_path: Path) -> None:
    assert "--data" in done("plan", "--frontier", mlp.model, code=2).stderr
    result = done("sensitivity", mlp.model, "--data", mlp.calib, "--mode", "weights", code=3)
    assert "mode weights" in result.stderr
    assert "--pick" in done("compress", mlp.model, "-o", tmp_path / "o.onnx", "--pick", "1", code=2).stderr
