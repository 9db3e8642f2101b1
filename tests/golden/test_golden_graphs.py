"""Whole rewrites as text: a model and a recipe give exactly the graph in the file beside this one.

After an intended change run the tests with UPDATE_GOLDEN=1 and review the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import Sample
from text_models import draw, load, proto_of

from qcompress import plan_compression
from qcompress.pipeline import RunOptions, load_prepared
from qcompress.rewrite import apply_plan

FOLDER = Path(__file__).parent

RESIDUAL = """
<ir_version: 4, opset_import: ["": 11]>
residual (float[n, 16, 12, 12] x) => (float[n, 16, 12, 12] y, float[n, 16] pooled) {
  padding = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> ()
  padded = Pad (x, padding)
  [stem] a = Conv (padded, stem_w, stem_b)
  normed = BatchNormalization (a, gamma, beta, mean, variance)
  b = Relu (normed)
  [left] c = Conv <pads = [1, 1, 1, 1]> (b, left_w)
  gate = Sigmoid (c)
  d = Mul (c, gate)
  [right] e = Conv (d, right_w, right_b)
  sum = Add (e, b)
  y = Relu (sum)
  mean_y = GlobalAveragePool (y)
  pooled = Flatten (mean_y)
}
"""
RESIDUAL_WEIGHTS = {
    "stem_w": (16, 16, 3, 3),
    "stem_b": (16,),
    "left_w": (16, 16, 3, 3),
    "right_w": (16, 16, 1, 1),
    "right_b": (16,),
    "gamma": 1 + 0.1 * draw("gamma", 16),
    "beta": (16,),
    "mean": (16,),
    "variance": 1 + np.abs(draw("variance", 16)),
}

BODIES = """
<ir_version: 8, opset_import: ["": 17]>
bodies (float[n, 16] x, bool flag) => (float[n, 16] y) {
  y = If (flag) <
    then_branch = then () => (float[n, 16] o) { h = MatMul (x, w) \n o = Relu (h) },
    else_branch = other () => (float[n, 16] o) { h = MatMul (x, w) \n o = Tanh (h) }
  >
}
"""


def printed(source: Path, recipe: str, data: str | None) -> str:
    """The rewritten graph as text: initializers by type and shape, without their numbers."""
    prepared = load_prepared(source)
    apply_plan(plan_compression(source, recipe, data, options=RunOptions(threads=1)), prepared)
    proto = onnx.ModelProto.FromString(prepared.serialize())
    lines = []
    for graph in _graphs(proto.graph):
        for tensor in graph.initializer:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            lines.append(f"{graph.name}: {kind}{list(tensor.dims)} {tensor.name}")
        del graph.initializer[:]
    text = "\n".join([onnx.printer.to_text(proto), *lines, ""])
    return re.sub(r"zero_point/\d+", "zero_point/N", text)  # what calibration found is another test's business


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _graphs(attribute.g)
    return found


def of_sample(name: str, recipe: str) -> Callable[[dict[str, Sample], Path], str]:
    return lambda samples, folder: printed(samples[name].model, recipe, str(samples[name].calib))


def residual(samples: dict[str, Sample], folder: Path) -> str:
    model = load(folder, RESIDUAL, RESIDUAL_WEIGHTS)
    np.savez(folder / "data.npz", x=draw("data", 16, 16, 12, 12))
    return printed(model.path, "int8-static", str(folder / "data.npz"))


def bodies(samples: dict[str, Sample], folder: Path) -> str:
    path = folder / "bodies.onnx"
    path.write_bytes(proto_of(BODIES, {"then/w": (16, 16), "other/w": (16, 16)}).SerializeToString())
    return printed(path, "int8-weights", None)


CASES = {
    "conv.int8-static": of_sample("conv", "int8-static"),
    "mlp.int8-dynamic": of_sample("mlp", "int8-dynamic"),
    "embedding.int8-weights": of_sample("embedding", "int8-weights"),
    "residual.int8-static": residual,
    "bodies.int8-weights": bodies,
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_the_one_in_the_file(name, samples, tmp_path):
    text = CASES[name](samples, tmp_path)
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with UPDATE_GOLDEN=1 and review the difference"


def test_no_file_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)
