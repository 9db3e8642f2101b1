"""Properties of plans and rewritten models: round trips, same bytes from the same plan, every weight told exactly once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Sample
from text_models import draw, plan_by_hand, proto_of

from qcompress import compress, plan_compression
from qcompress.decisions import ActivationPlan, CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import Model, load_model
from qcompress.graph.edit import Editor
from qcompress.operators import find_layers
from qcompress.pipeline import RunOptions, load_prepared, prepared_from
from qcompress.plan.choose import PREFERENCES, choose_forms
from qcompress.plan.coverage import as_decisions, coverage
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite import apply_plan
from qcompress.types import (
    FLOAT_SCHEMES,
    CodebookScheme,
    FloatScheme,
    Form,
    Levels,
    PerBlock,
    PerChannel,
    PerTensor,
    QuantScheme,
    Rounding,
)

deterministic = settings(deadline=None, derandomize=True, max_examples=60)

names = st.text(min_size=1, max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
positive = st.floats(min_value=2.0**-100, max_value=2.0**100, allow_nan=False)
granularities = st.one_of(st.just(PerTensor()), st.just(PerChannel()), st.integers(1, 512).map(PerBlock))
schemes = st.builds(QuantScheme, st.integers(2, 16), st.booleans(), st.booleans(), granularities)
shared = st.sampled_from([PerTensor(), PerChannel()])
codebooks = st.builds(CodebookScheme, st.integers(2, 8), st.sampled_from(list(Levels)), shared)
stored = st.one_of(schemes, codebooks, st.sampled_from(FLOAT_SCHEMES).map(FloatScheme))
clips = st.lists(numbers, max_size=4).map(tuple)
decisions = st.one_of(
    st.builds(Keep, st.text(max_size=20)),
    st.builds(Quantize, st.sampled_from(list(Form)), stored, clips, st.sampled_from(list(Rounding))),
)
plans = st.builds(
    CompressionPlan,
    source=st.text(max_size=8),
    recipe=st.text(max_size=8),
    weights=st.dictionaries(names, decisions, max_size=5),
    activation_scheme=st.builds(QuantScheme, st.integers(2, 16), st.booleans(), st.booleans()),
    activations=st.dictionaries(names, st.builds(ActivationPlan, positive, st.integers(-128, 255)), max_size=5),
    integer_nodes=st.lists(names, max_size=5).map(tuple),
    bias_shifts=st.dictionaries(names, st.lists(numbers, max_size=4).map(tuple), max_size=3),
    channel_scales=st.dictionaries(names, st.lists(positive, max_size=4).map(tuple), max_size=3),
    notes=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    opset=st.none() | st.integers(7, 30),
)


@deterministic
@given(plans)
def test_a_plan_survives_json(plan):
    text = plan.to_json()
    again = CompressionPlan.from_json(text)
    assert again == plan
    assert again.to_json() == text
    assert list(again.weights) == list(plan.weights)
    assert list(again.activations) == list(plan.activations)


def test_a_plan_without_the_newer_keys_is_read(samples: dict[str, Sample]):
    plan = plan_compression(samples["mlp"].model, "int8-weights", None, options=RunOptions(threads=1))
    table = json.loads(plan.to_json())
    assert "rounding" not in str(table["weights"])
    assert CompressionPlan.from_json(json.dumps({k: v for k, v in table.items() if k != "opset"})) == replace(
        plan, opset=None
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4) | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(plans, st.data())
def test_a_damaged_plan_is_an_error_of_its_own(plan, data):
    table = json.loads(plan.to_json())
    key = data.draw(st.sampled_from(sorted(table)))
    table[key] = data.draw(json_values)
    try:
        found = CompressionPlan.from_json(json.dumps(table))
    except RecipeError:
        return
    assert isinstance(found.to_json(), str)


@pytest.mark.parametrize("name", ["conv", "mlp", "embedding"])
@pytest.mark.parametrize("recipe", ["int8-static", "int8-dynamic"])
def test_a_plan_read_back_gives_the_same_bytes(name, recipe, samples: dict[str, Sample]):
    model = samples[name].model
    plan = plan_compression(model, recipe, str(samples[name].calib), options=RunOptions(threads=1))
    results = []
    for used in (plan, CompressionPlan.from_json(plan.to_json())):
        prepared = load_prepared(model)
        apply_plan(used, prepared)
        results.append(prepared.serialize())
    assert results[0] == results[1]
    assert plan_compression(model, recipe, str(samples[name].calib), options=RunOptions(threads=1)) == plan


@pytest.mark.parametrize("name", ["conv", "embedding"])
def test_compressing_twice_gives_the_same_file(name, samples: dict[str, Sample], tmp_path):
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.onnx"
        options = RunOptions(threads=1, latency_seconds=0.0)
        compress(samples[name].model, path, data=str(samples[name].calib), options=options)
        files.append(path.read_bytes())
    assert files[0] == files[1]


STEPS = {
    "linear": "[n{i}] {o} = MatMul ({x}, w{w})",
    "gemm": "{o} = Gemm <transB = 1> ({x}, w{w}, b)",
    "product and bias": "p{i} = MatMul ({x}, w{w}) \n {o} = Add (p{i}, b)",
    "turned": "t{i} = Transpose <perm = [1, 0]> (w{w}) \n {o} = MatMul ({x}, t{i})",
    "relu": "[same] {o} = Relu ({x})",
    "residual": "{o} = Add ({x}, x)",
    "gate": "s{i} = Sigmoid ({x}) \n {o} = Mul ({x}, s{i})",
    "scale": "{o} = Mul ({x}, b)",
    "split weight": "{o} = Sub ({x}, w{w})",
    "look-up": "l{i} = Gather (w{w}, i) \n {o} = Add ({x}, l{i})",
}


@st.composite
def graphs(draw_from: st.DrawFn) -> str:
    """A chain of steps over (16, 16) tensors that share four weights and a bias, half of them through the same weight."""
    lines, tensor = [], "x"
    for index, step in enumerate(draw_from(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7))):
        weight = draw_from(st.integers(0, 3))
        lines.append(STEPS[step].format(i=index, x=tensor, w=weight, o=f"y{index}"))
        tensor = f"y{index}"
    body = "\n".join(lines)
    return (
        f'<ir_version: 8, opset_import: ["": 17]> net (float[16, 16] x, int64[16] i) => (float[a, k] {tensor}) {{ {body} }}'
    )


SHARED = {**{f"w{index}": (16, 16) for index in range(4)}, "b": (16,)}
FEED = {"x": draw("x", 16, 16), "i": np.arange(16)}


def prepared(text: str, folder) -> Model:
    path = folder / "model.onnx"
    path.write_bytes(proto_of(text, SHARED).SerializeToString())
    return prepared_from(load_model(path))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(graphs(), st.sampled_from(list(Mode)))
def test_any_graph_of_shared_weights_is_covered_and_keeps_its_outputs(tmp_path_factory, text, mode):
    from text_models import check, run, sqnr

    from qcompress.runtime import Optimization

    folder = tmp_path_factory.mktemp("graph")
    model = prepared(text, folder)
    layers = find_layers(model)
    stored = {
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.size > 1
    }
    assert sorted(layer.name for layer in layers) == sorted(stored)
    chosen = choose_forms(layers, PREFERENCES[mode][0], Recipe(mode=mode), {})
    rows = coverage(layers, as_decisions(layers, chosen, Recipe()))
    assert len(rows) == len(layers)
    assert all(bool(row.form) != bool(row.reason) for row in rows)
    expected = run(model, FEED)
    plan = plan_by_hand(model, {name: form for name, form in chosen.items() if isinstance(form, Form)}, FEED, mode=mode)
    apply_plan(plan, model)
    check(model)
    for level in (Optimization.ALL, Optimization.DISABLED):
        for got, wanted in zip(run(model, FEED, level), expected, strict=True):
            assert sqnr(got, wanted) > 15
    proto = onnx.ModelProto.FromString(model.serialize())
    tensors = [tensor.name for tensor in proto.graph.initializer] + [out for node in proto.graph.node for out in node.output]
    assert len(set(tensors)) == len(tensors)
    named = [node.name for node in proto.graph.node if node.name]
    assert len(set(named)) == len(named)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.sampled_from(["x", "w0", "a", "a_2", "n0", "b"]), max_size=12))
def test_names_an_editor_gives_are_free_and_the_same_every_time(tmp_path_factory, wanted):
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[16, 16] x, int64[16] i) => (float[a, k] y) {
        [n0] a = MatMul (x, w0) \n [a_2] y = Gemm (a, w1, b)
    }"""
    folder = tmp_path_factory.mktemp("names")
    given_names = []
    for _ in range(2):
        model = prepared(text, folder)
        editor = Editor(model.graph)
        given_names.append([editor.name(name) for name in wanted])
        taken = set(model.graph.initializers) | {"x", "i", "a", "y", "n0", "a_2"}
        assert len(set(given_names[-1])) == len(wanted)
        assert not set(given_names[-1]) & taken
    assert given_names[0] == given_names[1]
