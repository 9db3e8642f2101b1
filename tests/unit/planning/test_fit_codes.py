"""Codes fitted over whole models: better than rounding alone, each layer on its own inputs, and in bounded time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from text_models import draw, prepared, prepared_from

from qcompress.calibrate.gram import GramAccumulator, Place, Sampling
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import CalibrationError
from qcompress.graph import Model, extend, load_model
from qcompress.graph.edit import set_constant
from qcompress.operators import find_layers
from qcompress.planning.readings import readings_of
from qcompress.planning.rounding import fit_codes
from qcompress.planning.shelf import Shelf
from qcompress.planning.walk import Settled, WalkSettings
from qcompress.quantize import Evidence, Layout, fit_weight, quantize_weight
from qcompress.quantize.align import align
from qcompress.rewrite.bias import shift_biases
from qcompress.runtime import Session, open_session
from qcompress.types import Array, CodebookTensor, EncodedTensor, Feed, Form, QuantScheme, Rounding, parse_scheme

SAMPLES = Path(__file__).resolve().parents[3] / "sample_models"
HEADER = '<ir_version: 8, opset_import: ["": 17]>'
CHAIN = f"""{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{
    a = MatMul (x, w1) \n ra = Relu (a)
    b = MatMul (ra, w2) \n rb = Relu (b)
    y = MatMul (rb, w3)
}}"""
CHAIN_WEIGHTS: Mapping[str, Array | tuple[int, ...]] = {"w1": (16, 16), "w2": (16, 16), "w3": (16, 16)}
TIED = f"""{HEADER} net (int64[n, 6] tokens) => (float[n, 6, 40] scores) {{
    e = Gather (table, tokens)
    h = MatMul (e, w1)
    g = Tanh (h)
    k = MatMul (g, w1)
    r = Add (e, k)
    t = Transpose <perm = [1, 0]> (table)
    scores = MatMul (r, t)
}}"""
BRANCHES = f"""{HEADER} net (float[n, 16] x, bool c) => (float[n, 12] y) {{
    v = Abs (x)
    before = MatMul (v, outer)
    s = Sigmoid (before)
    z = If (c) <
      then_branch = then () => (float[n, 12] o) {{ [m] h = MatMul (v, w) \n o = Add (h, s) }},
      else_branch = other () => (float[n, 12] o) {{ [m] h = MatMul (x, outer) \n o = Mul (h, before) }}
    >
    last = MatMul (z, w2)
    y = Add (last, s)
}}"""
RESIDUAL = f"""{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{
    a = MatMul (x, w1)
    r = Add (a, x)
    h = MatMul (r, w2)
    g = Relu (h)
    k = MatMul (g, w3)
    b = Add (k, bias)
    y = Add (r, b)
}}"""
COMPUTED = f"""{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{
    h = MatMul (x, w1) \n r = Relu (h)
    k = Sin (c)
    a = MatMul (r, w2) \n b = Add (a, k)
    s = ReduceMean <keepdims = 0> (h)
    d = MatMul (b, w3) \n y = Add (d, s)
}}"""
LEFT = f"""{HEADER} net (float[16, n] x) => (float[12, n] y) {{ y = MatMul (w, x) }}"""


@dataclass(frozen=True)
class Samples:
    """Feeds as a dataset gives them."""

    feeds: Sequence[Feed]
    size: int = 1

    @dataclass(frozen=True)
    class One:
        feed: Feed
        samples: int

    def batches(self) -> Iterator[One]:
        return (self.One(feed, self.size) for feed in self.feeds)


def rows(count: int, size: int = 8, width: int = 16) -> Samples:
    mixed = draw("mix", width, width) + 0.3  # correlated columns: that is what fitting lives on
    return Samples([{"x": draw(f"feed {index}", size, width) @ mixed * 3.0} for index in range(count)], size)


def plan_for(model: Model, scheme: str, rounding: Rounding = Rounding.FITTED, most: int = 100) -> CompressionPlan:
    decision = Quantize(Form.FOLDED, parse_scheme(scheme), rounding=rounding)
    able = [layer.name for layer in find_layers(model) if layer.forms][:most]
    weights = {layer.name: decision if layer.name in able else Keep("not wanted") for layer in find_layers(model)}
    return CompressionPlan("", "", weights, QuantScheme(signed=False, symmetric=False))


def settled(model: Model, plan: CompressionPlan, data: Samples, **settings: object) -> dict[str, Settled]:
    chosen = WalkSettings(threads=1, **settings)  # type: ignore[arg-type]
    return fit_codes(model, find_layers(model), plan, data, chosen)


def fitted(model: Model, plan: CompressionPlan, data: Samples, **settings: object) -> dict[str, EncodedTensor]:
    return {name: item.tensor for name, item in settled(model, plan, data, **settings).items()}


def with_codes(model: Model, codes: Mapping[str, EncodedTensor | Settled]) -> Model:
    changed = model.clone()
    for graph in changed.ir.graphs():
        for name, value in graph.initializers.items():
            if name in codes:
                item = codes[name]
                set_constant(value, (item.tensor if isinstance(item, Settled) else item).dequantize())
    shifts = [item.shifts for item in codes.values() if isinstance(item, Settled)]
    shift_biases(changed, {node: shift for found in shifts for node, shift in found.items()})
    return changed


def outputs(model: Model, feed: Feed, names: Sequence[str] = ()) -> dict[str, Array]:
    return open_session(extend(model, [], {}, names or [output.name for output in model.outputs])).run(feed)


def error(model: Model, codes: Mapping[str, EncodedTensor | Settled], feed: Feed) -> float:
    exact, found = outputs(model, feed), outputs(with_codes(model, codes), feed)
    return sum(float(np.square(exact[name] - found[name]).mean() / exact[name].var()) for name in exact)


def same(first: Mapping[str, EncodedTensor], second: Mapping[str, EncodedTensor]) -> bool:
    assert first.keys() == second.keys()
    return all(first[name].dequantize().tobytes() == second[name].dequantize().tobytes() for name in first)


def simply(model: Model, plan: CompressionPlan, rounding: Rounding) -> dict[str, EncodedTensor]:
    """Every weight rounded without looking at any other, nor at data."""
    found: dict[str, EncodedTensor] = {}
    for layer in find_layers(model):
        decision = plan.weights[layer.name]
        if isinstance(decision, Quantize):
            found[layer.name] = fit_weight(layer.array, layer.scheme(decision.scheme), rounding, Evidence(Layout.TABLE))
    return found


@pytest.fixture(scope="module")
def digits() -> tuple[Model, Samples, Feed]:
    model = prepared_from(load_model(SAMPLES / "digits_cnn.onnx"))
    images = np.load(SAMPLES / "digits_cnn.calib.npz")["image"]
    feeds = [{"image": images[start : start + 16]} for start in range(0, 256, 16)]
    return model, Samples(feeds, 16), {"image": np.load(SAMPLES / "digits_cnn.eval.npz")["image"][:500]}


@pytest.mark.parametrize("bits", [3, 4])
def test_fitted_codes_of_a_trained_model_are_better_than_rounded_ones(
    bits: int, digits: tuple[Model, Samples, Feed]
) -> None:
    model, data, fresh = digits
    plan = plan_for(model, f"int{bits}/channel", most=6)  # all of them take long
    codes = settled(model, plan, data)
    assert codes.keys() == {name for name, item in plan.weights.items() if isinstance(item, Quantize)}
    found = error(model, codes, fresh)
    for rounding in (Rounding.NEAREST, Rounding.CLIP):
        assert found < 0.7 * error(model, simply(model, plan, rounding), fresh)
    alone = error(model, fitted(model, plan, data, sequential=False), fresh)
    assert found < 0.7 * alone  # layers make up for the errors of those before them


def test_every_layer_is_fitted_on_what_the_float_model_gives_it(tmp_path: Path) -> None:
    model, data = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS), rows(12)
    plan = plan_for(model, "int3/channel")
    codes = fitted(model, plan, data, sequential=False)
    assert same(codes, by_hand(model, plan, data, codes={}))


def test_every_layer_is_fitted_on_what_the_layers_before_it_give(tmp_path: Path) -> None:
    model, data = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS), rows(12)
    plan = plan_for(model, "int3/channel")
    codes = fitted(model, plan, data)
    assert same(codes, by_hand(model, plan, data, codes))
    assert not same(codes, fitted(model, plan, data, sequential=False))


def test_the_last_layer_of_a_residual_block_makes_up_for_what_the_sum_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"w1": (16, 16), "w2": (16, 64), "w3": (64, 16), "bias": (16,)}
    model, data = prepared(tmp_path, RESIDUAL, wide), rows(40)
    besides = {layer.name: readings_of(layer).nodes[0].beside for layer in find_layers(model) if layer.forms}
    assert besides == {"w1": "x", "w2": "", "w3": "r"}
    plan = plan_for(model, "int8/channel")
    coarse = Quantize(Form.FOLDED, parse_scheme("int2/channel"), rounding=Rounding.CLIP)
    fine = Quantize(Form.FOLDED, parse_scheme("int6/channel"), rounding=Rounding.FITTED)
    plan = CompressionPlan("", "", {**plan.weights, "w1": coarse, "w2": fine, "w3": fine}, plan.activation_scheme)
    first = next(layer for layer in find_layers(model) if layer.name == "w1")
    stored = {"w1": quantize_weight(first.array, QuantScheme.parse("int2/channel").on_axis(1))}
    fresh = {"x": np.concatenate([feed["x"] for feed in rows(60).feeds[40:]])}
    with_it = error(model, stored | fitted(model, plan, data), fresh)
    monkeypatch.setattr("qcompress.planning.readings._beside", lambda node: "")
    assert with_it < 0.8 * error(model, stored | fitted(model, plan, data), fresh)


def test_what_is_added_may_be_a_computed_constant_or_a_single_number(tmp_path: Path) -> None:
    model = prepared(tmp_path, COMPUTED, {"w1": (16, 16), "w2": (16, 16), "w3": (16, 16), "c": (16,)})
    assert fitted(model, plan_for(model, "int3/channel", most=3), rows(12)).keys() == {"w1", "w2", "w3"}


def test_a_scaled_product_makes_up_for_nothing_beside_it(tmp_path: Path) -> None:
    text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{ a = Gemm <alpha = 0.5> (x, w1) \n y = Add (a, x) }}"
    (layer,) = (layer for layer in find_layers(prepared(tmp_path, text, {"w1": (16, 16)})) if layer.forms)
    assert readings_of(layer).nodes[0].beside == ""


def test_biases_give_back_the_means_of_outputs(tmp_path: Path) -> None:
    body = "h = Gemm (x, w1, b1) \n r = Relu (h) \n y = Gemm (r, w2, b2)"
    text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{ {body} }}"
    model = prepared(tmp_path, text, {"w1": (16, 16), "b1": (16,), "w2": (16, 16), "b2": (16,)})
    data, plan = rows(24), plan_for(model, "int2/channel")
    seen = {"x": np.concatenate([feed["x"] for feed in data.feeds])}
    missed = {}
    for center in (True, False):
        found = settled(model, replace(plan, center=center), data)
        assert all(bool(item.shifts) is center for item in found.values())
        exact, changed = (outputs(this, seen)["y"] for this in (model, with_codes(model, found)))
        missed[center] = np.abs((changed - exact).mean(axis=0)).max() / exact.std()
    assert missed[True] < 1e-4
    assert missed[False] > 1e-3


def test_what_is_rounded_without_sequence_leaves_biases_to_others(tmp_path: Path) -> None:
    text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{ y = Gemm (x, w1, b1) }}"
    model = prepared(tmp_path, text, {"w1": (16, 16), "b1": (16,)})
    found = settled(model, plan_for(model, "int3/channel"), rows(12), sequential=False)
    assert not found["w1"].shifts


def test_errors_of_weights_that_are_not_fitted_are_passed_on_too(tmp_path: Path) -> None:
    model, data = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS), rows(12)
    rounded = Quantize(Form.FOLDED, parse_scheme("int2/channel"), rounding=Rounding.CLIP)
    plan = plan_for(model, "int3/channel")
    mixed = CompressionPlan("", "", {**plan.weights, "w1": rounded}, plan.activation_scheme)
    codes = fitted(model, mixed, data)
    assert codes.keys() == {"w2", "w3"}
    layer = next(layer for layer in find_layers(model) if layer.name == "w1")
    first = quantize_weight(layer.array, QuantScheme.parse("int2/channel").on_axis(1))
    assert same(codes, by_hand(model, mixed, data, {**codes, "w1": first}))


def by_hand(
    model: Model, plan: CompressionPlan, data: Samples, codes: Mapping[str, EncodedTensor]
) -> dict[str, EncodedTensor]:
    """Every layer fitted on its input in the whole model with ``codes`` for all weights (its own makes no difference).

    With any codes it aims at its float outputs.
    """
    changed, found = with_codes(model, codes), {}
    for layer in find_layers(model):
        decision = plan.weights[layer.name]
        if not isinstance(decision, Quantize) or decision.rounding is not Rounding.FITTED:
            continue
        uses = readings_of(layer)
        accumulator = GramAccumulator(uses.nodes[0].rows, Sampling(len(data.feeds) * data.size))
        for index, feed in enumerate(data.feeds):
            for reading in uses.nodes:
                x, exact = (inputs(this, feed, reading.tensor) for this in (changed, model))
                accumulator.add(x, reading.rows, Place(index * data.size, data.size), exact if codes else None)
        evidence = Evidence(uses.layout, uses.groups, accumulator.gram(""))
        drift = accumulator.drift()
        weight = layer.array if drift is None else align(layer.array, evidence, drift)
        found[layer.name] = fit_weight(weight, layer.scheme(decision.scheme), Rounding.FITTED, evidence)
    return found


def inputs(model: Model, feed: Feed, tensor: str) -> Array:
    return feed[tensor] if tensor in feed else outputs(model, feed, [tensor])[tensor]


@pytest.mark.parametrize("sequential", [True, False])
def test_memory_does_not_change_the_codes(sequential: bool, digits: tuple[Model, Samples, Feed]) -> None:
    model, data, _ = digits
    few, plan = Samples(data.feeds[:4], data.size), plan_for(model, "int4/channel", most=4)
    in_memory = fitted(model, plan, few, sequential=sequential)
    assert same(in_memory, fitted(model, plan, few, sequential=sequential, memory_bytes=100_000))
    assert same(in_memory, fitted(model, plan, few, sequential=sequential))


@pytest.mark.parametrize("sequential", [True, False])
def test_time_is_linear_in_layers(sequential: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    original = Session.run

    def counted(self: Session, feed: Feed, names: Sequence[str] | None = None) -> dict[str, Array]:
        runs[-1] += 1
        return original(self, feed, names)

    monkeypatch.setattr(Session, "run", counted)
    data = rows(3)
    for layers in (4, 8, 16):
        lines = "\n".join(
            f"a{index} = MatMul (b{index}, w{index}) \n b{index + 1} = Relu (a{index})" for index in range(layers)
        )
        text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{ b0 = Abs (x) \n {lines} \n y = Neg (b{layers}) }}"
        folder = tmp_path / str(layers)
        folder.mkdir()
        model = prepared(folder, text, {f"w{index}": (16, 16) for index in range(layers)})
        runs.append(0)
        assert len(fitted(model, plan_for(model, "int4/channel"), data, sequential=sequential)) == layers
        assert runs[-1] <= 2 * layers * len(data.feeds) + 1
    assert runs[2] - runs[1] == 2 * (runs[1] - runs[0])


def test_a_shared_weight_is_fitted_on_the_rows_of_all_its_uses(tmp_path: Path) -> None:
    model = prepared(tmp_path, TIED, {"table": draw("table", 40, 16) * 8.0, "w1": (16, 16)})
    tokens = [np.random.default_rng(index).integers(0, 40, (4, 6)) for index in range(8)]
    data = Samples([{"tokens": item} for item in tokens], 4)
    layers = {layer.name: layer for layer in find_layers(model)}
    assert [reading.tensor for reading in readings_of(layers["w1"]).nodes] == ["e", "g"]
    table = readings_of(layers["table"])  # looked up, and multiplied through a Transpose
    assert (table.layout, [reading.tensor for reading in table.nodes]) == (Layout.OUT_IN, ["r"])
    plan = plan_for(model, "int3/channel")
    codes = fitted(model, plan, data, sequential=False)
    assert same(codes, by_hand(model, plan, data, {}))
    sequential = fitted(model, plan, data)
    assert sequential.keys() == codes.keys()
    assert error(model, sequential, data.feeds[0]) < error(model, simply(model, plan, Rounding.NEAREST), data.feeds[0])


def test_weights_in_bodies_are_fitted_without_correlations(tmp_path: Path) -> None:
    model = prepared(tmp_path, BRANCHES, {"then/w": (16, 12), "outer": (16, 12), "w2": (12, 12)})
    data = Samples([{"x": draw(f"x{index}", 5, 16), "c": np.array(index % 2 == 0)} for index in range(8)])
    plan = plan_for(model, "int4/channel")
    found = {layer.name: readings_of(layer) for layer in find_layers(model)}
    assert not found["w"].nodes
    assert [reading.tensor for reading in found["outer"].nodes] == ["v"]  # the other use is in a body
    codes = fitted(model, plan, data)
    assert codes.keys() == {"w", "outer", "w2"}
    assert error(model, codes, data.feeds[1]) < 0.1


def test_a_weight_on_the_left_and_plans_without_fitting_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("nothing has to be run")

    monkeypatch.setattr(Session, "run", refused)
    model = prepared(tmp_path, LEFT, {"w": (12, 16)})
    assert readings_of(find_layers(model)[0]).layout is Layout.OUT_IN
    assert fitted(model, plan_for(model, "int4/channel"), rows(1)).keys() == {"w"}
    for scheme, rounding in (("int4/channel", Rounding.CLIP), ("int4/channel", Rounding.NEAREST), ("int8", Rounding.FITTED)):
        assert fitted(model, plan_for(model, scheme, rounding), rows(1)) == {}
    assert fitted(model, plan_for(model, "uint4/asym/channel", Rounding.HQQ), rows(1)).keys() == {"w"}


def test_a_codebook_is_weighted_with_the_inputs(tmp_path: Path) -> None:
    model, data = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS), rows(12)
    scaled = Samples([{"x": feed["x"] * np.where(np.arange(16) < 4, 50.0, 0.01).astype(np.float32)} for feed in data.feeds])
    plan = plan_for(model, "codebook16", Rounding.CLIP)
    codes = fitted(model, plan, scaled)
    assert all(isinstance(tensor, CodebookTensor) for tensor in codes.values())
    weight = {layer.name: layer.array for layer in find_layers(model)}["w1"]
    errors = np.square(codes["w1"].dequantize() - weight).mean(axis=1)
    assert errors[:4].mean() < 0.25 * errors[4:].mean()


def test_nan_in_front_of_a_layer_is_an_error(tmp_path: Path) -> None:
    text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] y) {{ hidden = Sqrt (x) \n y = MatMul (hidden, w) }}"
    model = prepared(tmp_path, text, {"w": (16, 16)})
    with pytest.raises(CalibrationError, match="hidden"):
        fitted(model, plan_for(model, "int4/channel"), rows(2))


def test_codebooks_need_no_data(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    assert fitted(model, plan_for(model, "codebook16", Rounding.CLIP), Samples([])).keys() == {"w1", "w2", "w3"}


def test_one_sample_is_enough(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    assert fitted(model, plan_for(model, "int4/channel"), rows(1, size=1)).keys() == {"w1", "w2", "w3"}


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = prepared(tmp_path, CHAIN, CHAIN_WEIGHTS)
    before = model.serialize()
    fitted(model, plan_for(model, "int4/channel"), rows(4))
    assert model.serialize() == before


def test_what_does_not_fit_in_memory_comes_back_from_files(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 100)
    shelf.add({})
    feed = 0
    arrays = {
        "small": np.arange(10, dtype=np.int64),
        "large": draw("large", 5, 6),
        "text": np.array(["a", "bc"], dtype=object),
    }
    for name, array in arrays.items():
        shelf.put(feed, name, array)
    assert len(list(tmp_path.iterdir())) == 1
    for name, array in shelf.take(feed, list(arrays)).items():
        np.testing.assert_array_equal(array, arrays[name])
    shelf.keep_only(feed, {"text"})
    assert not list(tmp_path.iterdir())
    assert shelf.take(feed, ["text"]).keys() == {"text"}
    shelf.put(feed, "again", np.zeros(10, dtype=np.int64))  # what was forgotten makes room
    assert not list(tmp_path.iterdir())
