"""Bad input of every kind: one line, a hint, the right exit code, no file, and the input as it was."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.external_data_helper import set_external_data
from small_models import MLP, Sample

from qcompress.cli import main

GOOD = np.zeros((8, 64), np.float32)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file under the folder with a digest of its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def place(mlp: Sample, tmp_path: Path) -> Path:
    """A folder with a good model and good data in it."""
    folder = tmp_path / "place"
    folder.mkdir()
    for path in (mlp.model, mlp.calib, mlp.eval):
        shutil.copy(path, folder)
    return folder


def refused(place: Path, code: int, *words: str | Path) -> str:
    """Run the command in the folder; the message of its failure."""
    before = snapshot(place)
    result = CliRunner().invoke(main, [*map(str, words), "-q"])
    assert snapshot(place) == before, "a refused command must leave every file as it was"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert result.exit_code == code, result.stderr
    assert [line.split(":")[0] for line in lines] in (["qcompress", "hint"], ["qcompress"]), result.stderr
    assert lines[0].startswith("qcompress: error: ")
    assert "bug in qcompress" not in lines[0]
    assert len(lines) == 2, f"no hint: {lines[0]}"
    return result.stderr


def compress(place: Path, *words: str | Path, code: int = 3) -> str:
    """A refused compression of the good model, or of ``model.onnx`` as it is by now."""
    return refused(place, code, "compress", place / "model.onnx", "-o", place / "out.onnx", "--no-latency", *words)


def zeros_model(**changes: Any) -> onnx.ModelProto:
    """The perceptron without weights, as a message to be broken."""
    model = onnx.parser.parse_model(MLP)
    for name, shape in {
        "hidden_weight": (128, 64),
        "hidden_bias": (128,),
        "middle_weight": (128, 64),
        "head_weight": (10, 64),
        "head_bias": (10,),
    }.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    for key, value in changes.items():
        setattr(model, key, value)
    return model


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def random_bytes(content: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(content))


BROKEN_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": truncated,
    "random": random_bytes,
    "text": lambda _: b"this is not a model\n",
    "zip": lambda _: b"PK\x03\x04" + bytes(100),
    "html": lambda _: b"<!DOCTYPE html><title>404</title>" * 20,
    "large file pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("name", BROKEN_FILES)
@pytest.mark.parametrize("command", ["compress", "inspect", "plan", "compare"])
def test_what_is_not_a_model(place: Path, name: str, command: str) -> None:
    model = place / "model.onnx"
    good = shutil.copy(model, place / "good.onnx")
    model.write_bytes(BROKEN_FILES[name](model.read_bytes()))
    words = {"compress": ["-o", place / "out.onnx"], "compare": [good], "plan": ["-o", place / "plan.json"]}.get(command, [])
    assert "model.onnx" in refused(place, 3, command, model, *words)


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_no_such_model(place: Path, command: str) -> None:
    assert "no such file" in refused(place, 3, command, place / "missing.onnx")


def test_a_folder_is_no_model(place: Path) -> None:
    assert str(place) in refused(place, 3, "inspect", place)


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Gem"


def missing_input(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "nobody_makes_this"


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "middle_act"


def two_writers(model: onnx.ModelProto) -> None:
    model.graph.node[2].output[0] = "hidden_act"


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9999


def short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def huge_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def wrong_rank(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[2]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((7, 5), np.float32), tensor.name))


INVALID = [
    unknown_operator,
    missing_input,
    cycle,
    two_writers,
    no_opset,
    future_opset,
    short_weight,
    huge_weight,
    wrong_rank,
]


@pytest.mark.parametrize("damage", INVALID, ids=lambda damage: damage.__name__)
def test_an_invalid_model(place: Path, damage: Callable[[onnx.ModelProto], None]) -> None:
    model = zeros_model()
    damage(model)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    compress(place, "--data", place / "calib.npz")


def external(place: Path, location: str) -> None:
    """Make the model's first weight live at ``location``."""
    model = zeros_model()
    tensor = model.graph.initializer[0]
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (place / "model.onnx").write_bytes(model.SerializeToString())


def test_external_data_that_is_missing(place: Path) -> None:
    external(place, "weights.bin")
    assert "weights.bin" in compress(place)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "/etc/hostname", "~/x", "", "a" * 300, "nul\0byte"]
)
def test_external_data_that_leaves_the_folder(place: Path, location: str) -> None:
    (place.parent / "secret.bin").write_bytes(bytes(128 * 64 * 4))
    external(place, location)
    compress(place)


def test_external_data_through_a_link_out_of_the_folder(place: Path) -> None:
    (place.parent / "secret.bin").write_bytes(bytes(128 * 64 * 4))
    (place / "weights.bin").symlink_to(place.parent / "secret.bin")
    external(place, "weights.bin")
    assert "leaves the model's folder" in compress(place)


def test_external_data_in_a_circle_of_links(place: Path) -> None:
    (place / "weights.bin").symlink_to(place / "other.bin")
    (place / "other.bin").symlink_to(place / "weights.bin")
    external(place, "weights.bin")
    compress(place)


def test_external_data_that_is_truncated(place: Path) -> None:
    (place / "weights.bin").write_bytes(bytes(100))
    external(place, "weights.bin")
    compress(place)


def bomb(path: Path) -> None:
    """An npz whose directory says that it unpacks to 4 GB."""
    np.savez_compressed(path, x=GOOD)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 0xFFFFFFF0)
    path.write_bytes(content)


def with_nan() -> np.ndarray:
    values = GOOD.copy()
    values[3, 5] = np.nan
    return values


DATA: dict[str, tuple[Mapping[str, Any], str]] = {
    "zero samples": ({"x": GOOD[:0]}, "calib.npz"),
    "wrong shape": ({"x": GOOD[:, :10]}, "'x'"),
    "wrong rank": ({"x": np.zeros((8, 8, 8), np.float32)}, "'x'"),
    "wrong dtype": ({"x": GOOD.astype(np.complex64)}, "'x'"),
    "wrong name": ({"y": GOOD}, "'x'"),
    "an extra name": ({"x": GOOD, "z": GOOD}, "'z'"),
    "not a number": ({"x": with_nan()}, "NaN"),
    "infinite": ({"x": np.full((8, 64), np.inf, np.float32)}, "'x'"),
    "pickled": ({"x": np.array([{"a": 1}] * 8, dtype=object)}, "calib.npz"),
    "labels of another length": ({"x": GOOD, "labels": np.zeros(5, np.int64)}, "labels"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_does_not_fit(place: Path, name: str) -> None:
    arrays, named = DATA[name]
    np.savez(place / "calib.npz", **arrays)
    assert named in compress(place, "--data", place / "calib.npz")
    assert named in compress(place, "--data", place / "eval.npz", "--eval-data", place / "calib.npz")


def test_a_zip_bomb(place: Path) -> None:
    bomb(place / "calib.npz")
    assert "zip bomb" in compress(place, "--data", place / "calib.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"random bytes", bytes(1000)])
@pytest.mark.parametrize("name", ["calib.npz", "calib.npy"])
def test_data_that_is_damaged(place: Path, content: bytes, name: str) -> None:
    (place / name).write_bytes(content)
    assert name in compress(place, "--data", place / name)


def test_an_empty_archive(place: Path) -> None:
    zipfile.ZipFile(place / "calib.npz", "w").close()
    compress(place, "--data", place / "calib.npz")


@pytest.mark.parametrize("source", ["missing.npz", "nothing", "nomodule_here:feeds", "os:nothing_here", "json:decoder", ""])
def test_no_such_data(place: Path, source: str) -> None:
    compress(place, "--data", source)


def test_an_empty_folder_of_data(place: Path) -> None:
    (place / "data").mkdir()
    compress(place, "--data", place / "data")


def test_the_output_is_the_input(place: Path) -> None:
    (place / "link.onnx").symlink_to(place / "model.onnx")
    (place / "sub").mkdir()
    for same in (place / "model.onnx", place / "link.onnx", place / "sub" / ".." / "model.onnx"):
        assert "also an input" in refused(place, 2, "compress", place / "model.onnx", "-o", same)


def test_the_output_is_another_input(place: Path) -> None:
    (place / "weights.bin").write_bytes(bytes(128 * 64 * 4))
    external(place, "weights.bin")
    (place / "r.toml").write_text("")
    words = ["--data", place / "calib.npz", "--eval-data", place / "eval.npz", "--recipe", place / "r.toml"]
    for name in ("weights.bin", "calib.npz", "eval.npz", "r.toml"):
        assert name in refused(place, 2, "compress", place / "model.onnx", "-o", place / name, *words)


def test_results_in_each_others_place(place: Path) -> None:
    compress(place, "--report", place / "r.json", "--report", place / "." / "r.json", code=2)
    model = place / "model.onnx"
    refused(place, 2, "compress", model, "-o", place / "a.json", "--report", place / "a.json")
    shutil.copy(model, place / "model.json")
    refused(place, 2, "compress", place / "model.json", "-o", place / "a.onnx", "--report", place / "model.json")
    refused(place, 2, "compare", model, place / "model.json", "--report", place / "model.json")
    refused(place, 2, "plan", model, "-o", model)


@pytest.mark.parametrize("suffix", ["", ".html", ".onnx", ".jsonl"])
def test_a_report_of_unknown_form(place: Path, suffix: str) -> None:
    assert ".json" in compress(place, "--report", place / f"report{suffix}", code=2)


def test_no_folder_for_the_output(place: Path) -> None:
    assert "mkdir -p" in refused(place, 3, "compress", place / "model.onnx", "-o", place / "no" / "out.onnx")
    assert "mkdir -p" in compress(place, "--report", place / "no" / "r.json")
    assert "mkdir -p" in refused(place, 3, "plan", place / "model.onnx", "-o", place / "no" / "p.json")


def test_a_file_in_the_place_of_the_outputs_folder(place: Path) -> None:
    refused(place, 3, "compress", place / "model.onnx", "-o", place / "calib.npz" / "out.onnx")


def test_a_folder_in_the_place_of_the_output(place: Path) -> None:
    (place / "out.onnx").mkdir()
    assert "is a folder" in compress(place)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_device_is_not_overwritten(place: Path) -> None:
    assert "not a plain file" in refused(place, 3, "compress", place / "model.onnx", "-o", "/dev/full")
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_an_output_folder_that_is_read_only(place: Path) -> None:
    (place / "sealed").mkdir(mode=0o555)
    assert "cannot be written" in refused(place, 3, "compress", place / "model.onnx", "-o", place / "sealed" / "out.onnx")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a file system that nobody can write to")
def test_an_output_folder_on_a_file_system_that_nobody_can_write_to(place: Path) -> None:
    assert "cannot be written" in refused(place, 3, "compress", place / "model.onnx", "-o", "/proc/self/out.onnx")


def small_files_only() -> None:
    """What a full disk is like: no file may grow over 8 KB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_disk_that_fills_up_while_writing(place: Path, command: Callable[..., Any]) -> None:
    before = snapshot(place)
    words = ["compress", place / "model.onnx", "-o", place / "out.onnx", "--data", place / "calib.npz", "--no-latency", "-q"]
    result = command(*words, preexec_fn=small_files_only)
    assert result.returncode == 3, result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert result.stderr.startswith("qcompress: error: ")
    assert snapshot(place) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", [["-o", "-"], ["-o", "out.onnx", "--format", "json"]])
def test_stdout_on_a_full_disk(place: Path, command: Callable[..., Any], words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        given = ["compress", place / "model.onnx", *words, "--no-latency", "-q"]
        result = command(*given, capture_output=False, stdout=full, stderr=-1, cwd=place)
    assert result.returncode == 3
    assert result.stderr.startswith("qcompress: error: stdout cannot be written: No space left on device\n")
    assert len(result.stderr.splitlines()) == 2


RECIPES = {
    "not TOML": "mode = [",
    "unknown key": 'mod = "static"',
    "unknown mode": 'mode = "statik"',
    "unknown base": 'base = "int7"',
    "bad scheme": 'weights = "int8/chanel"',
    "bad gate": "[gates]\nmax_size_ratio = true",
    "unknown gate": "[gates]\nmax_size = 1",
    "wrong type": "clip_weights = 3",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe(place: Path, name: str) -> None:
    (place / "recipe.toml").write_text(RECIPES[name])
    assert "recipe.toml" in compress(place, "--recipe", place / "recipe.toml")


def test_recipes_and_schemes_that_do_not_exist(place: Path) -> None:
    assert "did you mean int8-static" in compress(place, "--recipe", "int8-statik")
    compress(place, "--recipe", place / "missing.toml")
    compress(place, "--weights", "float3")


@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_an_unknown_layer_names_the_nearest(place: Path, option: str) -> None:
    assert "hidden" in compress(place, option, "hiden")
    assert "Gemm" in compress(place, option, "Gem")


def test_a_scheme_for_a_layer_that_is_not_there(place: Path) -> None:
    assert "hidden" in compress(place, "--layer", "hiden=int8")
    (place / "own.toml").write_text("layers = 3")
    assert "layers" in compress(place, "--recipe", place / "own.toml")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"layers": 3}', "\x00"])
def test_a_bad_plan(place: Path, content: str) -> None:
    (place / "plan.json").write_text(content)
    compress(place, "--plan", place / "plan.json")


def test_a_plan_that_is_not_text(place: Path) -> None:
    (place / "plan.json").write_bytes(b"\xff\xfe\x00")
    compress(place, "--plan", place / "plan.json")
    compress(place, "--plan", place / "no_plan.json")


def test_the_plan_of_another_model(place: Path, samples: dict[str, Sample]) -> None:
    result = CliRunner().invoke(
        main, ["plan", str(samples["conv"].model), "--recipe", "int8-weights", "-o", str(place / "plan.json")]
    )
    assert result.exit_code == 0, result.stderr
    compress(place, "--plan", place / "plan.json")


USAGE: dict[str, list[str]] = {
    "unknown option": ["--fast"],
    "unknown mode": ["--mode", "statik"],
    "quiet and verbose": ["--quiet", "--verbose"],
    "no number": ["--threads", "many"],
    "batch of nothing": ["--batch-size", "0"],
    "points for a share": ["--max-accuracy-drop", "1"],
    "all held out": ["--held-out", "1"],
    "metric without function": ["--metric", "mine"],
    "deviation of zero": ["--image-std", "0"],
    "image of no size": ["--image-size", "0"],
    "two models": ["another.onnx"],
    "no form": ["--format", "yaml"],
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(place: Path, name: str) -> None:
    compress(place, *USAGE[name], code=2)


def test_no_output_or_no_command(place: Path) -> None:
    refused(place, 2, "compress", place / "model.onnx")
    refused(place, 2, "compress", place / "model.onnx", "-o", "")
    refused(place, 2, "compres", place / "model.onnx")


def test_a_metric_that_cannot_be_used(place: Path) -> None:
    compress(place, "--data", place / "calib.npz", "--eval-data", place / "eval.npz", "--metric", "nomodule_here:score")
    compress(place, "--data", place / "calib.npz", "--eval-data", place / "eval.npz", "--metric", "os:nothing")


def test_nothing_to_compress(place: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 64] x) => (float[n, 64] y) { y = Relu (x) }'
    (place / "model.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    compress(place, "--data", place / "calib.npz", code=4)


def test_everything_excluded(place: Path) -> None:
    compress(place, "--exclude", "Gemm", "--exclude", "MatMul", code=4)


def test_a_result_that_would_not_be_smaller(place: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 2] x) => (float[n, 2] y) { y = MatMul (x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"))
    (place / "model.onnx").write_bytes(model.SerializeToString())
    compress(place, code=4)


def test_the_old_output_survives_a_failure(place: Path) -> None:
    (place / "out.onnx").write_bytes(b"old")
    np.savez(place / "calib.npz", x=with_nan())
    compress(place, "--data", place / "calib.npz")
    assert (place / "out.onnx").read_bytes() == b"old"
