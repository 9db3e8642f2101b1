"""Graphs of ten thousand nodes are prepared, planned and rewritten in seconds, in about linear time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from qcompress.graph import load_model
from qcompress.operators import find_layers
from qcompress.pipeline import prepared_from
from qcompress.plan.choose import STATIC, choose_forms, static_nodes
from qcompress.plan.coverage import as_decisions, coverage
from qcompress.plan.placement import place
from qcompress.planning import PlanSettings, make_plan
from qcompress.progress import SILENT
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite import apply_plan


def chain(nodes: int, path: Path) -> Path:
    """Residual blocks of a named and an unnamed convolution, a batch norm, a Relu and a sum: five nodes each."""
    rng = np.random.default_rng(0)
    made, weights, tensor = [], [], "x"
    for index in range(nodes // 5):
        names = [f"{part}{index}" for part in ("w", "v", "s", "b", "m", "q")]
        shapes = [(8, 8, 1, 1), (8, 8, 1, 1), (8,), (8,), (8,), (8,)]
        arrays = [np.abs(rng.normal(0.5, 0.1, shape)).astype(np.float32) for shape in shapes]
        weights += [onnx.numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]
        w, v, s, b, m, q = names
        made += [
            onnx.helper.make_node("Conv", [tensor, w], [f"c{index}"], f"conv{index}"),
            onnx.helper.make_node("BatchNormalization", [f"c{index}", s, b, m, q], [f"n{index}"]),
            onnx.helper.make_node("Relu", [f"n{index}"], [f"r{index}"]),
            onnx.helper.make_node("Conv", [f"r{index}", v], [f"d{index}"]),
            onnx.helper.make_node("Add", [f"d{index}", tensor], [f"a{index}"]),
        ]
        tensor = f"a{index}"
    shape = [1, 8, 4, 4]
    graph = onnx.helper.make_graph(
        made,
        "chain",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape)],
        weights,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def seconds(path: Path) -> float:
    """Processor time of everything that happens to a graph without data, serialization included."""
    started = time.process_time()
    model = prepared_from(load_model(path))
    layers = find_layers(model)
    plan = make_plan(model, Recipe(mode=Mode.WEIGHTS), None, PlanSettings(), SILENT).plan
    assert len(coverage(layers, plan.weights)) == len(layers)
    chosen = choose_forms(layers, STATIC, Recipe(), {})
    assert as_decisions(layers, chosen, Recipe())
    assert place(model, static_nodes(model, layers, chosen, Mode.AUTO), {}).nodes
    apply_plan(plan, model)
    assert model.serialize()
    return time.process_time() - started


@pytest.mark.parametrize("large", [10_000])
def test_time_grows_with_the_nodes(large, tmp_path):
    few = chain(large // 4, tmp_path / "few.onnx")
    many = chain(large, tmp_path / "many.onnx")
    seconds(chain(100, tmp_path / "warm.onnx"))
    quick, slow = min(seconds(few) for _ in range(2)), seconds(many)
    print(f"{quick:.2f} s, {slow:.2f} s")
    assert slow < 20.0
    assert slow / quick < 8.0
