"""Odd models from file to file under every mode: valid, smaller, close to float, every weight told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from text_models import Weights, assert_close, check, draw, proto_of, run, sqnr

from qcompress import compress
from qcompress.errors import NothingToCompressError
from qcompress.graph import load_model
from qcompress.pipeline import RunOptions
from qcompress.recipe import Mode, Recipe
from qcompress.runtime import Optimization

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


@dataclass(frozen=True)
class Odd:
    """A model, its weights and its data (samples on the first axis)."""

    text: str
    weights: Weights
    data: dict[str, Any]
    least_sqnr: float = 22.0


ROWS = {"x": draw("rows", 24, 64)}
BLOCK = """[first] h = Gemm <transB = 1> (x, w, b) \n [same] r = Relu (h) \n m = MatMul (r, v) \n [same] y = Add (m, c)"""
BLOCK_WEIGHTS = {"w": (96, 64), "b": (96,), "v": (96, 48), "c": (48,)}

MODELS = {
    "names used twice or not at all": Odd(
        f"{HEADER} net (float[n, 64] x) => (float[n, k] y) {{ {BLOCK.replace('[same]', '')} }}", BLOCK_WEIGHTS, ROWS
    ),
    "float16": Odd(
        f"{HEADER} net (float16[n, 64] x) => (float16[n, k] y) {{ {BLOCK.replace('[same]', '')} }}",
        {name: draw(name, *shape, dtype="float16") for name, shape in BLOCK_WEIGHTS.items()},
        {"x": ROWS["x"].astype(np.float16)},
    ),
    "initializers that are inputs": Odd(
        """<ir_version: 3, opset_import: ["": 9]>
        net (float[n, 64] x, float[96, 64] w, float[96] b, float[96, 48] v, float[48] c) => (float[n, k] y) {
            h = Gemm <transB = 1> (x, w, b) \n d = Dropout (h) \n r = Clip <min = 0.0, max = 6.0> (d) \n m = MatMul (r, v)
            s = Constant <value = int64[2] {-1, 48}> () \n t = Reshape (m, s) \n y = Add (t, c)
        }""",
        BLOCK_WEIGHTS,
        ROWS,
    ),
    "branches": Odd(
        f"""{HEADER} net (float[n, 64] x) => (float[n, k] y) {{
            [before] a = MatMul (x, outer)
            s = ReduceSum <keepdims = 0> (a)
            flag = Greater (s, zero)
            y = If (flag) <
              then_branch = then () => (float[n, k] o) {{ h = MatMul (a, w) \n t = MatMul (x, outer) \n o = Add (h, t) }},
              else_branch = other () => (float[n, k] o) {{ h = MatMul (a, w) \n o = Relu (h) }}
            >
        }}""",
        {"outer": (64, 64), "then/w": (64, 64), "other/w": (64, 64), "zero": np.float32(0.0)},
        ROWS,
        15.0,
    ),
    "loop": Odd(
        f"""{HEADER} net (float[n, 64] x) => (float[n, k] y) {{
            times = Constant <value = int64 {{2}}> ()
            l = Loop (times, , x) <body = body (int64 i, bool go, float[n, 64] s) => (bool on, float[n, 64] o) {{
                on = Identity (go) \n h = MatMul (s, w) \n o = Tanh (h)
            }}>
            y = Gemm (l, v, b)
        }}""",
        {"body/w": (64, 64), "v": (64, 64), "b": (64,)},
        ROWS,
    ),
    "functions": Odd(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        net (float[n, 64] x) => (float[n, k] y) { a = local.block (x, w1) \n y = local.block (a, w2) }
        <domain: "local", opset_import: ["": 17]>
        block (x, w) => (y) { [product] p = MatMul (x, w) \n y = Relu (p) }""",
        {"w1": (64, 64), "w2": (64, 64)},
        ROWS,
    ),
    "recurrent both ways": Odd(
        f"""{HEADER} net (float[n, 6, 16] x) => (float[n, k] y) {{
            t = Transpose <perm = [1, 0, 2]> (x)
            all, last = GRU <hidden_size = 16, direction = "bidirectional"> (t, w, r, b)
            u = Transpose <perm = [1, 0, 2]> (last) \n f = Flatten (u) \n y = MatMul (f, head)
        }}""",
        {"w": (2, 48, 16), "r": (2, 48, 16), "b": (2, 96), "head": (32, 24)},
        {"x": draw("x", 24, 6, 16)},
    ),
    "tied embedding": Odd(
        f"""{HEADER} net (int64[n, 5] i) => (float[n, 5, k] y) {{
            e = Gather (table, i) \n h = MatMul (e, w) \n r = Relu (h) \n t = Transpose <perm = [1, 0]> (table) \n y = MatMul (r, t)
        }}""",
        {"table": (300, 64), "w": (64, 64)},
        {"i": np.arange(24 * 5).reshape(24, 5) % 300},
    ),
    "weights of every use": Odd(
        f"""{HEADER} net (float[n, 64] x) => (float[n, k] y, float[64, 64] shown) {{
            a = MatMul (x, w) \n b = Gemm <transB = 1> (a, w) \n c = Add (b, row) \n d = MatMul (c, shown) \n e = Mul (d, row)
            y = MatMul (e, nan)
        }}""",
        {"w": (64, 64), "row": (64,), "shown": (64, 64), "nan": np.where(np.eye(64) > 0, 1.0, 0.0).astype(np.float32)},
        ROWS,
    ),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", MODELS)
def test_an_odd_model_is_compressed(name, mode, tmp_path):
    odd = MODELS[name]
    source, target, data = tmp_path / "source.onnx", tmp_path / "target.onnx", tmp_path / "data.npz"
    source.write_bytes(proto_of(odd.text, odd.weights).SerializeToString())
    np.savez(data, **odd.data)
    report = compress(
        source, target, Recipe(mode=mode), str(data), options=RunOptions(threads=1, latency_seconds=0.0, held_out=0.25)
    )
    compressed = target.read_bytes()
    check(compressed)
    expected = run(load_model(source), odd.data)
    for level in (Optimization.ALL, Optimization.DISABLED):
        for got, wanted in zip(run(compressed, odd.data, level), expected, strict=True):
            assert got.dtype == wanted.dtype
            assert sqnr(got, wanted) > odd.least_sqnr
    rows = report.coverage
    assert len({row.weight for row in rows}) == len(rows)
    assert all(bool(row.form) != bool(row.reason) for row in rows)
    assert any(row.form for row in rows)
    left = load_model(target)
    stored = {value.name for graph in left.ir.graphs() for value in graph.initializers.values()}
    assert not {row.weight for row in rows if row.form} & stored


def test_what_cannot_be_compressed_is_said_and_not_written(tmp_path):
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    text = f"{HEADER} net (float[n, 64] x) => (float[n, k] y) {{ y = MatMul (x, w) }}"
    source.write_bytes(proto_of(text, {"w": np.full((64, 64), np.nan, np.float32)}).SerializeToString())
    with pytest.raises(NothingToCompressError):
        compress(source, target)
    assert not target.exists()
    assert onnx.load(source).graph.initializer[0].name == "w"


def test_a_kept_model_output_weight_is_unchanged(tmp_path):
    odd = MODELS["weights of every use"]
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    source.write_bytes(proto_of(odd.text, odd.weights).SerializeToString())
    report = compress(source, target, "int8-weights")
    reasons = {row.weight: row.reason for row in report.coverage if row.reason}
    assert reasons["shown"] == "is also a model output"
    assert_close(run(target.read_bytes(), odd.data)[1:], run(load_model(source), odd.data)[1:], 0.0)
