"""Rescaled channels: the same outputs to the bit, every constant that must change changed once, reasons where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_models import check, draw, operators, prepared, run, three_ways

from qcompress.errors import RecipeError
from qcompress.graph import extend
from qcompress.graph.edit import constant_array
from qcompress.operators.regions import Region, find_region
from qcompress.rewrite.rescale import rescale_channels
from qcompress.runtime import Optimization, open_session

HEAD = '<ir_version: 8, opset_import: ["": 17]> net '
IMAGE = {"x": draw("image", 2, 3, 8, 8)}
ROWS = {"x": draw("rows", 2, 5, 16)}

CONVOLUTIONS = {
    "relu": ("r = Relu (c)", "r", {}),
    "leaky": ("r = LeakyRelu <alpha = 0.2> (c)", "r", {}),
    "prelu": ("r = PRelu (c, slope)", "r", {"slope": np.full((8, 1, 1), 0.3, np.float32)}),
    "clip without upper end": ("r = Clip (c, zero)", "r", {"zero": np.float32(0.0)}),
    "depthwise": (
        "q = Relu (c) \n r = Conv <group = 8, pads = [1, 1, 1, 1]> (q, dw, db)",
        "q",
        {"dw": (8, 1, 3, 3), "db": (8,)},
    ),
    "grouped": ("q = Relu (c) \n r = Conv <group = 2> (q, g)", "q", {"g": (8, 4, 1, 1)}),
    "pool": ("q = Relu (c) \n r = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (q)", "r", {}),
    "bias behind": ("q = Add (c, bias4) \n r = Relu (q)", "r", {"bias4": (1, 8, 1, 1)}),
    "gate": ("q = Sigmoid (c) \n u = Conv (x, up) \n r = Mul (q, u)", "r", {"up": (8, 3, 1, 1)}),
    "sum of two": ("q = Conv (x, up) \n s = Add (c, q) \n r = Relu (s)", "r", {"up": (8, 3, 1, 1)}),
    "two readers": ("r = Relu (c) \n q = Conv (r, last)", "r", {}),
    "upwards convolution": ("q = Relu (c) \n r = ConvTranspose <strides = [2, 2]> (q, t)", "q", {"t": (8, 8, 2, 2)}),
    "batch norm": (
        "q = Relu (c) \n r = BatchNormalization (q, n1, n2, n3, n4)",
        "r",
        dict.fromkeys(("n1", "n2", "n3"), (8,)) | {"n4": np.ones(8, np.float32)},
    ),
}


def convolution(tmp_path, name):
    middle, tensor, weights = CONVOLUTIONS[name]
    text = f"{HEAD} (float[2, 3, 8, 8] x) => (float[a, b, c, d] y) {{ c = Conv (x, first, bias) \n {middle} \n y = Conv (r, last) }}"
    return prepared(tmp_path, text, {"first": (8, 3, 1, 1), "bias": (8,), "last": (4, 8, 1, 1), **weights}), tensor


def factors(count: int) -> tuple[float, ...]:
    return tuple(2.0 ** ((7 * index) % 11 - 5) for index in range(count))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_compute_the_same_bits(name, tmp_path):
    model, tensor = convolution(tmp_path, name)
    before, count = three_ways(model, IMAGE), len(list(model.graph))
    inner = open_session(extend(model, [], {}, [tensor])).run(IMAGE)[tensor]
    rescale_channels(model, {tensor: factors(8)})
    check(model)
    assert len(list(model.graph)) == count, "nothing had to be inserted"
    after = three_ways(model, IMAGE)
    assert after.keys() == before.keys()
    for way, outputs in after.items():
        for got, wanted in zip(outputs, before[way], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    scaled = open_session(extend(model, [], {}, [tensor])).run(IMAGE)[tensor]
    np.testing.assert_allclose(scaled * np.reshape(factors(8), (8, 1, 1)), inner, rtol=1e-5, atol=1e-6)


PRODUCTS = {
    "product": "r = MatMul (x, first)",
    "bias": "p = MatMul (x, first) \n r = Add (p, bias)",
    "layer norm": "p = MatMul (x, first) \n r = LayerNormalization (p, gain, bias)",
    "written norm": """p = MatMul (x, first) \n m = ReduceMean <axes = [-1]> (p) \n s = Sub (p, m) \n d = Div (s, two)
        g = Mul (d, gain) \n r = Add (g, bias)""",
    "gated unit": "g = MatMul (x, gate) \n i = Sigmoid (g) \n h = Mul (g, i) \n u = MatMul (x, first) \n r = Mul (h, u)",
    "values of attention": "v = MatMul (x, first) \n k = MatMul (x, square) \n a = Softmax (k) \n r = MatMul (a, v)",
    "turned weight": "t = Transpose <perm = [1, 0]> (turned) \n r = MatMul (x, t)",
}
MATRICES = {
    **dict.fromkeys(("first", "gate", "turned", "last", "other"), (16, 16)),
    "square": (16, 5),
    "gain": np.linspace(0.5, 2.0, 16, dtype=np.float32),
    "bias": (16,),
    "two": np.float32(2.0),
}


def product(tmp_path, middle, outputs="y = MatMul (r, last) \n z = MatMul (r, other)"):
    text = f"{HEAD} (float[2, 5, 16] x) => (float[a, b, c] y, float[a, b, c] z) {{ {middle} \n {outputs} }}"
    return prepared(tmp_path, text, MATRICES)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_compute_the_same_bits(name, tmp_path):
    model = product(tmp_path, PRODUCTS[name])
    before = three_ways(model, ROWS)
    count = len(list(model.graph))
    rescale_channels(model, {"r": factors(16)})
    check(model)
    assert len(list(model.graph)) == count
    for way, outputs in three_ways(model, ROWS).items():
        for got, wanted in zip(outputs, before[way], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_the_state_of_a_recurrent_layer_is_left_alone(tmp_path):
    text = f"{HEAD} (float[5, 2, 16] x) => (float[a, d, b, c] y) {{ r = MatMul (x, first) \n y = LSTM <hidden_size = 4> (r, w, rec) }}"
    model = prepared(tmp_path, text, {"first": (16, 16), "w": (1, 16, 16), "rec": (1, 16, 4)})
    feed = {"x": draw("sequence", 5, 2, 16)}
    before = run(model, feed)
    recurrence = constant_array(model.graph.initializers["rec"])
    rescale_channels(model, {"r": factors(16)})
    np.testing.assert_array_equal(run(model, feed)[0], before[0])
    np.testing.assert_array_equal(constant_array(model.graph.initializers["rec"]), recurrence)


BLOCKED = {
    "input": "r = MatMul (x, first)",
    "gelu": "h = MatMul (x, first) \n e = Erf (h) \n r = Mul (h, e)",
    "clip that binds": "h = MatMul (x, first) \n r = Clip (h, low, high)",
    "residual": "h = MatMul (x, first) \n r = LayerNormalization (h, gain, bias) \n q = Add (r, x) \n e = Softmax (q)",
    "softmax": "h = MatMul (x, first) \n r = Softmax (h)",
}


@pytest.mark.parametrize("name", BLOCKED)
def test_a_mul_divides_a_copy_where_nothing_else_can(name, tmp_path):
    weights = {**MATRICES, "low": np.float32(-0.1), "high": np.float32(0.1)}
    text = f"{HEAD} (float[2, 5, 16] x) => (float[a, b, c] y, float[a, b, c] z) {{ {BLOCKED[name]} \n y = MatMul (r, last) \n z = Add (r, x) }}"
    model = prepared(tmp_path, text, weights)
    tensor = "x" if name == "input" else "r"
    before, count = three_ways(model, ROWS), operators(model).count("Mul")
    rescale_channels(model, {tensor: factors(16)})
    check(model)
    assert operators(model).count("Mul") == count + 1
    for way, outputs in three_ways(model, ROWS).items():
        for got, wanted in zip(outputs, before[way], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_scaled_concatenation_reaches_into_its_parts(tmp_path):
    text = f"""{HEAD} (float[2, 3, 8, 8] x) => (float[a, b, c, d] y, float[a, b, c, d] z) {{
        c = Conv (x, first) \n r = Relu (c) \n o = Conv (x, second) \n j = Concat <axis = 1> (o, r)
        y = Conv (j, last) \n z = Conv (r, side) }}"""
    shapes = {"first": (8, 3, 1, 1), "second": (4, 3, 1, 1), "last": (4, 12, 1, 1), "side": (4, 8, 1, 1)}
    for tensor, count in (("j", 12), ("r", 8)):
        model = prepared(tmp_path, text, shapes)
        before = run(model, IMAGE)
        rescale_channels(model, {tensor: factors(count)})
        assert "Mul" not in operators(model)
        for got, wanted in zip(run(model, IMAGE), before, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_weight_of_two_readers_of_one_tensor_changes_once(tmp_path):
    model = product(tmp_path, "h = MatMul (x, first) \n r = Relu (h)", "y = MatMul (r, last) \n z = MatMul (r, last)")
    before, weight = run(model, ROWS), constant_array(model.graph.initializers["last"])
    rescale_channels(model, {"r": factors(16)})
    np.testing.assert_array_equal(constant_array(model.graph.initializers["last"]), weight * np.array(factors(16))[:, None])
    for got, wanted in zip(run(model, ROWS), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_weight_that_others_read_is_refused_and_a_gain_that_others_read_is_copied(tmp_path):
    model = product(tmp_path, "r = MatMul (x, first)", "y = MatMul (r, last) \n z = MatMul (x, last)")
    tensor = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "r")
    assert "used elsewhere" in str(find_region(model, tensor))
    with pytest.raises(RecipeError, match="used elsewhere"):
        rescale_channels(model, {"r": factors(16)})
    model = product(
        tmp_path,
        "h = MatMul (x, first) \n r = LayerNormalization (h, gain, bias)",
        "y = MatMul (r, last) \n z = Mul (x, gain)",
    )
    before = run(model, ROWS)
    rescale_channels(model, {"r": factors(16)})
    for got, wanted in zip(run(model, ROWS), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ({"nowhere": (1.0,)}, "does not have"),
        ({"r": (1.0, 2.0)}, "2 factors for the 16 channels"),
        ({"r": (0.0,) * 16}, "not positive"),
        ({"r": (float("nan"),) * 16}, "not positive"),
        ({"y": (1.0,) * 16}, "cannot be scaled"),
    ],
)
def test_factors_that_fit_nothing_are_refused(tmp_path, scales, words):
    model = product(tmp_path, "h = MatMul (x, first) \n r = Relu (h)")
    with pytest.raises(RecipeError, match=words):
        rescale_channels(model, scales)


STEPS = (
    "{o} = Relu ({x})",
    "{o} = MatMul ({x}, w{w})",
    "{o} = Add ({x}, b)",
    "{o} = Add ({x}, x)",
    "{o} = Mul ({x}, b)",
    "s{i} = Sigmoid ({x}) \n {o} = Mul ({x}, s{i})",
    "t{i} = Transpose <perm = [1, 0]> ({x}) \n {o} = Relu (t{i})",
    "t{i} = Transpose <perm = [1, 0]> (w{w}) \n {o} = MatMul ({x}, t{i})",
    "{o} = LayerNormalization ({x}, b, b)",
    "{o} = Mul ({x}, {x})",
    "{o} = MatMul (w{w}, {x})",
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 2)), min_size=2, max_size=8),
    st.randoms(use_true_random=False),
)
def test_any_chain_computes_the_same_bits_whatever_is_rescaled(tmp_path_factory, steps, random):
    lines, tensor = [], "x"
    for index, (step, weight) in enumerate(steps):
        lines.append(STEPS[step].format(i=index, x=tensor, w=weight, o=f"y{index}"))
        tensor = f"y{index}"
    text = f"{HEAD} (float[16, 16] x) => (float[16, 16] {tensor}) {{\n" + "\n".join(lines) + "\n}"
    weights = {f"w{index}": (16, 16) for index in range(3)} | {"b": (16,)}
    model = prepared(tmp_path_factory.mktemp("chain"), text, weights)
    feed = {"x": draw("chain", 16, 16)}
    before = {level: run(model, feed, level)[0] for level in (Optimization.ALL, Optimization.DISABLED)}
    tensors = [model.graph.inputs[0], *(node.outputs[0] for node in model.graph)]
    scaled = [value.name or "" for value in tensors if isinstance(find_region(model, value), Region)]
    random.shuffle(scaled)
    for name in scaled:
        value = next(v for v in [model.graph.inputs[0], *(node.outputs[0] for node in model.graph)] if v.name == name)
        if isinstance(find_region(model, value), Region):  # an inserted Mul may have taken its readers
            rescale_channels(model, {name: factors(16)})
    check(model)
    for level, wanted in before.items():
        with np.errstate(invalid="ignore"):
            got = run(model, feed, level)[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
