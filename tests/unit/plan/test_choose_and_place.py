"""Forms follow the recipe and the layer; integers flow only where they pay."""

from __future__ import annotations

import numpy as np
import pytest
from text_models import draw, load, plan_by_hand, prepared, prepared_from

from qcompress.calibrate import observe_shapes
from qcompress.decisions import ActivationPlan, CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.operators import find_layers
from qcompress.plan.choose import DYNAMIC, MIXED, STATIC, WEIGHTS, choose_forms, static_nodes
from qcompress.plan.coverage import as_decisions, coverage
from qcompress.plan.fit import clipped, shift_probes
from qcompress.plan.placement import place
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite import apply_plan
from qcompress.rewrite.bias import shift_biases
from qcompress.types import Form, QuantScheme, parse_scheme

NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[n, 3, 32, 32] x, int64[n] i) => (float[n, 10] y) {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, stem_w, stem_b)
    [stem_relu] b = Relu (a)
    [body] c = Conv <pads = [1, 1, 1, 1]> (b, body_w, body_b)
    [depth] d = Conv <pads = [1, 1, 1, 1], group = 64> (c, depth_w)
    [pool] p = GlobalAveragePool (d)
    [flat] f = Flatten (p)
    [look] e = Gather (table, i)
    [sum] s = Add (f, e)
    [head] y = Gemm <transB = 1> (s, head_w, head_b)
}
"""
WEIGHTS_OF_NET = {
    "stem_w": (64, 3, 3, 3),
    "stem_b": (64,),
    "body_w": (64, 64, 3, 3),
    "body_b": (64,),
    "depth_w": (64, 1, 3, 3),
    "table": (20, 64),
    "head_w": (10, 64),
    "head_b": (10,),
}
FEED = {"x": draw("x", 2, 3, 32, 32), "i": np.array([0, 5])}


@pytest.fixture
def net(tmp_path):
    return prepared(tmp_path, NET, WEIGHTS_OF_NET)


def test_preferences_lead_to_forms(net):
    layers = find_layers(net)
    expected = {
        STATIC: ("static", "static", "static"),
        MIXED: ("static", "static", "dynamic"),
        DYNAMIC: ("folded", "folded", "dynamic"),
        WEIGHTS: ("folded", "folded", "folded"),
    }
    for preference, (body, depth, head) in expected.items():
        chosen = choose_forms(layers, preference, Recipe(), {})
        assert chosen["stem_w"] is Form.FOLDED, "three channels"
        assert (chosen["body_w"], chosen["depth_w"], chosen["head_w"]) == (Form(body), Form(depth), Form(head))
        assert chosen["table"] is Form.GATHERED
        assert chosen["body_b"] == Keep("is a bias")


def test_products_of_few_rows_read_codes(net):
    chosen = choose_forms(find_layers(net), WEIGHTS, Recipe(), observe_shapes(net, FEED))
    assert chosen["head_w"] is Form.WEIGHT_ONLY


@pytest.mark.parametrize("scheme", ["int4/block32", "int16/channel", "uint8/asym/channel", "int8/asym"])
def test_a_form_is_taken_only_with_a_scheme_it_can_carry(scheme, net):
    recipe = Recipe(weights=QuantScheme.parse(scheme))
    for preference in (STATIC, MIXED, DYNAMIC, WEIGHTS):
        chosen = choose_forms(find_layers(net), preference, recipe, observe_shapes(net, FEED))
        forms = {form for form in chosen.values() if isinstance(form, Form)}
        if "16" in scheme:
            assert forms == {Form.FOLDED, Form.GATHERED}
        elif "block" in scheme:
            blocks = {layer.name for layer in find_layers(net) if "block" in str(layer.scheme(recipe.weights))}
            assert {chosen[name] for name in blocks} == {Form.FOLDED, Form.GATHERED}, "an older operator set"
        else:
            assert Form.DYNAMIC not in forms


def test_include_and_exclude_know_layers_weights_globs_and_operators(net):
    layers = find_layers(net)

    def taken(**options: tuple[str, ...]) -> set[str]:
        chosen = choose_forms(layers, WEIGHTS, Recipe(**options), {})
        return {name for name, form in chosen.items() if isinstance(form, Form)}

    everything = taken()
    assert everything == {"stem_w", "body_w", "depth_w", "table", "head_w"}
    assert taken(include=("body",)) == {"body_w"}
    assert taken(include=("Gather", "head_w")) == {"table", "head_w"}
    assert taken(exclude=("*d*",)) == {"stem_w", "table"}
    assert taken(include=("Conv",), exclude=("stem",)) == {"body_w", "depth_w"}
    with pytest.raises(RecipeError, match="did you mean 'body'"):
        taken(exclude=("bodi",))


def test_integers_flow_between_the_layers_that_shall(net):
    layers = find_layers(net)
    shapes = observe_shapes(net, FEED)
    chosen = choose_forms(layers, STATIC, Recipe(), shapes)
    placement = place(net, static_nodes(net, layers, chosen, Mode.AUTO), shapes)
    assert placement.nodes == ("body", "depth", "pool", "flat", "sum", "head")
    assert placement.tensors == ("b", "c", "d", "p", "f", "e", "s")
    assert placement.follows == {"f": "p"}


def test_coverage_counts_codes_and_scales(net):
    layers = find_layers(net)
    chosen = choose_forms(layers, STATIC, Recipe(), {})
    rows = {row.weight: row for row in coverage(layers, as_decisions(layers, chosen, Recipe()))}
    assert list(rows) == [layer.name for layer in layers]
    assert set(rows) == set(WEIGHTS_OF_NET)
    assert (rows["body_w"].bytes_before, rows["body_w"].bytes_after) == (64 * 64 * 9 * 4, 64 * 64 * 9 + 64 * 2)
    assert rows["body_b"].reason == "is a bias"
    assert all(bool(row.form) != bool(row.reason) for row in rows.values())


@pytest.mark.parametrize(
    ("text", "weights", "probes"),
    [
        ("y = Gemm <beta = 0.5> (x, w, b)", {"w": (16, 16), "b": (16,)}, 0),
        ("y = Gemm <alpha = 0.5> (x, w, b)", {"w": (16, 16), "b": (16,)}, 1),
        ("y = Gemm <transB = 1> (x, w)", {"w": (16, 16)}, 1),
        ("y = MatMul (x, w)", {"w": (16, 16)}, 0),
        ("t = MatMul (x, w) \n y = Add (t, b)", {"w": (16, 16), "b": (16,)}, 1),
        ("t = MatMul (x, w) \n u = MatMul (w, t) \n y = Add (u, b)", {"w": (16, 16), "b": (16,)}, 0),
    ],
)
def test_bias_shifts_are_exact_where_they_are_measured(text, weights, probes, tmp_path):
    from text_models import run, with_rounded_weights

    from qcompress.graph import extend
    from qcompress.runtime import open_session

    header = '<ir_version: 8, opset_import: ["": 17]> net (float[16, 16] x) => (float[n, k] y)'
    model = prepared(tmp_path, f"{header} {{ {text} }}", weights)
    recipe = Recipe(weights=QuantScheme.parse("int4"))
    layers = [layer for layer in find_layers(model) if layer.forms]
    made = shift_probes(layers, clipped({layer.name: () for layer in layers}, recipe))
    assert len(made.nodes) == probes
    feed = {"x": 1.0 + draw("x", 16, 16)}
    outputs = open_session(extend(model, made.nodes, made.constants, list(made.channel_axes))).run(feed) if probes else {}
    shifts = {made.layers[name]: tuple(map(float, array.mean(axis=0))) for name, array in outputs.items()}
    plan = plan_by_hand(model, {layer.name: Form.FOLDED for layer in layers}, feed, "int4")
    rounded = with_rounded_weights(model, plan)
    before = run(rounded, feed)[0].mean(axis=0)
    shift_biases(rounded, shifts)
    after = run(rounded, feed)[0].mean(axis=0)
    wanted = run(model, feed)[0].mean(axis=0)
    if probes:
        np.testing.assert_allclose(after, wanted, atol=1e-5)
        assert np.abs(before - wanted).max() > 1e-3
    else:
        np.testing.assert_array_equal(after, before)


def test_a_shared_bias_is_shifted_for_one_layer_only(tmp_path):
    header = '<ir_version: 8, opset_import: ["": 17]> net (float[n, 16] x) => (float[n, k] y, float[n, k] z, float[16] c)'
    text = f"{header} {{ [first] y = Gemm (x, w, b) \n [second] z = Gemm (x, v, b) \n [third] t = Gemm (x, v, c) }}"
    weights = {"w": (16, 16), "v": (16, 16), "b": (16,), "c": (16,)}
    model = prepared(tmp_path, text.replace("z, float[16] c)", "z, float[16] c, float[n, k] t)"), weights)
    from text_models import run

    feed = {"x": draw("x", 3, 16)}
    y, z, c, t = run(model, feed)
    shift_biases(model, {"first": (1.0,) * 16, "third": (2.0,) * 16})
    shifted = run(model, feed)
    for got, wanted in zip(shifted, (y + 1, z, c, t + 2), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def broken(net, **changes):
    from dataclasses import replace

    return replace(plan_by_hand(net, {"body_w": Form.STATIC}, FEED), **changes)


def test_plans_that_do_not_fit_the_model_are_refused(net):
    scheme = QuantScheme.parse("int8/channel")
    cases = [
        {"weights": {"nothing": Keep("by hand")}},
        {"weights": {"table": Quantize(Form.STATIC, scheme)}},
        {"weights": {"body_b": Quantize(Form.FOLDED, scheme)}},
        {"activations": {"nothing": ActivationPlan(1.0, 0)}},
    ]
    for changes in cases:
        plan = broken(net, **changes)
        assert isinstance(plan, CompressionPlan)
        with pytest.raises(RecipeError, match="plan"):
            apply_plan(plan, net.clone())


@pytest.mark.parametrize(
    ("scheme", "bits", "opset"),
    [
        ("int8/channel", None, 13),
        ("int4/block32", None, 21),
        ("int8/block64", None, 21),
        ("int8/channel", 4.0, 21),
        ("log4", None, 13),
    ],
)
def test_models_of_products_are_raised_to_the_operator_set_of_their_kernels(scheme, bits, opset, tmp_path):
    head = '<ir_version: 7, opset_import: ["": 13]> net (int64[n] i) => (float[n, 32] y)'
    text = f"{head} {{ x = Gather (table, i) \n y = MatMul (x, w) }}"
    recipe, weights = Recipe(weights=parse_scheme(scheme), bits=bits), {"table": (500, 64), "w": (64, 32)}
    model = prepared_from(load(tmp_path, text, weights), recipe)
    assert model.opset == opset
    assert prepared_from(load(tmp_path, text, weights), recipe, opset=15).opset == 15, "a plan says which"


def test_models_of_convolutions_stay_what_older_runtimes_know(tmp_path):
    text = '<ir_version: 7, opset_import: ["": 13]> net (float[n, 8, 9, 9] x) => (float[n, c, h, v] y) { y = Conv (x, w) }'
    assert (
        prepared_from(load(tmp_path, text, {"w": (16, 8, 3, 3)}), Recipe(weights=parse_scheme("int4/block32"))).opset == 13
    )
