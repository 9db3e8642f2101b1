"""The forms in OpenVINO, where it is installed (pip install openvino): another runtime that reads the same files."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_storage_cells import DYNAMIC, NETS, SHOWN, STATIC, Form, compressed, offers
from text_models import assert_close, sqnr

from qcompress.operators.support import BLOCKS

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


def run_there(content: bytes, feed: dict[str, Any], folder: Path) -> list[Any]:
    """The outputs of a model in OpenVINO, in float32 where that is its choice."""
    path = folder / "model.onnx"
    path.write_bytes(content)
    core = openvino.Core()
    model = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = model(feed)
    return [np.asarray(results[output]) for output in model.outputs]


@pytest.mark.parametrize(("name", "form"), list(product(NETS, Form)))
def test_forms_that_are_not_packed_compute_the_same_there(name: str, form: Form, tmp_path: Path) -> None:
    net = NETS[name]
    for text, model in offers(tmp_path, net, form, SHOWN, BLOCKS):
        written, expected = compressed(model, net, form, text)
        if any(node.op_type == "BitShift" for node in written.graph):
            continue  # see below
        found = run_there(written.serialize(), net.feed, tmp_path)
        if form in (STATIC, DYNAMIC):
            assert all(sqnr(got, wanted) > 25 for got, wanted in zip(found, expected, strict=True)), text
        else:
            assert_close(found, expected, 2e-2)  # its products round activations to 8 bits


def test_packed_codes_do_not_since_its_bitshift_rounds(tmp_path: Path) -> None:
    """Once this fails packed codes compute the same there, and the README need not say otherwise."""
    text = """<ir_version: 8, opset_import: ["": 13]> net (uint8[n] x) => (uint8[n] high, uint8[n] low) {
        four = Constant <value = uint8 {4}> ()
        high = BitShift <direction = "RIGHT"> (x, four)
        low = BitShift <direction = "LEFT"> (x, four)
    }"""
    numbers = np.arange(256, dtype=np.uint8)
    high, low = run_there(onnx.parser.parse_model(text).SerializeToString(), {"x": numbers}, tmp_path)
    assert not np.array_equal(high, numbers >> 4)  # ONNX: zeros come in from the left
    assert not np.array_equal(low, numbers << 4)  # ONNX: what goes out on the left is lost
