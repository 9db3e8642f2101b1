"""Where integers flow: patterns become the runtime's integer kernels, others are left whole, and results stay close."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from text_models import Weights, check, draw, load, plan_by_hand, prepared, run, sqnr, three_ways

from qcompress.graph import Model
from qcompress.measure import measure_kernels
from qcompress.operators import find_layers
from qcompress.recipe import Mode
from qcompress.rewrite import apply_plan
from qcompress.runtime import SessionSettings
from qcompress.types import Form


@dataclass(frozen=True)
class Pattern:
    """A graph body; which integer kernels must appear; how many conversions there are; which nodes no Q or DQ may touch."""

    text: str
    kernels: dict[str, int]
    conversions: int | None = None
    whole: tuple[str, ...] = ()
    weights: Weights = field(default_factory=dict)
    signature: str = "(float[n, 8, 8, 8] x) => (float[n, c, h, w] y)"
    feed: dict[str, Any] = field(default_factory=lambda: {"x": draw("image", 2, 8, 8, 8)})
    mode: Mode = Mode.AUTO
    form: Form = Form.STATIC
    least_sqnr: float = 22.0

    @property
    def model(self) -> str:
        return f'<ir_version: 8, opset_import: ["": 17]> net {self.signature} {{ {self.text} }}'


CONVS = {"w": (16, 8, 3, 3), "b": (16,), "w2": (16, 16, 3, 3), "b2": (16,)}
PAD = "pads = [1, 1, 1, 1]"
FIRST = f"c = Conv <{PAD}> (x, w, b)"
SECOND = f"y = Conv <{PAD}> (r, w2, b2)"
VECTOR_SIGNATURE = "(float[n, 32] x) => (float[n, k] y)"
VECTOR = {"x": draw("rows", 5, 32)}
SEQUENCE_SIGNATURE = "(float[a, n, 32] x) => (float[a, n, k] y)"
SEQUENCE = {"x": draw("sequence", 2, 6, 32)}
NUMBERS = {
    "zero": np.float32(0.0),
    "one": np.float32(1.0),
    "two": np.float32(2.0),
    "three": np.float32(3.0),
    "six": np.float32(6.0),
    "half": np.float32(0.5),
    "root": np.float32(2.0**0.5),
    "eps": np.float32(1e-5),
}


def between(steps: str, kernels: dict[str, int], weights: Weights | None = None, **changes: Any) -> Pattern:
    """Steps from ``c`` to ``r`` between two convolutions."""
    return Pattern(f"{FIRST} \n {steps} \n {SECOND}", kernels, weights={**CONVS, **(weights or {})}, **changes)


PATTERNS = {
    "two convolutions": between("r = Identity (c)", {"QLinearConv": 2}, conversions=2),
    "Relu": between("r = Relu (c)", {"QLinearConv": 2}, conversions=2),
    "Clip": between("r = Clip (c, zero, six)", {"QLinearConv": 2}, NUMBERS, conversions=2),
    "Clip with one bound": between("r = Clip (c, zero, )", {"QLinearConv": 2}, NUMBERS, conversions=2),
    "Clip with the other bound": between("r = Clip (c, , half)", {"QLinearConv": 2}, NUMBERS),
    "LeakyRelu": between("r = LeakyRelu <alpha = 0.1> (c)", {"QLinearConv": 2, "QLinearLeakyRelu": 1}, conversions=2),
    "SiLU": between(
        "s = Sigmoid (c) \n r = Mul (c, s)", {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1}, conversions=2
    ),
    "SiLU, other order": between(
        "s = Sigmoid (c) \n r = Mul (s, c)", {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1}, conversions=2
    ),
    "MaxPool": between(f"r = MaxPool <kernel_shape = [3, 3], {PAD}> (c)", {"QLinearConv": 2}, conversions=2),
    "AveragePool": between(
        f"r = AveragePool <kernel_shape = [3, 3], {PAD}> (c)", {"QLinearConv": 2, "QLinearAveragePool": 1}, conversions=2
    ),
    "Resize nearest": between(
        'r = Resize <mode = "nearest"> (c, , scales)',
        {"QLinearConv": 2},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        conversions=2,
    ),
    "Resize linear stays float": between(
        'r = Resize <mode = "linear"> (c, , scales)',
        {"QLinearConv": 2},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        conversions=4,
    ),
    "moving operators": between(
        """t = Transpose <perm = [0, 1, 3, 2]> (c) \n u = Unsqueeze (t, axis) \n v = Squeeze (u, axis)
        f = Reshape (v, shape) \n g = Reshape (f, back) \n r = Slice (g, begin, end)""",
        {"QLinearConv": 2},
        {
            "axis": np.array([0]),
            "shape": np.array([0, 16, -1]),
            "back": np.array([0, 16, 8, 8]),
            "begin": np.array([0, 0, 1, 1]),
            "end": np.array([99, 16, 7, 8]),
        },
        conversions=2,
    ),
    "a sum with a constant stays float": between(
        "d = Relu (c) \n r = Add (d, three)", {"QLinearConv": 2, "QLinearAdd": 0}, NUMBERS, conversions=4
    ),
    "residual sum": between(
        f"d = Relu (c) \n e = Conv <{PAD}> (d, w3) \n s = Add (e, d) \n r = Relu (s)",
        {"QLinearConv": 3, "QLinearAdd": 1},
        {"w3": (16, 16, 3, 3)},
        conversions=2,
    ),
    "Concat of integers": between(
        f"d = Conv <{PAD}> (x, w3) \n r = Concat <axis = 2> (c, d)",
        {"QLinearConv": 3, "QLinearConcat": 1},
        {"w3": (16, 8, 3, 3)},
        conversions=2,
    ),
    "Concat of an integer and a float branch": between(
        "e = Exp (x) \n f = Concat <axis = 1> (e, x) \n r = Concat <axis = 2> (c, f)", {"QLinearConv": 2, "QLinearConcat": 1}
    ),
    "squeeze and excite": between(
        """p = GlobalAveragePool (c) \n q = Conv (p, w3) \n s = Relu (q) \n t = Conv (s, w4) \n g = Sigmoid (t)
        r = Mul (c, g)""",
        {"QLinearConv": 4, "QLinearGlobalAveragePool": 1, "QLinearMul": 1},
        {"w3": (16, 16, 1, 1), "w4": (16, 16, 1, 1)},
    ),
    "hard-swish written out": between(
        "[wa] a = Add (c, three) \n [wb] d = Clip (a, zero, six) \n [wc] m = Mul (c, d) \n [wd] r = Div (m, six)",
        {"QLinearConv": 2},
        NUMBERS,
    ),
    "hard-sigmoid gate": between("[wa] h = HardSigmoid (c) \n [wb] r = Mul (c, h)", {"QLinearConv": 2}, whole=("wa", "wb")),
    "an output between convolutions": between(
        "r = Relu (c)",
        {"QLinearConv": 2},
        signature="(float[n, 8, 8, 8] x) => (float[n, c, h, w] y, float[n, c, h, w] c, float[n, c, h, w] r)",
    ),
    "an input that is an output": Pattern(
        "r = Identity (x) \n y = Conv (x, w, b)",
        {"QLinearConv": 1},
        weights={"w": (16, 8, 3, 3), "b": (16,)},
        signature="(float[n, 8, 8, 8] x) => (float[n, c, h, w] y, float[n, 8, 8, 8] x)",
    ),
    "a convolution that is the output": Pattern(
        "y = Conv (x, w, b)", {"QLinearConv": 1}, 2, weights={"w": (16, 8, 3, 3), "b": (16,)}
    ),
    "many channels with computed bias scales": Pattern(
        "c = Conv (x, w, b) \n y = Conv (c, w2, b2)",
        {"QLinearConv": 2},
        2,
        weights={"w": (48, 8, 3, 3), "b": (48,), "w2": (40, 48, 3, 3), "b2": (40,)},
    ),
    "perceptron": Pattern(
        "h = Gemm <transB = 0> (x, w, b) \n r = Relu (h) \n y = Gemm (r, w2)",
        {"QGemm": 2},
        weights={"w": (32, 48), "b": (48,), "w2": (48, 24)},
        signature=VECTOR_SIGNATURE,
        feed=VECTOR,
    ),
    "perceptron with transB": Pattern(
        "h = Gemm <transB = 1> (x, w, b) \n r = Relu (h) \n y = Gemm <transB = 1> (r, w2)",
        {"QGemm": 2},
        weights={"w": (48, 32), "b": (48,), "w2": (24, 48)},
        signature=VECTOR_SIGNATURE,
        feed=VECTOR,
    ),
    "static product": Pattern(
        "y = MatMul (x, w)",
        {"MatMulIntegerToFloat": 1},
        weights={"w": (32, 48)},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
    ),
    "dynamic product": Pattern(
        "y = MatMul (x, w)",
        {"DynamicQuantizeMatMul": 1},
        weights={"w": (32, 48)},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
        form=Form.DYNAMIC,
    ),
    "dynamic Gemm": Pattern(
        "y = Gemm <transB = 1> (x, w, b)",
        {"DynamicQuantizeMatMul": 1},
        weights={"w": (48, 32), "b": (48,)},
        signature=VECTOR_SIGNATURE,
        feed=VECTOR,
        form=Form.DYNAMIC,
    ),
    "dynamic products of one input": Pattern(
        "q = MatMul (x, w) \n k = MatMul (x, w2) \n y = Add (q, k)",
        {"MatMulIntegerToFloat": 2},
        1,
        weights={"w": (32, 48), "w2": (32, 48)},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
        form=Form.DYNAMIC,
    ),
    "weight-only product": Pattern(
        "y = MatMul (x, w)",
        {"MatMulNBits": 1},
        weights={"w": (32, 48)},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
        form=Form.WEIGHT_ONLY,
    ),
    "weight-only Gemm": Pattern(
        "y = Gemm <transB = 1> (x, w, b)",
        {"MatMulNBits": 1},
        weights={"w": (48, 32), "b": (48,)},
        signature=VECTOR_SIGNATURE,
        feed=VECTOR,
        form=Form.WEIGHT_ONLY,
    ),
    "static products of one weight": Pattern(
        "h = Gemm <transB = 1> (x, w, b) \n r = Relu (h) \n y = Gemm <transB = 1> (r, w)",
        {"QGemm": 2},
        weights={"w": (32, 32), "b": (32,)},
        signature=VECTOR_SIGNATURE,
        feed=VECTOR,
    ),
    "static convolutions of one weight": between(
        f"d = Conv <{PAD}> (c, w2, b2) \n r = Relu (d)", {"QLinearConv": 3}, conversions=2
    ),
    "layer normalization written out": Pattern(
        """h = MatMul (x, w) \n [wa] m = ReduceMean <axes = [-1]> (h) \n [wb] d = Sub (h, m) \n [wc] p = Pow (d, two)
        [wd] v = ReduceMean <axes = [-1]> (p) \n [we] e = Add (v, eps) \n [wf] s = Sqrt (e) \n [wg] q = Div (d, s)
        [wh] g = Mul (q, gamma) \n [wi] r = Add (g, beta) \n y = MatMul (r, w2)""",
        {"MatMulIntegerToFloat": 2},
        whole=("wa", "wb", "wc", "wd", "we", "wf", "wg", "wh", "wi"),
        weights={"w": (32, 48), "w2": (48, 24), "gamma": 1 + draw("g", 48), "beta": (48,), **NUMBERS},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
    ),
    "GELU written out": Pattern(
        """h = MatMul (x, w) \n [wa] d = Div (h, root) \n [wb] e = Erf (d) \n [wc] p = Add (e, one) \n [wd] m = Mul (h, p)
        [we] r = Mul (m, half) \n y = MatMul (r, w2)""",
        {"MatMulIntegerToFloat": 2},
        whole=("wa", "wb", "wc", "wd", "we"),
        weights={"w": (32, 48), "w2": (48, 24), **NUMBERS},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
    ),
    "softmax written out": Pattern(
        """h = MatMul (x, w) \n [wa] m = ReduceMax <axes = [-1]> (h) \n [wb] d = Sub (h, m) \n [wc] e = Exp (d)
        s = ReduceSum <keepdims = 1> (e, axis) \n [wd] r = Div (e, s) \n y = MatMul (r, w2)""",
        {"MatMulIntegerToFloat": 2},
        whole=("wa", "wb", "wc", "wd"),
        weights={"w": (32, 48), "w2": (48, 24), "axis": np.array([-1])},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
    ),
    "attention in mode static": Pattern(
        """q = MatMul (x, w) \n k = MatMul (x, w2) \n t = Transpose <perm = [0, 2, 1]> (k) \n s = MatMul (q, t)
        a = Softmax (s) \n y = MatMul (a, q)""",
        {"MatMulIntegerToFloat": 2, "QLinearMatMul": 2},
        weights={"w": (32, 48), "w2": (32, 48)},
        signature=SEQUENCE_SIGNATURE,
        feed=SEQUENCE,
        mode=Mode.STATIC,
    ),
}


def rewritten(pattern: Pattern, folder: Path) -> Model:
    model = prepared(folder, pattern.model, pattern.weights)
    forms = {layer.name: pattern.form for layer in find_layers(model) if pattern.form in layer.forms}
    apply_plan(plan_by_hand(model, forms, pattern.feed, mode=pattern.mode), model)
    return model


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_runs_on_integer_kernels(name, tmp_path):
    pattern = PATTERNS[name]
    expected = run(load(tmp_path, pattern.model, pattern.weights), pattern.feed)
    model = rewritten(pattern, tmp_path)
    check(model)
    path = tmp_path / "rewritten.onnx"
    path.write_bytes(model.serialize())
    found = measure_kernels(path, SessionSettings(1))
    assert {kernel: found.integer.get(kernel, 0) for kernel in pattern.kernels} == pattern.kernels, found.integer
    if pattern.conversions is not None:
        assert found.conversions == pattern.conversions
    for way, outputs in three_ways(model, pattern.feed).items():
        for got, wanted in zip(outputs, expected, strict=True):
            assert got.dtype == wanted.dtype
            assert got.shape == wanted.shape
            assert sqnr(got, wanted) > pattern.least_sqnr, way


@pytest.mark.parametrize("name", [name for name, pattern in PATTERNS.items() if pattern.whole])
def test_composites_are_left_whole(name, tmp_path):
    pattern = PATTERNS[name]
    proto = onnx.ModelProto.FromString(rewritten(pattern, tmp_path).serialize())
    conversions = ("QuantizeLinear", "DequantizeLinear")
    inside = {output for node in proto.graph.node if node.name in pattern.whole for output in node.output}
    within = {
        tensor
        for node in proto.graph.node
        if node.op_type in conversions
        for tensor in node.input
        if tensor in inside - {"r"}
    }
    readers = [node for node in proto.graph.node if node.name in pattern.whole]
    produced = {output: node for node in proto.graph.node for output in node.output}
    assert len(readers) == len(pattern.whole)
    assert not within
    later = [produced[tensor] for node in readers for tensor in node.input if tensor in produced]
    sources = {produced[node.input[0]].input[0] for node in later if node.op_type in conversions}
    assert sources <= {"c"}  # only the convolution's own output arrives decoded


def test_every_scale_is_written_once(tmp_path):
    model = rewritten(PATTERNS["residual sum"], tmp_path)
    names = [name for name in model.graph.initializers if name.endswith("/s")]
    zero_points = [name for name in model.graph.initializers if name.startswith("zero_point/")]
    assert len(names) == len(set(names))
    assert len(zero_points) == len(set(zero_points)) <= 5
    assert all(value.uses() for value in model.graph.initializers.values())


def test_unnamed_nodes_are_told_apart(tmp_path):
    text = f"{FIRST} \n r = Relu (c) \n {SECOND}"
    pattern = Pattern(text, {}, weights=CONVS)
    model = prepared(tmp_path, pattern.model, pattern.weights)
    plan = plan_by_hand(model, {"w": Form.STATIC, "w2": Form.FOLDED}, pattern.feed)
    assert plan.integer_nodes == ("c",)
    apply_plan(plan, model)
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 2
    assert all(not node.name for node in model.graph), "made-up names are not saved"


def test_saturation_of_seven_bits_does_not_replace_a_clip(tmp_path):
    from dataclasses import replace

    from qcompress.decisions import ActivationPlan
    from qcompress.types import QuantScheme

    pattern = PATTERNS["Clip"]
    model = prepared(tmp_path, pattern.model, {**pattern.weights, "six": np.float32(0.3)})
    plan = plan_by_hand(model, {"w": Form.STATIC, "w2": Form.STATIC}, pattern.feed)
    plan = replace(
        plan,
        activation_scheme=QuantScheme.parse("uint7/asym"),
        activations={
            name: ActivationPlan(item.scale * 255 / 127, item.zero_point // 2) for name, item in plan.activations.items()
        },
    )
    expected = run(model, pattern.feed)
    apply_plan(plan, model)
    assert "Clip" in [node.op_type for node in model.graph]
    assert sqnr(run(model, pattern.feed)[0], expected[0]) > 15
