"""Every (operator, form) cell computes what the rounded weights compute, in the runtime at both ends and in onnx.reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from text_models import (
    Weights,
    assert_close,
    check,
    draw,
    plan_by_hand,
    prepared,
    run,
    sqnr,
    three_ways,
    with_rounded_weights,
)

from qcompress.operators import find_layers
from qcompress.rewrite import apply_plan
from qcompress.runtime import Optimization
from qcompress.types import Form

INTEGER_FORMS = (Form.STATIC, Form.DYNAMIC)


@dataclass(frozen=True)
class Cell:
    """A graph body, its weights, and the forms each compressed weight must offer."""

    text: str
    weights: Weights
    forms: dict[str, tuple[Form, ...]]
    signature: str
    feed: dict[str, Any]
    reference: bool = True
    header: str = '<ir_version: 8, opset_import: ["": 17]>'
    least_sqnr: float = 25.0
    schemes: tuple[str, ...] = field(default=("int8/channel", "int8", "uint8/asym/channel", "uint8/asym"))

    @property
    def model(self) -> str:
        return f"{self.header} net {self.signature} {{ {self.text} }}"


STATIC, DYNAMIC, WEIGHT_ONLY, FOLDED, GATHERED = Form
PRODUCT = (STATIC, DYNAMIC, WEIGHT_ONLY, FOLDED)

ROWS = {"x": draw("rows", 5, 16)}
ROWS_SIGNATURE = "(float[n, 16] x) => (float[n, k] y)"
BATCHES = {"x": draw("batches", 2, 5, 16)}
BATCHES_SIGNATURE = "(float[a, n, 16] x) => (float[a, n, k] y)"
IMAGE = {"x": draw("image", 2, 8, 9, 9)}
IMAGE_SIGNATURE = "(float[n, 8, 9, 9] x) => (float[n, c, h, w] y)"


def conv(attributes: str, shape: tuple[int, ...], forms: tuple[Form, ...] = (STATIC, FOLDED), bias: bool = True) -> Cell:
    spatial = {3: "l", 4: "h, w", 5: "d, h, w"}[len(shape)]
    sizes = {3: (16,), 4: (9, 9), 5: (5, 5, 5)}[len(shape)]
    operator, _, rest = attributes.partition(" ")
    text = f"[layer] y = {operator} <{rest}> (x, w{', b' if bias else ''})"
    group = int(rest.split("group = ")[1].split(",")[0]) if "group" in rest else 1
    out = shape[0] if operator == "Conv" else shape[1] * group
    channels = shape[1] * group if operator == "Conv" else shape[0]
    signature = f"(float[n, {channels}, {', '.join(map(str, sizes))}] x) => (float[n, c, {spatial}] y)"
    return Cell(
        text,
        {"w": shape} | ({"b": (out,)} if bias else {}),
        {"w": forms},
        signature,
        {"x": draw("x", 2, channels, *sizes)},
    )


def gemm(attributes: str, weights: Weights, forms: tuple[Form, ...] = PRODUCT, **changes: Any) -> Cell:
    names = ", ".join(weights)
    return Cell(
        f"[layer] y = Gemm <{attributes}> (x, {names})",
        weights,
        {"w": forms},
        changes.pop("signature", ROWS_SIGNATURE),
        changes.pop("feed", ROWS),
        **changes,
    )


def recurrent(operator: str, gates: int, outputs: str, directions: int, extra: str = "") -> Cell:
    direction = "bidirectional" if directions == 2 else "forward"
    return Cell(
        f'[layer] {outputs} = {operator} <hidden_size = 6, direction = "{direction}"{extra}> (x, w, r, b)',
        {"w": (directions, gates * 6, 16), "r": (directions, gates * 6, 6), "b": (directions, 2 * gates * 6)},
        {"w": (FOLDED,), "r": (FOLDED,)},
        "(float[t, n, 16] x) => (float[t, d, n, h] y)",
        {"x": draw("x", 4, 3, 16)},
        reference=False,
    )


TOKENS = np.array([[1, 5, 0], [19, 2, 2]])

CELLS = {
    "Conv 1-D": conv("Conv kernel_shape = [3], pads = [1, 1]", (12, 8, 3)),
    "Conv 2-D": conv("Conv strides = [2, 2], pads = [0, 1, 1, 0]", (12, 8, 3, 3)),
    "Conv 3-D": conv("Conv dilations = [2, 1, 1]", (12, 4, 2, 2, 2)),
    "Conv without bias": conv("Conv kernel_shape = [1, 1]", (12, 8, 1, 1), bias=False),
    "Conv of many channels": conv("Conv kernel_shape = [1, 1]", (48, 8, 1, 1)),
    "Conv grouped": conv("Conv group = 2", (12, 4, 3, 3)),
    "Conv depthwise": conv("Conv group = 8, pads = [1, 1, 1, 1]", (8, 1, 3, 3)),
    "Conv depthwise, two filters a channel": conv("Conv group = 8", (16, 1, 3, 3), bias=False),
    "Conv with automatic padding": conv('Conv auto_pad = "SAME_LOWER", strides = [2, 2]', (12, 8, 3, 3)),
    "ConvTranspose": conv("ConvTranspose strides = [2, 2], output_padding = [1, 0]", (8, 6, 3, 3), (FOLDED,)),
    "ConvTranspose grouped": conv("ConvTranspose group = 2", (8, 3, 3, 3), (FOLDED,)),
    "ConvTranspose without bias": conv("ConvTranspose strides = [2]", (8, 6, 4), (FOLDED,), bias=False),
    "Gemm": gemm("transB = 0", {"w": (16, 12), "b": (12,)}),
    "Gemm transB": gemm("transB = 1", {"w": (12, 16), "b": (12,)}),
    "Gemm without bias": gemm("transB = 1", {"w": (12, 16)}),
    "Gemm with a row as bias": gemm("transB = 1", {"w": (12, 16), "b": (1, 12)}, (DYNAMIC, WEIGHT_ONLY, FOLDED)),
    "Gemm with one number as bias": gemm("transB = 0", {"w": (16, 12), "b": (1,)}),
    "Gemm with a scalar bias": gemm("transB = 0", {"w": (16, 12), "b": ()}, (DYNAMIC, WEIGHT_ONLY, FOLDED)),
    "Gemm with a bias a row": gemm("transB = 0", {"w": (16, 12), "b": (5, 1)}, (DYNAMIC, WEIGHT_ONLY, FOLDED)),
    "Gemm alpha": gemm("alpha = 0.5", {"w": (16, 12), "b": (12,)}, (FOLDED,)),
    "Gemm beta": gemm("transB = 1, beta = 2.0", {"w": (12, 16), "b": (12,)}, (FOLDED,)),
    "Gemm transA": gemm(
        "transA = 1, transB = 1",
        {"w": (12, 16), "b": (12,)},
        (FOLDED,),
        signature="(float[16, n] x) => (float[n, k] y)",
        feed={"x": draw("x", 16, 5)},
    ),
    "Gemm of a computed bias": Cell(
        "c = Abs (b) \n d = Mul (c, s) \n [layer] y = Gemm (x, w, d)",
        {"w": (16, 12)},
        {"w": (DYNAMIC, WEIGHT_ONLY, FOLDED)},
        "(float[n, 16] x, float[12] b, float[1] s) => (float[n, k] y)",
        {**ROWS, "b": draw("b", 12), "s": draw("s", 1)},
    ),
    "MatMul": Cell("[layer] y = MatMul (x, w)", {"w": (16, 12)}, {"w": PRODUCT}, BATCHES_SIGNATURE, BATCHES),
    "MatMul and bias": Cell(
        "t = MatMul (x, w) \n y = Add (b, t)", {"w": (16, 12), "b": (12,)}, {"w": PRODUCT}, BATCHES_SIGNATURE, BATCHES
    ),
    "MatMul, weight on the left": Cell(
        "y = MatMul (w, x)",
        {"w": (12, 16)},
        {"w": (FOLDED,)},
        "(float[a, 16, n] x) => (float[a, k, n] y)",
        {"x": draw("x", 2, 16, 5)},
    ),
    "MatMul of stacked weights": Cell(
        "y = MatMul (x, w)",
        {"w": (3, 16, 12)},
        {"w": (FOLDED,)},
        "(float[3, n, 16] x) => (float[3, n, k] y)",
        {"x": draw("x", 3, 5, 16)},
        schemes=("int8/channel", "int8", "uint8/asym/channel", "int4/block8", "int8/block5"),
    ),
    "MatMul with a vector": Cell(
        "y = MatMul (x, w)",
        {"w": (80,)},
        {"w": (FOLDED,)},
        "(float[n, 80] x) => (float[n] y)",
        {"x": draw("x", 5, 80)},
    ),
    "MatMul of a vector": Cell(
        "y = MatMul (x, w)",
        {"w": (16, 12)},
        {"w": PRODUCT},
        "(float[16] x) => (float[12] y)",
        {"x": draw("x", 16)},
        reference=False,
    ),
    "MatMul through a Transpose": Cell(
        "u = Transpose (w) \n y = MatMul (x, u) \n z = Transpose <perm = [1, 0]> (big) \n v = MatMul (x, z)",
        {"w": (200, 128), "big": (200, 128)},
        {"w": (WEIGHT_ONLY, FOLDED), "big": (WEIGHT_ONLY, FOLDED)},
        "(float[n, 128] x) => (float[n, k] y, float[n, k] v)",
        {"x": draw("x", 5, 128)},
    ),
    "LSTM": recurrent("LSTM", 4, "y, h, c", 1),
    "LSTM both ways": recurrent("LSTM", 4, "y", 2),
    "GRU both ways": recurrent("GRU", 3, "y", 2, ", linear_before_reset = 1"),
    "RNN": recurrent("RNN", 1, "y", 2),
    "Gather": Cell(
        "y = Gather (w, i)",
        {"w": (20, 6)},
        {"w": (GATHERED, FOLDED)},
        "(int64[a, b] i) => (float[a, b, k] y)",
        {"i": TOKENS},
    ),
    "Gather from the end": Cell(
        "y = Gather <axis = 0> (w, i)",
        {"w": (20, 6)},
        {"w": (GATHERED, FOLDED)},
        "(int32[a] i) => (float[a, k] y)",
        {"i": np.array([-1, 3, -20], np.int32)},
    ),
    "Gather one row": Cell(
        "y = Gather (w, i)", {"w": (20, 6)}, {"w": (GATHERED, FOLDED)}, "(int64 i) => (float[k] y)", {"i": np.array(7)}
    ),
    "Gather from three axes": Cell(
        "y = Gather (w, i)",
        {"w": (20, 3, 2)},
        {"w": (GATHERED, FOLDED)},
        "(int64[a, b] i) => (float[a, b, c, d] y)",
        {"i": TOKENS},
    ),
    "Gather from one axis": Cell(
        "y = Gather (w, i)", {"w": (90,)}, {"w": (GATHERED, FOLDED)}, "(int64[a, b] i) => (float[a, b] y)", {"i": TOKENS}
    ),
    "two look-ups of one table": Cell(
        "t = Gather (w, i) \n u = Gather (w, j) \n y = Add (t, u)",
        {"w": (20, 6)},
        {"w": (GATHERED, FOLDED)},
        "(int64[a, b] i, int64[a, b] j) => (float[a, b, k] y)",
        {"i": TOKENS, "j": TOKENS[::-1].copy()},
    ),
    "tied embedding": Cell(
        "e = Gather (w, i) \n t = Transpose <perm = [1, 0]> (w) \n y = MatMul (e, t)",
        {"w": (200, 128)},
        {"w": (WEIGHT_ONLY, FOLDED)},
        "(int64[a, b] i) => (float[a, b, v] y)",
        {"i": TOKENS},
    ),
    "small tied embedding": Cell(
        "e = Gather (w, i) \n t = Transpose <perm = [1, 0]> (w) \n y = MatMul (e, t)",
        {"w": (20, 16)},
        {"w": (WEIGHT_ONLY, FOLDED)},
        "(int64[a, b] i) => (float[a, b, v] y)",
        {"i": TOKENS},
    ),
    "embedding tied to a Gemm": Cell(
        "e = Gather (w, i) \n y = Gemm <transB = 1> (e, w, b)",
        {"w": (20, 16), "b": (20,)},
        {"w": (FOLDED,)},
        "(int64[a] i) => (float[a, v] y)",
        {"i": TOKENS[0]},
    ),
    "embedding tied the other way": Cell(
        "e = Gather (w, i) \n y = MatMul (e, w)",
        {"w": (16, 16)},
        {"w": (FOLDED,)},
        "(int64[a] i) => (float[a, v] y)",
        {"i": TOKENS[0]},
    ),
    "one weight, two Gemms": Cell(
        "t = Gemm <transB = 1> (x, w, b) \n u = Gemm <transB = 1> (z, w) \n y = Add (t, u)",
        {"w": (12, 16), "b": (12,)},
        {"w": (STATIC, DYNAMIC, FOLDED)},
        "(float[n, 16] x, float[n, 16] z) => (float[n, k] y)",
        {**ROWS, "z": draw("z", 5, 16)},
    ),
    "one weight, Gemms of different transB": Cell(
        "t = Gemm <transB = 1> (x, w) \n y = Gemm <transB = 0> (t, w)",
        {"w": (12, 16)},
        {"w": (FOLDED,)},
        ROWS_SIGNATURE,
        ROWS,
    ),
    "one weight, Gemm and MatMul": Cell(
        "t = Gemm (x, w) \n u = MatMul (x, w) \n y = Add (t, u)",
        {"w": (16, 12)},
        {"w": (STATIC, DYNAMIC, FOLDED)},
        ROWS_SIGNATURE,
        ROWS,
    ),
    "one weight on both sides": Cell(
        "t = MatMul (x, w) \n y = MatMul (w, t)",
        {"w": (16, 16)},
        {"w": (FOLDED,)},
        "(float[16, 16] x) => (float[16, 16] y)",
        {"x": draw("x", 16, 16)},
    ),
    "one weight, two convolutions of one bias": Cell(
        "t = Conv (x, w, b) \n u = Conv <strides = [1, 1]> (z, w, b) \n y = Add (t, u)",
        {"w": (6, 8, 3, 3), "b": (6,)},
        {"w": (STATIC, FOLDED)},
        "(float[n, 8, 9, 9] x, float[n, 8, 9, 9] z) => (float[n, c, h, w] y)",
        {**IMAGE, "z": 20 * draw("z", 2, 8, 9, 9)},
    ),
    "optional inputs left empty": Cell(
        "[layer] t = Conv (x, w, ) \n y = Clip (t, , high)",
        {"w": (6, 8, 3, 3), "high": np.float32(0.5)},
        {"w": (STATIC, FOLDED)},
        IMAGE_SIGNATURE,
        IMAGE,
    ),
    "one channel is zero": Cell(
        "y = Conv (x, w, b)",
        {"w": draw("w", 6, 8, 3, 3) * np.array([0, 1, 0, 1, 1, 1], np.float32).reshape(6, 1, 1, 1), "b": (6,)},
        {"w": (STATIC, FOLDED)},
        IMAGE_SIGNATURE,
        IMAGE,
    ),
    "nearly dead channels with a bias": Cell(
        "y = Conv (x, w, b)",
        {"w": draw("w", 6, 8, 3, 3) * np.array([1e-12, 1, 1e-9, 1, 1, 1], np.float32).reshape(6, 1, 1, 1), "b": (6,)},
        {"w": (STATIC, FOLDED)},
        IMAGE_SIGNATURE,
        IMAGE,
        schemes=("int8/channel",),
    ),
    "old operator set": Cell(
        "t = Conv (x, w, b) \n y = Clip <min = 0.0> (t)",
        {"w": (6, 8, 3, 3), "b": (6,)},
        {"w": (STATIC, FOLDED)},
        IMAGE_SIGNATURE,
        IMAGE,
        header='<ir_version: 4, opset_import: ["": 9]>',
    ),
}

ROWS_OF_TABLE = [(name, form, scheme) for name, cell in CELLS.items() for form in Form for scheme in cell.schemes]


def test_the_forms_on_offer(tmp_path):
    for name, cell in CELLS.items():
        offered = {layer.name: layer.forms for layer in find_layers(prepared(tmp_path, cell.model, cell.weights))}
        assert {weight: offered[weight] for weight in cell.forms} == cell.forms, name
        assert not [forms for weight, forms in offered.items() if weight not in cell.forms and forms], name


@pytest.mark.parametrize(
    ("name", "form", "scheme"),
    [
        (name, form, scheme)
        for name, form, scheme in ROWS_OF_TABLE
        if any(form in forms for forms in CELLS[name].forms.values())
        and ("asym" not in scheme or form is not Form.DYNAMIC)
        and ("block" not in scheme or form is Form.FOLDED)
    ],
)
def test_a_cell_computes_with_the_rounded_weights(name, form, scheme, tmp_path):
    cell = CELLS[name]
    model = prepared(tmp_path, cell.model, cell.weights)
    forms = {weight: form for weight, offered in cell.forms.items() if form in offered}
    plan = plan_by_hand(model, forms, cell.feed, scheme)
    expected = run(with_rounded_weights(model, plan), cell.feed, Optimization.DISABLED)
    float_outputs = run(model, cell.feed, Optimization.DISABLED)
    apply_plan(plan, model)
    check(model)
    results = three_ways(model, cell.feed, cell.reference)
    for way, found in results.items():
        if form not in INTEGER_FORMS:
            tolerance = 2e-2 if form is Form.WEIGHT_ONLY and way == "all" else 2e-5  # the kernel rounds activations to int8
            assert_close(found, expected, tolerance)
            continue
        for got, wanted, exact in zip(found, expected, float_outputs, strict=True):
            assert got.shape == wanted.shape
            assert sqnr(got, wanted) > cell.least_sqnr, way
            assert sqnr(got, exact) > cell.least_sqnr - 5, way
    if cell.reference:
        assert len(results) == 3 or "ConvTranspose" in name
    for got, wanted in zip(results["all"], results["disabled"], strict=True):
        if form in INTEGER_FORMS:
            assert sqnr(got, wanted) > 35


@pytest.mark.parametrize("name", CELLS)
def test_the_smallest_weights_become_codes(name, tmp_path):
    cell = CELLS[name]
    for form in {form for forms in cell.forms.values() for form in forms}:
        model = prepared(tmp_path, cell.model, cell.weights)
        forms = {weight: form for weight, offered in cell.forms.items() if form in offered}
        apply_plan(plan_by_hand(model, forms, cell.feed), model)
        dtypes = {value.name: value.dtype.name for value in model.graph.initializers.values() if value.dtype is not None}
        for weight in forms:
            assert weight not in dtypes, "the float weight is still there"
            assert dtypes[f"{weight}/q"] == "INT8"
