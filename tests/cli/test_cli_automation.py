"""What CI servers are told: JUnit, GitHub's summary and annotations, and the baseline of an earlier run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest
from small_models import Sample

from qcompress.cli.github import SUMMARY_BYTES, annotate, summarize

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def words(mlp: Sample, tmp_path: Path) -> list[str]:
    """A quick run that measures accuracy."""
    quick = ["--recipe", "int8-weights", "--no-latency", "--quiet"]
    return [
        "compress",
        str(mlp.model),
        "-o",
        str(tmp_path / "o.onnx"),
        "--data",
        str(mlp.calib),
        "--eval-data",
        str(mlp.eval),
        *quick,
    ]


@pytest.fixture
def github(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on GitHub."""
    own = {"PYTHONPATH": str(ROOT), "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    return {**os.environ, **own}


def test_a_failed_gate_reaches_junit_and_github(
    words: list[str], tmp_path: Path, command: Run, github: dict[str, str]
) -> None:
    done = command(*words, "--max-size-ratio", "1%", "--junit", tmp_path / "j.xml", env=github)
    assert done.returncode == 1
    root = parse(tmp_path / "j.xml").getroot()
    assert (root.get("failures"), root.get("errors")) == ("1", "0")
    assert float(root.get("time") or 0) > 0
    failure = root.find("testsuite/testcase[@name='max_size_ratio']/failure")
    assert failure is not None
    assert "at most 0.01 allowed" in (failure.text or "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("::error")]
    assert line.startswith(f"::error title=qcompress%3A {words[1]}::gate failed: size ratio")
    summary = (tmp_path / "summary.md").read_text()
    assert "## Gates" in summary
    assert "failed" in summary
    assert done.stdout == ""


def test_a_model_that_cannot_be_read_reaches_junit_and_github(
    words: list[str], tmp_path: Path, command: Run, github: dict[str, str]
) -> None:
    broken = tmp_path / "broken 50%.onnx"
    broken.write_bytes(b"\x08")
    words[1] = str(broken)
    done = command(*words, "--junit", tmp_path / "j.xml", env=github)
    assert done.returncode == 3
    error = parse(tmp_path / "j.xml").getroot().find("testsuite/testcase/error")
    assert error is not None
    assert error.get("type") == "ModelError"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("::error")]
    assert "broken 50%25.onnx" in line


def test_elsewhere_nothing_is_said(words: list[str], command: Run) -> None:
    done = command(*words, "--max-size-ratio", "1%")
    assert done.returncode == 1
    assert "::" not in done.stderr


def test_a_junit_file_that_cannot_be_written_is_told_before_the_work(words: list[str], tmp_path: Path, command: Run) -> None:
    done = command(*words, "--junit", tmp_path / "nowhere" / "j.xml")
    assert done.returncode == 3
    assert "there is no folder" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_wrong_use_is_annotated(command: Run, github: dict[str, str]) -> None:
    done = command("compress", "--no-such-option", env=github)
    assert done.returncode == 2
    assert done.stderr.startswith("::error title=qcompress::")


def test_annotations_and_summaries_escape_and_keep_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    annotate("a:b,c", "50%\nmore", "warning")
    assert capsys.readouterr().err == "::warning title=a%3Ab%2Cc::50%25%0Amore\n"
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    summarize("# One")
    summarize("x" * SUMMARY_BYTES)
    assert summary.read_text().startswith("# One\n\n")
    assert summary.stat().st_size < 200
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    summarize("# Two")
    assert "cannot be written" in capsys.readouterr().err


def test_a_baseline_holds_and_then_fails(words: list[str], tmp_path: Path, command: Run) -> None:
    report = tmp_path / "base.json"
    assert command(*words, "--report", report).returncode == 0
    (tmp_path / "o.onnx").unlink()
    better = json.loads(report.read_text())
    better["size"]["compressed_bytes"] //= 2
    report.write_text(json.dumps(better))
    done = command(*words, "--baseline", report, "--discard-on-fail")
    assert done.returncode == 1
    assert "worse than the baseline" in done.stderr
    assert not (tmp_path / "o.onnx").exists()
    assert command(*words, "--baseline", report, "--size-tolerance", "120%").returncode == 0


@pytest.mark.parametrize("content", [None, "{}", "no json", b"\xff\xfe"])
def test_a_baseline_that_is_no_report_is_told_at_once(
    words: list[str], tmp_path: Path, command: Run, content: str | bytes | None
) -> None:
    report = tmp_path / "base.json"
    if content is not None:
        report.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = command(*words, "--baseline", report)
    assert done.returncode == 2
    assert "base.json" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_a_baseline_is_never_overwritten(words: list[str], tmp_path: Path, command: Run) -> None:
    report = tmp_path / "base.json"
    report.write_text("kept")
    done = command(*words, "--baseline", report, "--report", report)
    assert done.returncode == 2
    assert "is also an input" in done.stderr
    assert report.read_text() == "kept"


def test_no_junit_of_a_failure_replaces_an_input(words: list[str], mlp: Sample, command: Run) -> None:
    for file in (mlp.model, mlp.calib):
        before = file.read_bytes()
        assert command(*words, "--junit", file).returncode == 2
        assert file.read_bytes() == before
