import numpy as np
import pytest

from qcompress.errors import ModelError
from qcompress.graph import NodeFacts
from qcompress.measure import measure_kernels
from qcompress.measure.kernels import summarize


def test_a_float_model_has_no_integer_kernels_and_its_layers_keep_their_names(convolutional):
    found = measure_kernels(convolutional)
    assert found.integer == {}
    assert found.float_layers == {"layer0": "Conv", "layer2": "Conv", "layer6": "Gemm"}
    assert found.conversions == 0
    assert found.runtime.startswith("onnxruntime ")
    assert not found.note


def test_an_int8_model_runs_in_integers(quantized):
    found = measure_kernels(quantized)
    assert found.integer["QLinearConv"] == 2
    assert found.integer["QGemm"] == 1
    assert found.float_layers == {}
    assert found.conversions >= 2  # in at the start, out at the end


def test_a_weight_dequantized_on_every_run_is_a_float_layer(write):
    graph = """
    net (float[n, 4, 8, 8] x) => (float[n, 4, 6, 6] y) {
        w = DequantizeLinear (q, s)
        y = Conv (x, w)
    }
    """
    codes = np.random.default_rng(0).integers(-100, 100, (4, 4, 3, 3)).astype(np.int8)
    found = measure_kernels(write("weights.onnx", graph, {"q": codes, "s": np.float32(0.1)}))
    assert found.float_layers == {"layer1": "Conv"}
    assert found.integer == {}


def test_products_of_activations_are_not_layers(write):
    graph = "net (float[4, 4] x) => (float[4, 4] y) { t = MatMul (x, x) \n y = MatMul (t, w) }"
    found = measure_kernels(write("products.onnx", graph, {"w": np.ones((4, 4), np.float32)}))
    assert found.float_layers == {"layer1": "MatMul"}


def test_a_product_with_a_weight_dequantized_on_every_run_is_a_float_layer():
    nodes = [
        NodeFacts("dq", "DequantizeLinear", "", ("q", "s", ""), ("w",), ("int8", "float32")),
        NodeFacts("stored", "MatMul", "", ("x", "w"), ("y",), ()),
        NodeFacts("undo", "DequantizeLinear", "", ("a", "s"), ("b",), ("float32",)),
        NodeFacts("activations", "MatMul", "", ("x", "b"), ("z",), ()),
    ]
    found = summarize(nodes, nodes)
    assert found.float_layers == {"stored": "MatMul"}
    assert found.conversions == 2


def test_names_of_fused_and_reordered_nodes_lead_back_to_the_layer():
    original = [
        NodeFacts("conv", "Conv", "", ("x", "w"), ("c",), ("float32",)),
        NodeFacts("norm", "BatchNormalization", "", ("c", "s"), ("n",), ("float32",)),
        NodeFacts("relu", "Relu", "", ("n",), ("r",), ()),
        NodeFacts("", "Gemm", "", ("r", "g"), ("y",), ("float32",)),
    ]
    optimized = [
        NodeFacts("r_nchwc", "Conv", "com.microsoft.nchwc", ("x", "reordered"), ("reorder_token_0",), ("float32",)),
        NodeFacts("fused /Gemm", "FusedGemm", "com.microsoft", ("r", "g"), ("y",), ("float32",)),
    ]
    assert summarize(optimized, original).float_layers == {"conv": "Conv", "y": "Gemm"}


def test_two_kernels_of_one_layer_are_both_listed():
    node = NodeFacts("conv", "Conv", "", ("x", "w"), ("c",), ("float32",))
    assert len(summarize([node, node], [node]).float_layers) == 2


def test_a_model_the_runtime_refuses_is_an_error(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError):
        measure_kernels(broken)
