"""Statistics of whole models against numpy: exact extremes, moments, shapes, errors."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qcompress.calibrate import CalibrationSettings, MeansRequest, collect, collect_means, observe_shapes
from qcompress.calibrate.observers import LARGEST_RATIO, steps, values_per_sample
from qcompress.calibrate.values import may_be_nan, never_negative
from qcompress.errors import CalibrationError, ModelError
from qcompress.graph import load_model
from qcompress.graph.passes import prepare
from qcompress.progress import SILENT
from qcompress.recipe import RangeMethod
from qcompress.types import NodeSpec, StatisticsNeeds, TensorRange

MINMAX = CalibrationSettings(RangeMethod.MINMAX, threads=2)
TEXT = """
<ir_version: 8, opset_import: ["": {opset}]>
net (float[n, 3, h, w] x) => (float[n, 4, h, w] y) {{
  c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, weight)
  r = Relu (c)
  t = Transpose <perm = [0, 2, 3, 1]> (r)
  m = MatMul (t, square)
  y = Transpose <perm = [0, 3, 1, 2]> (m)
}}
"""


@dataclass(frozen=True)
class OneBatch:
    feed: dict[str, np.ndarray]
    samples: int


def batches(*arrays: np.ndarray, name: str = "x") -> list[OneBatch]:
    return [OneBatch({name: array}, len(array)) for array in arrays]


def images(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(0.5, 2.0, shape).astype(np.float32) for shape in shapes]


@pytest.fixture
def save(tmp_path: Path):
    def write(text: str, **weights: np.ndarray) -> Path:
        model = onnx.parser.parse_model(text)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def net(save, opset: int) -> Path:
    generator = np.random.default_rng(1)
    weight = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    return save(TEXT.format(opset=opset), weight=weight, square=generator.standard_normal((4, 4)).astype(np.float32))


def truth(path: Path, tensors: list[str], arrays: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Every value of the tensors, from the runtime itself."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(tensors, {"x": array}) for array in arrays]
    return {name: [run[index] for run in runs] for index, name in enumerate(tensors)}


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17, 18, 21])
def test_statistics_are_those_of_the_activations(save, opset):
    path = net(save, opset)
    arrays = images((1, 3, 8, 10), (1, 3, 20, 6), (4, 3, 8, 10))
    needs = StatisticsNeeds(frozenset({"x", "c", "r", "m"}), {"x": 1, "r": 1, "t": -1})
    found = collect(load_model(path), needs, batches(*arrays), MINMAX, SILENT)
    values = {"x": arrays, **truth(path, ["c", "r", "t", "m"], arrays)}
    for tensor in ("x", "c", "r", "m"):
        low = min(float(array.min()) for array in values[tensor])
        high = max(float(array.max()) for array in values[tensor])
        assert found.ranges[tensor].low == pytest.approx(min(low, 0.0), abs=1e-6)
        assert found.ranges[tensor].high == pytest.approx(high, rel=1e-6)
    for tensor, axis in {"x": 1, "r": 1, "t": -1}.items():
        flat = np.concatenate([np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) for array in values[tensor]])
        flat = flat.astype(np.float64)
        assert found.second_moments[tensor] == pytest.approx((flat**2).mean(0), rel=1e-5)
        assert found.second_moments[tensor].dtype == np.float64
    assert found.shapes["x"] == (1, 3, 8, 10)
    assert found.shapes["t"] == (1, 8, 10, 4)
    assert found.samples == 6


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("method", RangeMethod)
def test_a_large_tensor_keeps_exact_extremes_and_its_distribution(save, opset, method):
    path = net(save, opset)
    arrays = images((1, 3, 150, 130), (1, 3, 150, 130))
    arrays[1][0, 1, 77, 31] = 1000.0
    needs = StatisticsNeeds(frozenset({"x"}), {"x": 1})
    settings = CalibrationSettings(method, threads=1)
    found = collect(load_model(path), needs, batches(*arrays), settings, SILENT)
    exact = collect(load_model(path), needs, batches(*arrays), MINMAX, SILENT).ranges["x"]
    assert exact.high == 1000.0
    assert exact.low == min(array.min() for array in arrays)
    assert found.ranges["x"].high <= 1000.0
    if method == RangeMethod.ENTROPY:
        assert found.ranges["x"].high < 500.0
    if method == RangeMethod.MSE:  # the least of 117,000 h^2 / 255^2 / 12 + (1000 - h)^2
        assert found.ranges["x"].high == pytest.approx(870.0, abs=40.0)


def test_the_same_data_in_other_batches_give_the_same_ranges(save):
    path = net(save, 17)
    (data,) = images((12, 3, 6, 6))
    needs = StatisticsNeeds(frozenset({"x", "r"}))
    settings = CalibrationSettings(RangeMethod.MSE, threads=1)
    model = load_model(path)
    whole = collect(model, needs, batches(data), settings, SILENT)
    parts = collect(model, needs, batches(*np.split(data, 4)), settings, SILENT)
    assert whole.ranges["x"] == parts.ranges["x"]
    assert whole.ranges["r"].high == pytest.approx(parts.ranges["r"].high, rel=1e-5)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
@pytest.mark.parametrize("moments", [{}, {"x": 1}])
def test_what_is_not_finite_is_an_error_that_names_tensor_and_sample(save, value, word, moments):
    path = net(save, 17)
    arrays = images((2, 3, 70, 70), (1, 3, 70, 70))
    arrays[1][0, 2, 35, 41] = value  # one value, which the sub-sample misses
    needs = StatisticsNeeds(frozenset({"x"}), moments)
    with pytest.raises(CalibrationError, match=rf"'x' is .*{word}.* in sample 3 "):
        collect(load_model(path), needs, batches(*arrays), MINMAX, SILENT)


def test_nan_inside_the_model_is_named(save):
    path = save(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n, 5000] x) => (float[n, 5000] y) { l = Log (x) y = Relu (l) }'
    )
    data = np.ones((2, 5000), np.float32)
    data[1, 4321] = -1.0
    with pytest.raises(CalibrationError, match="'l' is NaN in samples 1 to 2 "):
        collect(load_model(path), StatisticsNeeds(frozenset({"l", "x"})), batches(data), MINMAX, SILENT)


def test_values_beyond_the_float32_sum_are_no_error(save):
    path = save('<ir_version: 8, opset_import: ["": 17]> g (float[n, 8] x) => (float[n, 8] y) { y = Neg (x) }')
    data = np.full((4, 8), 3e38, np.float32)
    found = collect(load_model(path), StatisticsNeeds(frozenset({"y"})), batches(data), MINMAX, SILENT)
    assert found.ranges["y"].low == float(np.float32(-3e38))


def test_float16_and_integer_tensors_are_observed_in_float(save):
    path = save(
        """<ir_version: 8, opset_import: ["": 17]> g (int64[n, 4] x) => (float16[n, 4] z) {
             z = Cast <to = 10> (x) }"""
    )
    data = np.arange(-4, 4).reshape(2, 4)
    found = collect(load_model(path), StatisticsNeeds(frozenset({"x", "z"}), {"z": -1}), batches(data), MINMAX, SILENT)
    assert (found.ranges["x"].low, found.ranges["x"].high) == (-4.0, 3.0)
    assert found.ranges["z"] == found.ranges["x"]
    assert found.second_moments["z"] == pytest.approx([8, 5, 4, 5])


def test_a_tensor_without_elements_has_a_shape_and_no_range(save):
    path = save(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n, m] x) => (float[n, k] y) { y = Concat <axis = 1> (x, x) }'
    )
    empty, full = np.zeros((1, 0), np.float32), np.array([[1.0, -2.0]], np.float32)
    model, needs = load_model(path), StatisticsNeeds(frozenset({"y"}))
    nothing = collect(model, needs, batches(empty), MINMAX, SILENT)
    assert not nothing.ranges
    assert nothing.shapes == {"y": (1, 0)}
    assert collect(model, needs, batches(empty, full), MINMAX, SILENT).ranges["y"].low == -2.0


def test_no_data_is_an_error(save):
    with pytest.raises(CalibrationError, match="no calibration data"):
        collect(load_model(net(save, 17)), StatisticsNeeds(frozenset({"x"})), [], MINMAX, SILENT)


def test_data_the_model_refuses_are_a_model_error(save):
    (wrong,) = images((1, 5, 8, 8))
    with pytest.raises(ModelError, match="failed to run"):
        collect(load_model(net(save, 17)), StatisticsNeeds(frozenset({"c"})), batches(wrong), MINMAX, SILENT)


def test_progress_counts_samples_and_batches_are_read_once_as_needed(save):
    events: list[object] = []

    class Listener:
        @contextmanager
        def stage(self, title, total=None, unit=""):
            events.append((title, total, unit))
            yield self

        def advance(self, amount=1):
            events.append(amount)

        def note(self, message):
            raise AssertionError(message)

    settings = CalibrationSettings(RangeMethod.MSE, threads=1, total=6)
    stream = iter(batches(*images((4, 3, 5, 5), (2, 3, 5, 5))))
    collect(load_model(net(save, 17)), StatisticsNeeds(frozenset({"x"})), stream, settings, Listener())
    assert events == [("Calibrating", 6, "samples"), 4, 2]


def test_means_of_added_layers_are_the_shift_that_an_error_of_the_weights_causes(save):
    path = net(save, 13)
    arrays = images((1, 3, 8, 10), (3, 3, 6, 6))
    error = np.random.default_rng(3).normal(0, 0.1, (4, 3, 3, 3)).astype(np.float32)
    attributes = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    request = MeansRequest([NodeSpec("Conv", ("x", "e"), ("shift",), attributes)], {"e": error}, {"shift": 1, "m": -1})
    found = collect_means(load_model(path), request, batches(*arrays), MINMAX, SILENT)
    model = onnx.load(path)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    values = truth(path, ["c", "m"], arrays)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight - error, "weight"))
    onnx.save(model, path)
    changed = truth(path, ["c"], arrays)
    difference = [before - after for before, after in zip(values["c"], changed["c"], strict=True)]
    expected = np.concatenate([np.moveaxis(array, 1, -1).reshape(-1, 4) for array in difference]).mean(0)
    assert found["shift"] == pytest.approx(expected, abs=1e-5)
    assert found["m"] == pytest.approx(np.concatenate([array.reshape(-1, 4) for array in values["m"]]).mean(0), abs=1e-5)


def test_the_model_is_left_as_it_was(save):
    model = load_model(net(save, 17))
    before = model.serialize()
    collect(model, StatisticsNeeds(frozenset({"r"}), {"r": 1}), batches(*images((1, 3, 4, 4))), MINMAX, SILENT)
    assert model.serialize() == before


@pytest.mark.parametrize("factor", [1, 32])
def test_steps_leave_no_more_values_than_wanted(factor):
    table = steps(factor)
    ratios = np.arange(LARGEST_RATIO)
    assert table[0] == 1
    assert np.all((ratios + 1) / table <= factor)
    assert not any(table[100 * factor] % prime == 0 for prime in (2, 3, 5, 7))


def test_nan_that_an_activation_hides_from_all_that_follows_is_still_named(save):
    path = save(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n, 5000] x) => (float[n, 5000] y) {
             l = Log (x) a = Add (l, l) r = Relu (a) y = Mul (r, r) }"""
    )
    data = np.ones((1, 5000), np.float32)
    data[0, 4321] = -1.0
    with pytest.raises(CalibrationError, match="'a' is NaN in sample 1 "):
        collect(load_model(path), StatisticsNeeds(frozenset({"a", "y"})), batches(data), MINMAX, SILENT)


def test_only_tensors_that_can_be_nan_are_summed(save):
    path = save(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n, 4] x, float[n, 4] d) => (float[n, 4] y) {
             a = Mul (x, x) b = Div (a, d) c = Relu (b) e = Sqrt (c) f = Neg (e) y = Add (f, a) }"""
    )
    model = load_model(path)
    assert may_be_nan(model, {"a", "b", "c", "f"}) == {"a", "b", "f"}
    assert may_be_nan(model, {"x", "d", "a", "b", "c", "y"}) == {"x", "d", "b", "y"}
    assert never_negative(model) == {"c"}


def test_the_range_of_a_tensor_that_is_never_negative_begins_at_zero(save):
    path = save(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n, 9000] x) => (float[n, 9000] y) {
             low = Constant <value_float = 0.0> () high = Constant <value_float = 6.0> () y = Clip (x, low, high) }"""
    )
    data = np.linspace(1.0, 9.0, 9000, dtype=np.float32)[None]
    found = collect(load_model(path), StatisticsNeeds(frozenset({"y"})), batches(data), MINMAX, SILENT)
    assert found.ranges["y"] == TensorRange(0.0, 6.0)


def test_prepared_models_whose_constants_were_lifted_are_observed(save):
    path = save(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n, 2] x) => (float[n, 2] y) {
             w = Constant <value = float[2, 2] named {2.0, 0.0, 0.0, 3.0}> () y = MatMul (x, w) }"""
    )
    model = load_model(path)
    prepare(model)
    found = collect(model, StatisticsNeeds(frozenset({"y"})), batches(np.ones((1, 2), np.float32)), MINMAX, SILENT)
    assert found.ranges["y"] == TensorRange(0.0, 3.0)


def test_feature_maps_are_observed_by_pooling_with_the_same_results(save):
    path = net(save, 17)
    arrays = images((1, 3, 40, 56), (1, 3, 40, 56), (1, 3, 24, 72))
    model = load_model(path)
    needs = StatisticsNeeds(frozenset({"x", "c", "r"}), {"x": 1, "r": 1})
    shapes = observe_shapes(model, {"x": arrays[0]})
    plain = collect(model, needs, batches(*arrays), MINMAX, SILENT)
    pooled = collect(model, needs, batches(*arrays), replace(MINMAX, shapes=shapes), SILENT)
    assert pooled.ranges == plain.ranges
    assert pooled.shapes == plain.shapes
    for tensor in ("x", "r"):
        np.testing.assert_allclose(pooled.second_moments[tensor], plain.second_moments[tensor], rtol=0.05)


@pytest.mark.parametrize(("samples", "values"), [(None, 1024), (2, 16384), (32, 4096), (1000, 1024)])
def test_few_samples_give_more_values_each(samples, values):
    assert values_per_sample(samples) == values


def test_a_rare_tail_in_few_samples_is_not_clipped_away(save):
    generator = np.random.default_rng(3)
    arrays = [generator.normal(0.0, 1.0, (1, 3, 256, 256)).astype(np.float32) for _ in range(4)]
    for array in arrays:  # a value in 4,000 holds nearly all of the energy
        array.reshape(-1)[generator.choice(array.size, array.size // 4000, replace=False)] = 300.0
    needs = StatisticsNeeds(frozenset({"x"}), {})
    settings = CalibrationSettings(threads=2, total=4)
    found = collect(load_model(net(save, 17)), needs, batches(*arrays), settings, SILENT)
    assert found.ranges["x"].high > 200.0
