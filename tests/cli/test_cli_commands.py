"""Every command from end to end on small real models: results, forms, files and exit codes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from small_models import Sample

from qcompress.cli import main

Command = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: str | Path) -> Result:
    """A command in this process."""
    return CliRunner().invoke(main, list(map(str, words)))


def done(*words: str | Path, code: int = 0) -> Result:
    """A command that must end with ``code``."""
    result = run(*words)
    assert result.exit_code == code, result.stderr
    return result


def quick(sample: Sample, target: Path | str, *words: str | Path) -> list[str | Path]:
    """The words of a compression without latency."""
    return [
        "compress",
        sample.model,
        "-o",
        target,
        "--data",
        sample.calib,
        "--eval-data",
        sample.eval,
        "--no-latency",
        *words,
    ]


def digest(path: Path) -> str:
    """The content of a file in short."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["conv", "mlp", "embedding"])
def test_compress_writes_a_smaller_model_that_still_works(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    sample, target = samples[name], tmp_path / "small.onnx"
    result = done(*quick(sample, target, "--report", tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert target.stat().st_size < 0.6 * sample.model.stat().st_size
    onnx.checker.check_model(str(target), full_check=True)
    with np.load(sample.eval) as data:
        feed = {key: data[key] for key in data.files if key != "labels"}
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        outputs = session.run(None, feed)[0]
        labels = data["labels"]
    accuracy = float((outputs.argmax(axis=1) == labels).mean())
    assert accuracy >= 0.9
    # dynamic ranges are those of a whole call, and the report counts what smaller calls gave: a close sample may differ
    assert report["accuracy"]["compressed_task"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1.01 / len(labels))
    assert report["size"]["compressed_bytes"] == target.stat().st_size
    assert "small.onnx" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "small.onnx"]


def test_the_three_forms_tell_the_same(mlp: Sample, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("r.json", "r.md", "r.txt")]
    words = [word for file in files for word in ("--report", file)]
    result = done(*quick(mlp, tmp_path / "a.onnx", *words, "--format", "json"))
    texts = [file.read_text().replace("\\_", "_") for file in files]
    assert json.loads(result.stdout) == json.loads(texts[0])
    assert all("hidden_weight" in text for text in texts)
    assert "|" in texts[1]
    assert "\x1b" not in "".join(texts)


def test_two_runs_give_the_same_model_report_and_plan(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["conv"]
    outcomes = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        done(*quick(sample, folder / "m.onnx", "--report", folder / "r.json", "-q"))
        done("plan", sample.model, "--data", sample.calib, "-o", folder / "plan.json", "-q")
        report = json.loads((folder / "r.json").read_text())
        report.pop("target")
        outcomes.append((digest(folder / "m.onnx"), digest(folder / "plan.json"), report))
    assert outcomes[0] == outcomes[1]


def test_a_plan_is_replayed_byte_for_byte(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample, plan = samples["conv"], tmp_path / "plan.json"
    done(*quick(sample, tmp_path / "direct.onnx", "--recipe", "int8-static"))
    done("plan", sample.model, "--recipe", "int8-static", "--data", sample.calib, "-o", plan)
    done(*quick(sample, tmp_path / "replayed.onnx", "--plan", plan))
    assert digest(tmp_path / "direct.onnx") == digest(tmp_path / "replayed.onnx")


def test_a_plan_on_stdout_is_json_and_nothing_else(mlp: Sample) -> None:
    result = done("plan", mlp.model, "--data", mlp.calib)
    assert json.loads(result.stdout)
    assert result.stdout == done("plan", mlp.model, "--data", mlp.calib, "-q").stdout


def test_plan_and_recipe_options_do_not_go_together(mlp: Sample, tmp_path: Path) -> None:
    done("plan", mlp.model, "--data", mlp.calib, "-o", tmp_path / "p.json")
    result = done(*quick(mlp, tmp_path / "a.onnx", "--plan", tmp_path / "p.json", "--mode", "static"), code=2)
    assert "--plan already says" in result.stderr


def test_the_model_in_a_pipe_is_the_model_in_a_file(mlp: Sample, tmp_path: Path, command: Command) -> None:
    done(*quick(mlp, tmp_path / "file.onnx"))
    piped = command(*quick(mlp, "-", "--report", tmp_path / "r.json"), text=False)
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == (tmp_path / "file.onnx").read_bytes()
    assert b"accuracy_budget" in piped.stderr
    assert json.loads((tmp_path / "r.json").read_text())["target"] == "-"


def test_without_data_weights_are_compressed_and_accuracy_is_said_to_be_unmeasured(mlp: Sample, tmp_path: Path) -> None:
    result = done("compress", mlp.model, "-o", tmp_path / "a.onnx", "--no-latency", "--report", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["accuracy"] is None
    assert "not measured" in result.stdout
    assert (tmp_path / "a.onnx").stat().st_size < mlp.model.stat().st_size


def test_random_data_is_owned_up_to_in_the_first_line(mlp: Sample, tmp_path: Path) -> None:
    result = done("compress", mlp.model, "-o", tmp_path / "a.onnx", "--no-latency", "--data", "random")
    assert "random" in result.stdout.strip().splitlines()[0].lower()


def test_a_part_of_the_data_is_held_out(mlp: Sample, tmp_path: Path) -> None:
    words = ["compress", mlp.model, "-o", tmp_path / "a.onnx", "--data", mlp.calib, "--no-latency", "--format", "json", "-q"]
    report = json.loads(done(*words).stdout)
    assert report["data"]["held_out"] is True
    assert (report["data"]["calibration_samples"], report["data"]["evaluation_samples"]) == (36, 6)  # another 6 chose
    report = json.loads(done(*words, "--held-out", "0.5").stdout)
    assert (report["data"]["calibration_samples"], report["data"]["evaluation_samples"]) == (24, 12)


def test_eval_samples_limits_the_measurement(mlp: Sample, tmp_path: Path) -> None:
    report = json.loads(done(*quick(mlp, tmp_path / "a.onnx", "--eval-samples", "10", "--format", "json", "-q")).stdout)
    assert report["accuracy"]["samples"] == 10


GATES = [
    ("--max-size-ratio", "1%", "90%"),
    ("--min-sqnr", "500", "5"),
    ("--max-accuracy-drop", "0", "50%"),
]


@pytest.mark.parametrize(("gate", "tight", "loose"), GATES)
def test_a_gate_decides_the_exit_code(samples: dict[str, Sample], tmp_path: Path, gate: str, tight: str, loose: str) -> None:
    target = tmp_path / "a.onnx"
    done(*quick(samples["conv"], target, gate, loose))
    if gate != "--max-accuracy-drop":  # a drop of exactly nothing is possible
        result = done(*quick(samples["conv"], target, gate, tight, "-q"), code=1)
        assert result.stderr.startswith("qcompress: gate failed: ")
        assert len(result.stderr.splitlines()) == 1
        assert target.exists()


def test_a_speed_gate_needs_the_latency(mlp: Sample, tmp_path: Path) -> None:
    words = [
        "compress",
        mlp.model,
        "-o",
        tmp_path / "a.onnx",
        "--data",
        mlp.calib,
        "--min-speedup",
        "1000",
        "--format",
        "json",
        "-q",
    ]
    report = json.loads(done(*words, code=1).stdout)
    assert report["latency"]["speedup"]["value"] > 0
    assert {gate["name"]: gate["passed"] for gate in report["gates"]}["min_speedup"] is False


def test_a_failed_gate_discards_the_model_when_asked_to(mlp: Sample, tmp_path: Path) -> None:
    result = done(*quick(mlp, tmp_path / "a.onnx", "--max-size-ratio", "0.01", "--discard-on-fail"), code=1)
    assert "gate failed" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_model_leaves_the_old_file(mlp: Sample, tmp_path: Path) -> None:
    target = tmp_path / "a.onnx"
    target.write_bytes(b"old")
    done(*quick(mlp, target, "--max-size-ratio", "0.01", "--discard-on-fail"), code=1)
    assert target.read_bytes() == b"old"


def test_gates_may_be_in_the_recipe(mlp: Sample, tmp_path: Path) -> None:
    (tmp_path / "tight.toml").write_text('base = "int8-weights"\n[gates]\nmax_size_ratio = 0.01\n')
    done(*quick(mlp, tmp_path / "a.onnx", "--recipe", tmp_path / "tight.toml"), code=1)
    done(*quick(mlp, tmp_path / "a.onnx", "--recipe", tmp_path / "tight.toml", "--max-size-ratio", "0.9"), code=0)


def test_excluded_layers_are_kept_with_the_reason(mlp: Sample, tmp_path: Path) -> None:
    report = json.loads(done(*quick(mlp, tmp_path / "a.onnx", "--exclude", "hid*", "--format", "json", "-q")).stdout)
    rows = {row["weight"]: row for row in report["coverage"]}
    assert rows["hidden_weight"]["form"] is None
    assert rows["hidden_weight"]["reason"]
    assert rows["middle_weight"]["form"]


def test_a_users_metric_is_called(mlp: Sample, tmp_path: Path, command: Command) -> None:
    (tmp_path / "mine.py").write_text(
        "def first(outputs, labels):\n    return float((outputs['logits'].argmax(1) == labels).mean())\n"
    )
    result = command(*quick(mlp, "a.onnx", "--metric", "mine:first", "--format", "json"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["accuracy"]["metric"]["float_value"] == 1


def test_quiet_prints_nothing_at_all(mlp: Sample, tmp_path: Path) -> None:
    result = done(*quick(mlp, tmp_path / "a.onnx", "--quiet"))
    assert (result.stdout, result.stderr) == ("", "")


def test_stderr_has_the_talk_and_stdout_only_the_result(mlp: Sample, tmp_path: Path) -> None:
    result = done(*quick(mlp, tmp_path / "a.onnx", "--format", "json"))
    assert json.loads(result.stdout)
    assert "..." in result.stderr
    assert "\x1b" not in result.stderr


def test_a_reader_that_leaves_early_is_not_an_error(mlp: Sample, tmp_path: Path, command: Command) -> None:
    words = quick(mlp, tmp_path / "a.onnx", "-q", "--format", "json")
    result = command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, capture_output=False, preexec_fn=close_stdout)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert (tmp_path / "a.onnx").exists()


def close_stdout() -> None:
    """Leave a pipe on stdout that nobody reads."""
    import os

    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


def test_inspect_shows_weights_and_what_becomes_of_them(samples: dict[str, Sample]) -> None:
    for sample in samples.values():
        content = json.loads(done("inspect", sample.model, "--format", "json").stdout)
        weights = {row["weight"]: row for row in content["weights"]}
        big = [row for row in weights.values() if row["bytes_before"] > 2000]
        assert big
        assert all(row["form"] or row["reason"] for row in weights.values())
        assert content["compressible_bytes"] > 0.9 * sum(row["bytes_before"] for row in big)
        assert content["estimated_bytes"] < content["file_bytes"] == sample.model.stat().st_size
        for form in ("table", "markdown"):
            text = done("inspect", sample.model, "--format", form).stdout.replace("\\_", "_")
            assert all(name in text for name in weights)


def test_inspect_says_why_a_layer_is_kept(mlp: Sample) -> None:
    rows = json.loads(done("inspect", mlp.model, "--exclude", "head", "--format", "json").stdout)["weights"]
    kept = {row["weight"]: row["reason"] for row in rows if row["form"] is None}
    assert kept["head_weight"]
    assert "kept: " in done("inspect", mlp.model, "--exclude", "head").stdout


def test_compare_reports_on_any_pair(mlp: Sample, tmp_path: Path) -> None:
    done(*quick(mlp, tmp_path / "a.onnx", "-q"))
    words: list[Any] = [
        "compare",
        mlp.model,
        tmp_path / "a.onnx",
        "--data",
        mlp.eval,
        "--no-latency",
        "--format",
        "json",
        "-q",
    ]
    report = json.loads(done(*words).stdout)
    assert report["accuracy"]["samples"] == 64
    assert report["size"]["compressed_bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert done(*words, "--max-size-ratio", "1%", code=1).stderr.startswith("qcompress: gate failed: ")


def test_compare_of_a_model_with_itself_finds_no_difference(mlp: Sample) -> None:
    words = ["compare", mlp.model, mlp.model, "--data", mlp.eval, "--no-latency", "--format", "json", "-q"]
    report = json.loads(done(*words).stdout)
    assert report["accuracy"]["drop"]["value"] == 0
    assert [output["max_abs_error"] for output in report["accuracy"]["agreement"]] == [0]


def test_operators_in_three_forms() -> None:
    rows = json.loads(done("operators", "--format", "json").stdout)
    assert {"Conv", "Gemm", "MatMul", "LSTM", "Gather"} <= {row["operator"] for row in rows}
    for form in ("table", "markdown"):
        text = done("operators", "--format", form).stdout
        assert all(row["operator"] in text for row in rows)


def test_operators_say_which_schemes_each_form_carries_and_why_not() -> None:
    rows = json.loads(done("operators", "--cells", "--format", "json").stdout)
    assert len(rows) == 8 * 5
    for row in rows:
        assert row["schemes"] == "none" or "bits" in row["schemes"]
        assert row["why not the others"] or row["form"] in ("folded", "gathered")
    (conv,) = (row for row in rows if (row["operator"], row["form"]) == ("Conv", "static"))
    assert conv["schemes"] == "2 to 8 bits, 2 to 8 bits asymmetric"
    assert "blocks: integer kernels" in conv["why not the others"]


def test_version_and_help() -> None:
    import qcompress

    assert done("--version").stdout == f"qcompress {qcompress.__version__}\n"
    assert "compress" in done("--help").stdout
    result = done(code=2)
    assert "Usage" in result.stderr


def test_an_output_that_matters_must_exist(mlp: Sample, tmp_path: Path) -> None:
    result = done(*quick(mlp, tmp_path / "small.onnx", "--judge-output", "logit"), code=3)
    assert "no output 'logit'" in result.stderr
    assert "did you mean 'logits'?" in result.stderr
    assert not (tmp_path / "small.onnx").exists()


def test_one_feed_is_compressed_without_measuring_accuracy(mlp: Sample, tmp_path: Path) -> None:
    with np.load(mlp.calib) as data:
        np.savez(tmp_path / "one.npz", **{name: data[name][:1] for name in data.files})
    words = ["compress", mlp.model, "-o", tmp_path / "small.onnx", "--data", tmp_path / "one.npz", "--no-latency"]
    assert "none was held out" in done(*words).stdout


def test_a_misspelt_key_of_a_recipe_is_named_with_its_nearest(mlp: Sample, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('weihts = "int8"\n')
    result = done(*quick(mlp, tmp_path / "small.onnx", "--recipe", tmp_path / "mine.toml"), code=3)
    assert "unknown key 'weihts'" in result.stderr
    assert "did you mean weights?" in result.stderr


def test_a_gate_must_be_a_number(mlp: Sample, tmp_path: Path) -> None:
    assert "--min-sqnr is not a number" in done(*quick(mlp, tmp_path / "small.onnx", "--min-sqnr", "nan"), code=2).stderr
