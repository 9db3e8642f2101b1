"""Ctrl-C and SIGTERM at any moment: the exit code says so, and nothing half-written stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from small_models import Sample

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = """
import time
from pathlib import Path
import numpy as np

def feeds():
    for _ in range(200):
        Path("started").touch()
        time.sleep(0.2)
        yield {"x": np.ones((1, 64), np.float32)}
"""


def start(place: Path, data: str) -> subprocess.Popen[str]:
    """A compression in a process of its own, with its temporary files under ``place``."""
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), "PYTHONPATH": str(ROOT)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)  # it would write an identifier there, if we did not turn it off
    words = ["compress", "model.onnx", "-o", "out.onnx", "--data", data, "--report", "out.json", "-q"]
    return subprocess.Popen(
        [sys.executable, "-m", "qcompress", *words],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def place(mlp: Sample, tmp_path: Path) -> Path:
    """A folder with the model, its data and data that takes its time."""
    shutil.copy(mlp.model, tmp_path)
    shutil.copy(mlp.calib, tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def left_behind(place: Path) -> list[str]:
    """What is in the folder, apart from what was put there."""
    given = {"model.onnx", "calib.npz", "slow.py", "tmp", "started", "__pycache__"}
    return sorted(
        str(path.relative_to(place)) for path in (*place.iterdir(), *(place / "tmp").iterdir()) if path.name not in given
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_calibrating(place: Path, number: signal.Signals, code: int) -> None:
    process = start(place, "slow:feeds")
    give_up = time.monotonic() + 60
    while not (place / "started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up, "the data was never asked for"
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert output == ""
    assert errors.startswith("qcompress: error: interrupted")
    assert len(errors.splitlines()) == 2
    assert left_behind(place) == []


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.8, 1.1, 1.5, 2.0])
def test_a_signal_at_any_moment(place: Path, seconds: float) -> None:
    """Before, while or after the model is written: there is a whole file or none."""
    process = start(place, "calib.npz")
    time.sleep(seconds)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode in {143, -signal.SIGTERM, 0}
    assert "Traceback" not in errors
    assert set(left_behind(place)) <= {"out.onnx", "out.json"}
    if (place / "out.onnx").exists():
        onnx.checker.check_model(str(place / "out.onnx"), full_check=True)
    if process.returncode == 0:
        assert left_behind(place) == ["out.json", "out.onnx"]
