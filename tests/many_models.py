"""A zoo of small models for batches: good ones, each a little different, and broken ones of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
small (float[n, {width}] x) => (float[n, 8] y) {{
  [hidden] h = MatMul (x, first)
  [act] a = Relu (h)
  [head] y = MatMul (a, second)
}}
"""

TROUBLE = '''"""Data that does harm, for tests of isolation."""

import ctypes
import os
import time

import numpy as np


def hang():
    time.sleep(100000)
    yield {}


def hog():
    kept = []
    while True:
        kept.append(np.ones(4_000_000))  # 32 MB, touched
        time.sleep(0.02)
    yield {}


def abort():
    os.abort()
    yield {}


def segfault():
    ctypes.string_at(0)
    yield {}
'''

BROKEN = ("truncated", "wrong_data", "hang", "hog", "abort", "segfault", "garbage", "no_file", "hang", "hog")
"""What is wrong with the broken ones, in turn."""

CAUSES = {
    "truncated": "unusable",
    "garbage": "unusable",
    "wrong_data": "unusable",
    "no_file": "unusable",
    "hang": "timed out",
    "hog": "out of memory",
    "abort": "crashed",
    "segfault": "crashed",
}
"""How each ends."""


def make_model(folder: Path, name: str, seed: int) -> Path:
    """A perceptron of its own width with ``NAME.calib.npz`` beside it."""
    rng = np.random.default_rng(seed)
    width = 16 + 4 * (seed % 7)
    model = onnx.parser.parse_model(TEXT.format(width=width))
    for key, shape in (("first", (width, 64)), ("second", (64, 8))):
        values = rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, key))
    path = folder / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    np.savez(path.with_suffix(".calib.npz"), x=rng.normal(0, 1, (16, width)).astype(np.float32))
    return path


def make_zoo(folder: Path, good: int, broken: tuple[str, ...] = (), timeout: float = 20.0) -> Path:
    """A folder of models and its manifest; names of broken models begin with what is wrong with them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trouble.py").write_text(TROUBLE)
    lines = ["[defaults]", 'recipe = "int8"', 'mode = "static"', "latency = false"]
    for index in range(good):
        name = f"group{index % 3}/model{index:03}"
        make_model(folder, name, index)
        lines += ["", "[[models]]", f'name = "{name}"', f'model = "{name}.onnx"', f'data = "{name}.calib.npz"']
    for index, kind in enumerate(broken):
        name = f"{kind}{index}"
        path = make_model(folder, name, 1000 + index)
        data = f"{name}.calib.npz"
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:-1000])
        elif kind == "garbage":
            path.write_bytes(bytes(range(256)) * 20)
        elif kind == "no_file":
            path.unlink()
        elif kind == "wrong_data":
            np.savez(folder / data, other=np.zeros((4, 3), np.float32))
        else:
            data = f"trouble:{kind}"
        lines += ["", "[[models]]", f'name = "{name}"', f'model = "{name}.onnx"', f'data = "{data}"']
        lines += [f"timeout = {timeout}"] if kind == "hang" else []
    manifest = folder / "zoo.toml"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
