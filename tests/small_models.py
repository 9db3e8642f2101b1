"""Small real models with data: a convolution net, a perceptron, and an embedding with a matrix product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

CONV_NET = """
<ir_version: 8, opset_import: ["": 17]>
conv_net (float[n, 3, 16, 16] image) => (float[n, 10] logits) {
  [stem] stem_out = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, stem_weight, stem_bias)
  [stem_relu] stem_act = Relu (stem_out)
  [body] body_out = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (stem_act, body_weight, body_bias)
  [body_relu] body_act = Relu (body_out)
  [pool] pooled = GlobalAveragePool (body_act)
  [flat] features = Flatten (pooled)
  [head] logits = Gemm <transB = 1> (features, head_weight, head_bias)
}
"""
MLP = """
<ir_version: 8, opset_import: ["": 17]>
mlp (float[n, 64] x) => (float[n, 10] logits) {
  [hidden] hidden_out = Gemm <transB = 1> (x, hidden_weight, hidden_bias)
  [hidden_relu] hidden_act = Relu (hidden_out)
  [middle] middle_out = MatMul (hidden_act, middle_weight)
  [middle_relu] middle_act = Relu (middle_out)
  [head] logits = Gemm <transB = 1> (middle_act, head_weight, head_bias)
}
"""
EMBEDDING = """
<ir_version: 8, opset_import: ["": 17]>
embedding (int64[n, 12] tokens) => (float[n, 4] logits) {
  [table] vectors = Gather (words, tokens)
  [mix] mixed = MatMul (vectors, mix_weight)
  [mix_relu] mixed_act = Relu (mixed)
  [pool] pooled = ReduceMean <axes = [1], keepdims = 0> (mixed_act)
  [head] logits = MatMul (pooled, head_weight)
}
"""


@dataclass(frozen=True)
class Sample:
    """A model with calibration data and labelled evaluation data; the float model's accuracy is 1 by construction."""

    model: Path
    calib: Path
    eval: Path


def build(text: str, weights: Mapping[str, np.ndarray], path: Path) -> Path:
    """Write the model of the text with float32 ``weights`` as initializers."""
    model = onnx.parser.parse_model(text)
    for name, values in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def label(model: Path, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the model itself says about the values."""
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(values))[0].argmax(axis=1)


def sample(
    text: str, weights: Mapping[str, np.ndarray], draw: Callable[[int], dict[str, np.ndarray]], folder: Path
) -> Sample:
    """The model and its data in ``folder``; ``draw(count)`` gives that many samples."""
    folder.mkdir()
    model = build(text, weights, folder / "model.onnx")
    made = Sample(model, folder / "calib.npz", folder / "eval.npz")
    np.savez(made.calib, **draw(48))
    values = draw(64)
    np.savez(made.eval, labels=label(model, values), **values)
    return made


def make_samples(folder: Path) -> dict[str, Sample]:
    """Write the three models and their data under ``folder``."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return rng.normal(0, (2 / fan_in) ** 0.5, shape)

    conv = {
        "stem_weight": normal(16, 3, 3, 3),
        "stem_bias": normal(16) * 0.1,
        "body_weight": normal(64, 16, 3, 3),
        "body_bias": normal(64) * 0.1,
        "head_weight": normal(10, 64),
        "head_bias": normal(10) * 0.1,
    }
    mlp = {
        "hidden_weight": normal(128, 64),
        "hidden_bias": normal(128) * 0.1,
        "middle_weight": normal(64, 128).T,
        "head_weight": normal(10, 64),
        "head_bias": normal(10) * 0.1,
    }
    words = {"words": normal(200, 64), "mix_weight": normal(64, 64), "head_weight": normal(64, 4)}
    return {
        "conv": sample(
            CONV_NET, conv, lambda n: {"image": rng.normal(0, 1, (n, 3, 16, 16)).astype(np.float32)}, folder / "conv"
        ),
        "mlp": sample(MLP, mlp, lambda n: {"x": rng.normal(0, 1, (n, 64)).astype(np.float32)}, folder / "mlp"),
        "embedding": sample(EMBEDDING, words, lambda n: {"tokens": rng.integers(0, 200, (n, 12))}, folder / "embedding"),
    }
