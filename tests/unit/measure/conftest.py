"""Small models written as ONNX text, and data to run them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from qcompress.types import Array

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Save a graph given as text under a name."""

    def save(name: str, graph: str, weights: dict[str, Array] | None = None) -> Path:
        model = onnx.parser.parse_model(HEAD + graph)
        for key, value in (weights or {}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"layer{index}"
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return save


CONVOLUTIONAL = """
net (float[n, 8, 16, 16] x) => (float[n, 10] logits) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    r2 = Relu (c2)
    p = GlobalAveragePool (r2)
    f = Flatten (p)
    logits = Gemm <transB = 1> (f, w3, b3)
}
"""


@pytest.fixture
def convolutional(write: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(16, 8, 3, 3)) * 0.2,
        "b1": rng.normal(size=16),
        "w2": rng.normal(size=(16, 16, 3, 3)) * 0.2,
        "w3": rng.normal(size=(10, 16)) * 2,
        "b3": rng.normal(size=10),
    }
    return write("float.onnx", CONVOLUTIONAL, {name: value.astype(np.float32) for name, value in weights.items()})


@pytest.fixture
def images() -> tuple[Array, ...]:
    rng = np.random.default_rng(1)
    return tuple(rng.normal(size=(size, 8, 16, 16)).astype(np.float32) for size in (8, 8, 4))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: tuple[Array, ...]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        feed = next(self._feeds, None)
        return None if feed is None else {"x": feed}


@pytest.fixture
def quantized(convolutional: Path, images: tuple[Array, ...], tmp_path: Path) -> Path:
    """The convolutional model in real int8, by somebody else's tool."""
    path = tmp_path / "int8.onnx"
    quantize_static(convolutional, path, _Reader(images), quant_format=QuantFormat.QDQ, per_channel=True)
    return path
