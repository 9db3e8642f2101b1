"""The forms in OpenVINO, where it is installed (pip install openvino): another runtime that reads the same files."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
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
def test_forms_compute_the_same_there(name: str, form: Form, tmp_path: Path) -> None:
    net = NETS[name]
    for text, model in offers(tmp_path, net, form, SHOWN, BLOCKS):
        written, expected = compressed(model, net, form, text)
        found = run_there(written.serialize(), net.feed, tmp_path)
        if form in (STATIC, DYNAMIC):
            assert all(sqnr(got, wanted) > 25 for got, wanted in zip(found, expected, strict=True)), text
        else:
            assert_close(found, expected, 2e-2)  # its products round activations to 8 bits
