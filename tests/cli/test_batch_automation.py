"""What a batch tells CI servers and Make: JUnit, GitHub's summary and annotations, an earlier batch as baseline, dependencies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest
from small_models import Sample

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--recipe", "int8-weights", "--no-latency", "--quiet")


@pytest.fixture
def zoo(tmp_path: Path, mlp: Sample) -> Path:
    """A good model with data, and a broken one in a folder of its own."""
    folder = tmp_path / "zoo"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(mlp.model, folder / "good.onnx")
    shutil.copy(mlp.calib, folder / "good.calib.npz")
    (folder / "sub" / "bad.onnx").write_bytes(mlp.model.read_bytes()[:500])
    return folder


def test_ci_and_make_are_told(zoo: Path, tmp_path: Path, command: Run) -> None:
    own = {"PYTHONPATH": str(ROOT), "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    words = ["batch", "zoo", "-o", "out", *FLAGS, "--junit", "out/junit.xml", "--depfile", "out/zoo.d"]
    done = command(*words, cwd=tmp_path, env={**os.environ, **own})
    assert done.returncode == 1, done.stderr
    root = parse(tmp_path / "out/junit.xml").getroot()
    assert {key: root.get(key) for key in ("tests", "errors", "failures")} == {"tests": "2", "errors": "1", "failures": "0"}
    assert [suite.get("name") for suite in root] == ["sub/bad", "good"]
    error = root.find("testsuite[@name='sub/bad']/testcase/error")
    assert error is not None
    assert error.get("type") == "unusable"
    annotations = [line for line in done.stderr.splitlines() if line.startswith("::error")]
    assert len(annotations) == 1
    assert annotations[0].startswith("::error title=qcompress%3A sub/bad::unusable: ")
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("# ") == 1, "the models' own reports are not added"
    assert "sub/bad" in summary
    rule, *empty = (tmp_path / "out/zoo.d").read_text().split("\n\n")
    targets, _, sources = rule.partition(":")
    assert targets == "out/summary.json out/junit.xml"
    names = {line.strip(" \\") for line in sources.splitlines()[1:]}
    assert names == {"zoo", "zoo/sub", "zoo/good.onnx", "zoo/good.calib.npz", "zoo/sub/bad.onnx"}
    assert len(empty) == len(names)


def test_an_earlier_batch_is_a_baseline(zoo: Path, tmp_path: Path, command: Run) -> None:
    (zoo / "sub" / "bad.onnx").unlink()
    words = ["batch", "zoo", *FLAGS]
    assert command(*words, "-o", "last", cwd=tmp_path).returncode == 0
    (zoo / "new.onnx").write_bytes((zoo / "good.onnx").read_bytes())
    path = tmp_path / "last/good.report.json"
    earlier = json.loads(path.read_text())
    earlier["size"]["compressed_bytes"] //= 2
    path.write_text(json.dumps(earlier))
    done = command(*words, "-o", "now", "--baseline", "last", "--format", "json", cwd=tmp_path)
    assert done.returncode == 1
    gates = json.loads((tmp_path / "now/good.report.json").read_text())["gates"]
    held = {gate["name"]: gate["passed"] for gate in gates if gate["name"].startswith("baseline")}
    assert held == {"baseline_size": False, "baseline_accuracy": True}
    outcomes = {item["name"]: item for item in json.loads(done.stdout)["outcomes"]}
    assert outcomes["good"]["status"] == "gate failed"
    assert "worse than the baseline" in outcomes["good"]["cause"]
    assert outcomes["new"]["status"] == "done"
    assert command(*words, "-o", "last", "--baseline", "last", cwd=tmp_path).returncode == 2


def test_a_batch_that_cannot_begin_reaches_junit(zoo: Path, tmp_path: Path, command: Run) -> None:
    words = ["--engine", "dask", "--junit", "junit.xml"]
    done = command("batch", "zoo", "-o", "out", *FLAGS, *words, cwd=tmp_path)
    assert done.returncode == 3
    assert "--scheduler" in done.stderr
    error = parse(tmp_path / "junit.xml").getroot().find("testsuite/testcase/error")
    assert error is not None
    assert error.get("type") == "EngineError"
    done = command("batch", "zoo", "-o", "out", "--scheduler", "tcp://127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert "local engine" in done.stderr
