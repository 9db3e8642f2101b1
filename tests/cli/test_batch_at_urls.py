"""Models, data and results at URLs, from discovery to the summary; file:// stands for a bucket, since processes share it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import Sample

from qcompress.zoo.discovery import discover_at

pytest.importorskip("fsspec", reason="the extra [remote] is not installed")

Run = Callable[..., subprocess.CompletedProcess[str]]
FLAGS = ("--recipe", "int8-weights", "--no-latency", "--quiet")


@pytest.fixture
def bucket(tmp_path: Path, mlp: Sample) -> Path:
    """One model with external data and calibration data, one with test data sets in a folder of its own, a broken one."""
    folder = tmp_path / "bucket"
    (folder / "sub/test_data_set_0").mkdir(parents=True)
    onnx.save(onnx.load(mlp.model), folder / "a.onnx", save_as_external_data=True, location="a.weights", size_threshold=0)
    shutil.copy(mlp.calib, folder / "a.calib.npz")
    shutil.copy(mlp.model, folder / "sub/b.onnx")
    with np.load(mlp.calib) as arrays:
        tensor = onnx.numpy_helper.from_array(arrays["x"][:1], "x")
    (folder / "sub/test_data_set_0/input_0.pb").write_bytes(tensor.SerializeToString())
    (folder / "broken.onnx").write_bytes(b"\x08")
    (folder / "earlier").mkdir()
    shutil.copy(mlp.model, folder / "earlier/result.onnx")
    (folder / "earlier/result.state.json").write_text("{}")
    return folder


def test_models_are_found_with_their_data(bucket: Path) -> None:
    url = f"file://{bucket}"
    found = {entry.name: (entry.model, entry.data) for entry in discover_at(url)}
    assert found == {
        "a": (f"{url}/a.onnx", f"{url}/a.calib.npz"),
        "broken": (f"{url}/broken.onnx", None),
        "sub/b": (f"{url}/sub/b.onnx", f"{url}/sub"),
    }


def test_a_batch_from_bucket_to_bucket(bucket: Path, tmp_path: Path, command: Run) -> None:
    words = ["batch", f"file://{bucket}", "-o", f"file://{tmp_path}/out", *FLAGS, "--format", "json"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    outcomes = {item["name"]: item for item in json.loads(done.stdout)["outcomes"]}
    assert {name: item["status"] for name, item in outcomes.items()} == {"a": "done", "sub/b": "done", "broken": "unusable"}
    out = tmp_path / "out"
    assert f"error: file://{bucket}/broken.onnx: " in (out / "broken.log").read_text()
    assert onnx.load(out / "a.onnx").graph.node
    report = json.loads((out / "a.report.json").read_text())
    assert (report["source"], report["target"]) == (f"file://{bucket}/a.onnx", f"file://{out}/a.onnx")
    assert report["data"]["calibration"] == f"file://{bucket}/a.calib.npz"
    assert {path.name for path in out.iterdir()} >= {"summary.json", "summary.html", "a.onnx", "a.state.json", "sub"}
    assert not list(out.rglob("*.part"))
    # External data of one is changed; the other one stands.
    weights = bytearray((bucket / "a.weights").read_bytes())
    weights[:4] = b"\0\0\0\0"
    (bucket / "a.weights").write_bytes(weights)
    again = {item["name"]: item["reused"] for item in json.loads(command(*words, cwd=tmp_path).stdout)["outcomes"]}
    assert again == {"a": False, "sub/b": True, "broken": False}


def test_compress_reads_urls(bucket: Path, tmp_path: Path, command: Run) -> None:
    words = ["--data", f"file://{bucket}/a.calib.npz", *FLAGS, "--report", "r.json", "--depfile", "x.d"]
    done = command("compress", f"file://{bucket}/a.onnx", "-o", "small.onnx", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["source"] == f"file://{bucket}/a.onnx"
    assert (tmp_path / "x.d").read_text() == "small.onnx r.json:\n"
    near = command("compress", bucket / "a.onnx", "-o", "near.onnx", "--data", bucket / "a.calib.npz", *FLAGS, cwd=tmp_path)
    assert near.returncode == 0
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "near.onnx").read_bytes()
    done = command("compress", f"file://{bucket}/no.onnx", "-o", "small.onnx", cwd=tmp_path)
    assert done.returncode == 3
    assert f"file://{bucket}/no.onnx: there is no such file" in done.stderr
