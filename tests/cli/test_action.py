"""The composite action for GitHub: its step is run as the runner would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import Sample

yaml = pytest.importorskip("yaml", reason="comes with the extra [dask]")

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / ".github/actions/compress/action.yml").read_text())


def run_step(model: Path, folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    """The step that compresses, with these options."""
    (step,) = (step for step in ACTION["runs"]["steps"] if step.get("id") == "run")
    tool = folder / "bin" / "qcompress"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qcompress "$@"\n')
    tool.chmod(0o755)
    given = {name: entry.get("default", "") for name, entry in ACTION["inputs"].items()}
    given |= {"source": str(model), "output": "small.onnx", "options": f"--recipe int8-weights --quiet {options}"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    environment |= {name: given[value.split(".")[1].split(" ")[0]] for name, value in step["env"].items()}
    environment |= {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_ACTIONS": "true"}
    environment["GITHUB_STEP_SUMMARY"] = str(folder / "summary.md")
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("limit", "code"), [("--max-size-ratio 40%", 0), ("--max-size-ratio '1%'", 1)])
def test_the_step_compresses_and_tells_its_exit_code(mlp: Sample, tmp_path: Path, limit: str, code: int) -> None:
    done = run_step(mlp.model, tmp_path, limit)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "output").read_text() == f"exit-code={code}\n"
    assert (tmp_path / "small.onnx").exists()
    assert (tmp_path / "qcompress-junit.xml").exists()
    assert (tmp_path / "summary.md").read_text().startswith("# ")
    assert done.stderr.startswith("::error") == bool(code)


def test_options_that_cannot_be_taken_apart_end_the_step(mlp: Sample, tmp_path: Path) -> None:
    done = run_step(mlp.model, tmp_path, "--exclude it's --max-size-ratio 1%")
    assert done.returncode != 0
    assert "quote" in done.stderr
    assert not (tmp_path / "small.onnx").exists()
