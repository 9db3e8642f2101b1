"""Dependency files in the hands of real make: it makes again what changed, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import Sample

from qcompress.cli.depfile import rule
from qcompress.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "sample_models" / "compress.mk"
OLD, NEW = 1_000_000_000, 2_000_000_000

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *words: str) -> list[str]:
    """What make runs."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment["PYTHONPATH"] = str(ROOT)  # and nothing of a make that these tests may be run by
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(("make: Nothing", "mkdir"))]


@pytest.mark.parametrize(
    "name",
    [
        "plain.npz",
        "two  words (1).npz",
        "a#b$c%d:e",
        "split=train/x y.npz",
        "=",
        "star*[0]?.npz",
        "~home",
        "back\\slash",
        "a&b!c,d{e}@f'g",
        "größe.npz",
        "-dash",
        "$(shell touch hacked).npz",
    ],
)
def test_any_name_survives_make(tmp_path: Path, name: str) -> None:
    """As a target and as a source; a source that was deleted means making again, not an error."""
    source, target = tmp_path / name, tmp_path / f"out {name.translate(str.maketrans('/%', '__'))}"
    source.parent.mkdir(exist_ok=True)
    for path, time in ((source, OLD), (target, OLD + 10)):
        path.write_text("x")
        os.utime(path, (time, time))
    text = rule([Path(target.name)], [Path(name)])
    goal = next(line for line in text.splitlines() if line.endswith(": \\"))[:-3]
    (tmp_path / "Makefile").write_text(f"{text}\n\n{goal}:\n\t@echo BUILD\n\n.DEFAULT_GOAL := all\nall: {goal}\n")
    assert make(tmp_path) == []
    os.utime(source, (NEW, NEW))
    assert make(tmp_path) == ["BUILD"]
    os.utime(source, (OLD, OLD))
    source.unlink()
    assert make(tmp_path) == ["BUILD"]
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["a;b", "a|b", "a\tb", "a\nb", "a\\ b", "end\\", "archive(member)"])
def test_what_make_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Make cannot have"):
        rule([Path("out")], [Path(name)])


@pytest.fixture
def zoo(tmp_path: Path, mlp: Sample) -> Path:
    """Two models with their data and the example's Makefile, which also makes something of one result."""
    for name in ("one", "two"):
        shutil.copy(mlp.model, tmp_path / f"{name}.onnx")
        shutil.copy(mlp.calib, tmp_path / f"{name}.calib.npz")
    flags = "--recipe int8-weights --no-latency"
    words = f"QCOMPRESS := {sys.executable} -m qcompress\nFLAGS := {flags}\n"
    after = "all: image\nimage: compressed/one.onnx\n\t@echo IMAGE\n\t@touch $@\n"
    (tmp_path / "Makefile").write_text(f"{words}include {EXAMPLE}\n{after}")
    return tmp_path


def made(lines: list[str]) -> list[str]:
    """The models that were compressed, and IMAGE where something was made of one."""
    return sorted(line.split(" compress ")[1].split(".onnx")[0] if " compress " in line else line for line in lines)


def test_the_example_makes_again_exactly_what_is_needed(zoo: Path) -> None:
    assert made(make(zoo)) == ["IMAGE", "one", "two"]
    assert made(make(zoo)) == []
    # Other data for one of them: that one, and what is made of it if it came out different.
    before = (zoo / "compressed/one.onnx").read_bytes()
    with np.load(zoo / "one.calib.npz") as arrays:
        np.savez(zoo / "one.calib.npz", **{name: values * 2 for name, values in arrays.items()})
    same = made(lines := make(zoo)) == ["one"]
    assert made(lines) == (["one"] if same else ["IMAGE", "one"])
    assert ((zoo / "compressed/one.onnx").read_bytes() == before) == same
    assert made(make(zoo)) == []
    # Only the time of the data is new: compressed again, and nothing comes of it.
    time = (zoo / "compressed/one.onnx").stat().st_mtime_ns
    os.utime(zoo / "one.calib.npz")
    assert made(make(zoo)) == ["one"]
    assert (zoo / "compressed/one.onnx").stat().st_mtime_ns == time
    assert made(make(zoo)) == []
    # Another model: all that follows.
    model = onnx.load(zoo / "one.onnx")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(0.5), tensor.name))
    onnx.save(model, zoo / "one.onnx")
    assert made(make(zoo)) == ["IMAGE", "one"]
    assert made(make(zoo)) == []


def sources(depfile: Path) -> set[str]:
    """What the first rule of a dependency file depends on."""
    return {line.strip(" \\") for line in depfile.read_text().split("\n\n")[0].splitlines()[1:]}


def test_every_file_read_is_named(
    tmp_path: Path, mlp: Sample, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """External data, each file of a folder and the folder, recipe, metric module with what it imports, baseline."""
    model = onnx.load(mlp.model)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.weights", size_threshold=0)
    feeds, held = tmp_path / "feeds", tmp_path / "eval.npz"
    feeds.mkdir()
    with np.load(mlp.calib) as arrays:
        for index in range(6):
            np.savez(feeds / f"{index}.npz", x=arrays["x"][index : index + 1])
    shutil.copy(mlp.eval, held)
    (tmp_path / "careful.toml").write_text('base = "int8-weights"\n')
    (tmp_path / "mine.py").write_text("import helper\ndef score(outputs, labels):\n    return helper.ONE\n")
    (tmp_path / "helper.py").write_text("ONE = 1.0\n")
    words = ["compress", "m.onnx", "-o", "small.onnx", "--data", "feeds", "--eval-data", "eval.npz"]
    words += ["--recipe", "careful.toml", "--metric", "mine:score", "--no-latency", "--quiet"]
    first = command(*words, "--report", "base.json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = command(*words, "--baseline", "base.json", "--report", "r.json", "--depfile", "small.d", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    expected = {"m.onnx", "m.weights", "eval.npz", "careful.toml", "mine.py", "helper.py", "base.json", "feeds"}
    assert sources(tmp_path / "small.d") == expected | {f"feeds/{index}.npz" for index in range(6)}
    assert (tmp_path / "small.d").read_text().startswith("small.onnx r.json: \\\n")


def test_a_depfile_without_a_file_to_depend_is_refused(
    mlp: Sample, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = command("compress", mlp.model, "-o", "-", "--depfile", tmp_path / "x.d")
    assert done.returncode == 2
    assert "--depfile" in done.stderr
    assert not (tmp_path / "x.d").exists()


def test_a_model_that_did_not_change_keeps_its_time(
    tmp_path: Path, mlp: Sample, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = ["compress", mlp.model, "-o", tmp_path / "small.onnx", "--recipe", "int8-weights", "--quiet"]
    assert command(*words).returncode == 0
    content = (tmp_path / "small.onnx").read_bytes()
    os.utime(tmp_path / "small.onnx", (OLD, OLD))
    assert command(*words).returncode == 0
    assert (tmp_path / "small.onnx").stat().st_mtime == OLD
    (tmp_path / "small.onnx").write_bytes(content[:-1] + b"?")
    os.utime(tmp_path / "small.onnx", (OLD, OLD))
    assert command(*words).returncode == 0
    assert (tmp_path / "small.onnx").read_bytes() == content
    assert (tmp_path / "small.onnx").stat().st_mtime > OLD
