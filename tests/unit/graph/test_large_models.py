"""Weights stay in files: mapped when read, spilled when made, streamed when written; small limits stand for large models."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from text_models import assert_close, draw, load, proto_of, run

from qcompress.calibrate import CalibrationSettings, collect, observe_shapes
from qcompress.data import Batch
from qcompress.errors import ModelError, OutputError
from qcompress.graph import Model, extend, load_model, message, model_files, save_model, weight_bytes
from qcompress.graph.edit import Editor, constant_array
from qcompress.graph.opset import raise_opset
from qcompress.graph.saving import saved_bytes
from qcompress.graph.tensors import IN_MEMORY, spilled, stored_tensors
from qcompress.graph.wire import field_header, skim
from qcompress.graph.writing import PAGE, WORD
from qcompress.pipeline import RunOptions, compare_models, compress, inspect_model, prepared_from
from qcompress.progress import SILENT
from qcompress.runtime import Optimization, SessionSettings, open_session
from qcompress.types import NodeSpec, StatisticsNeeds

NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[n, 160] x, bool c) => (float[n, 160] y) {
    h = MatMul (x, w1)
    a = Relu (h)
    g = Gemm (a, w2, b)
    y = If (c) <
      then_branch = then () => (float[n, 160] o) { o = MatMul (g, w3) },
      else_branch = other () => (float[n, 160] p) { p = Identity (g) }
    >
}"""
WEIGHTS = {"w1": (160, 160), "w2": (160, 160), "b": (160,), "then/w3": (160, 160)}
FEED = {"x": draw("x", 4, 160), "c": np.array(True)}


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is too large for one message."""
    monkeypatch.setattr("qcompress.graph.writing.EMBEDDED_LIMIT", 1000)


def by_path(path: Path, level: Optimization = Optimization.ALL) -> list[np.ndarray]:
    return list(open_session(path, SessionSettings(1, level)).run(FEED).values())


def in_files(model: Model) -> set[str]:
    """Names of the tensors whose bytes are not in memory."""
    return {tensor.name or "" for tensor in stored_tensors(model.ir) if hasattr(tensor, "location")}


def test_weights_in_the_file_itself_are_mapped(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    assert in_files(model) == {"w1", "w2"}  # those of bodies are read
    for name in ("w1", "w2", "b"):
        np.testing.assert_array_equal(constant_array(model.graph.initializers[name]), draw(name, *WEIGHTS[name]))
    assert sum(weight_bytes(model.path).values()) == sum(4 * int(np.prod(shape)) for shape in WEIGHTS.values())
    assert model_files(model.path) == [model.path]


def test_a_written_model_is_the_model_that_was_read(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    save_model(model, tmp_path / "again.onnx")
    again, original = onnx.load(tmp_path / "again.onnx"), onnx.load(model.path)
    assert list(again.graph.initializer) == list(original.graph.initializer)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in original.graph.node]
    onnx.checker.check_model(again, full_check=True)
    assert_close(by_path(tmp_path / "again.onnx"), by_path(model.path))
    assert model.serialize() == (tmp_path / "again.onnx").read_bytes()
    assert saved_bytes(model) == (tmp_path / "again.onnx").stat().st_size
    assert abs((tmp_path / "again.onnx").stat().st_size - model.path.stat().st_size) < 128


@pytest.mark.usefixtures("small_limit")
def test_large_models_are_written_with_external_data(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    expected = by_path(model.path)
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        save_model(model, folder / "large.onnx")
        assert sorted(file.name for file in folder.iterdir()) == ["large.onnx", "large.onnx.data"]
    for file in ("large.onnx", "large.onnx.data"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    written = tmp_path / "a" / "large.onnx"
    assert written.stat().st_size < 4096
    proto = onnx.load(written, load_external_data=False)
    body = next(node for node in proto.graph.node if node.op_type == "If").attribute[0].g
    for tensor in [*proto.graph.initializer, *body.initializer]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == "large.onnx.data"
        assert int(entries["offset"]) % (PAGE if int(entries["length"]) >= PAGE else WORD) == 0
    for level in Optimization:
        assert_close(by_path(written, level), expected)
    again = load_model(written)
    assert in_files(again) == {"w1", "w2", "b", "w3"}
    assert_close(by_path(written), expected)
    with pytest.raises(ModelError, match="do not fit into one message"):
        again.serialize()


@pytest.mark.usefixtures("small_limit")
def test_a_failed_write_leaves_the_old_files(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "large.onnx"
    save_model(model, target)
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    model.path.unlink()  # its weights cannot be copied any more
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(model, target)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.usefixtures("small_limit")
def test_a_large_model_takes_the_place_of_another(tmp_path):
    target = tmp_path / "large.onnx"
    save_model(load(tmp_path, NET, WEIGHTS), target)
    other = {name: draw(f"{name} other", *shape) for name, shape in WEIGHTS.items()}
    save_model(load(tmp_path, NET, other), target)
    np.testing.assert_array_equal(constant_array(load_model(target).graph.initializers["w1"]), other["w1"])


def test_the_runtime_reads_weights_where_they_lie(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    content = message(model)
    assert len(content) < 4 * 160 * 160 * 2  # only the body's weight is in it
    assert_close(list(open_session(content).run(FEED).values()), by_path(model.path))
    inner = open_session(extend(model, [], {}, ["h"])).run(FEED)["h"]
    np.testing.assert_allclose(inner, FEED["x"] @ draw("w1", 160, 160), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("nodes", [15_000, 0])
def test_calibration_of_a_large_model_is_that_of_a_small_one(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr("qcompress.calibrate.shapes.LONG_GRAPH", nodes)  # the runtime takes those as they are
    small = prepared_from(load(tmp_path, NET, WEIGHTS))
    save_model(load(tmp_path, NET, WEIGHTS), tmp_path / "large.onnx")
    large = prepared_from(load_model(tmp_path / "large.onnx"))
    needs = StatisticsNeeds(ranges=frozenset({"x", "h", "g"}), moments={"a": 1})
    found = [collect(model, needs, [Batch(FEED, {}, 4)], CalibrationSettings(threads=1), SILENT) for model in (small, large)]
    assert found[0].ranges == found[1].ranges
    np.testing.assert_array_equal(found[0].second_moments["a"], found[1].second_moments["a"])
    assert observe_shapes(large, FEED)["h"] == (4, 160)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("recipe", ["int8-weights", "int8-dynamic", "int8-static", "int8"])
def test_large_models_are_compressed_and_compared(recipe, tmp_path, mlp):
    save_model(load_model(mlp.model), tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").exists()
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "small.onnx"
    options = RunOptions(threads=1, latency_seconds=0.2)
    report = compress(tmp_path / "large.onnx", target, recipe, str(mlp.calib), options=options)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["small.onnx", "small.onnx.data"]
    assert report.size.ratio < 0.6
    compared = compare_models(tmp_path / "large.onnx", target, str(mlp.eval), options=options)
    assert compared.accuracy is not None
    assert all(item.cosine is None or item.cosine.value > 0.99 for item in compared.accuracy.agreement)
    assert inspect_model(tmp_path / "large.onnx").weights


def test_made_weights_go_to_files_that_vanish_with_them(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    array = draw("made", 300, 300)
    value = Editor(model.graph).constant("made", array)
    path = Path(value.const_value.location)
    assert path.stat().st_size == array.nbytes > IN_MEMORY
    np.testing.assert_array_equal(constant_array(value), array)
    copy = model.clone()
    del model, value
    gc.collect()
    assert path.exists()
    del copy
    gc.collect()
    assert not path.exists()


def test_large_constants_of_an_extended_model_stay_in_files(tmp_path):
    model = load(tmp_path, NET, WEIGHTS)
    array = draw("more", 160, 300)
    constant = spilled(array)
    np.testing.assert_array_equal(constant, array)
    path = Path(constant.filename)
    node = NodeSpec("MatMul", ("x", "more"), ("z",))
    content = extend(model, [node], {"more": constant}, ["z"])
    assert len(content) < array.nbytes
    np.testing.assert_allclose(open_session(content).run(FEED)["z"], FEED["x"] @ array, rtol=1e-4, atol=1e-5)
    turned = extend(model, [node], {"more": spilled(array.T.copy()).T}, ["z"])  # a view is copied
    np.testing.assert_allclose(open_session(turned).run(FEED)["z"], FEED["x"] @ array, rtol=1e-4, atol=1e-5)
    del constant
    gc.collect()
    assert not path.exists()
    assert not isinstance(spilled(array[:2]), np.memmap)


def test_four_bit_weights_survive_their_files(tmp_path):
    import ml_dtypes

    model = load(tmp_path, NET, WEIGHTS)
    codes = (np.arange(600 * 600).reshape(600, 600) % 15 - 7).astype(ml_dtypes.int4)
    value = Editor(model.graph).constant("codes", codes)
    assert Path(value.const_value.location).stat().st_size == codes.size // 2
    np.testing.assert_array_equal(constant_array(value).astype(np.int8), codes.astype(np.int8))
    assert (
        onnx.numpy_helper.to_array(
            next(tensor for tensor in onnx.load_from_string(model.serialize()).graph.initializer if tensor.name == "codes")
        )
        .astype(np.int8)
        .tolist()
        == codes.astype(np.int8).tolist()
    )


def test_compressing_holds_one_weight_at_a_time(tmp_path):
    layers, side = 24, 1024
    steps = "\n".join(f"t{i} = MatMul (t{i - 1}, w{i})" for i in range(1, layers + 1)).replace("(t0,", "(x,")
    text = f'<ir_version: 8, opset_import: ["": 17]> net (float[n, {side}] x) => (float[n, {side}] t{layers}) {{ {steps} }}'
    path = tmp_path / "deep.onnx"
    path.write_bytes(proto_of(text, {f"w{i}": (side, side) for i in range(1, layers + 1)}).SerializeToString())
    compress(path, tmp_path / "warm.onnx", "int8-weights", options=RunOptions(threads=1, latency_seconds=0))
    tracemalloc.start()  # counts numpy's arrays too
    compress(path, tmp_path / "out.onnx", "int8-weights", options=RunOptions(threads=1, latency_seconds=0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    weight = 4 * side * side
    assert peak < 2 * weight + (12 << 20) < layers * weight / 4  # and not the codes of all of them


def test_the_operator_set_is_raised_without_the_weights(tmp_path):
    weights = {name: shape for name, shape in WEIGHTS.items() if "/" not in name}
    text = """<ir_version: 6, opset_import: ["": 11]> net (float[n, 160] x, bool c) => (float[n, 160] g)
    { h = MatMul (x, w1) \n a = Relu (h) \n s = Squeeze <axes = [0]> (row) \n e = Mul (a, s) \n g = Gemm (e, w2, b) }"""
    model = load(tmp_path, text, weights | {"row": (1, 160)})
    expected, order = run(model, FEED), list(model.graph.initializers)
    assert raise_opset(model, 13) == ""
    assert in_files(model) == {"w1", "w2"}
    assert [name for name in model.graph.initializers if name in order] == order
    assert [value.name for value in model.graph.inputs] == ["x", "c"]
    assert_close(run(model, FEED), expected)


def test_a_file_in_parts_and_a_damaged_file(tmp_path):
    content = proto_of(NET, WEIGHTS).SerializeToString()
    proto = onnx.ModelProto.FromString(content)
    moved = proto.graph.initializer.pop()
    rest = onnx.ModelProto()
    rest.graph.initializer.append(moved)
    path = tmp_path / "parts.onnx"
    path.write_bytes(proto.SerializeToString() + rest.SerializeToString())  # messages in a row are one message
    assert skim(path, 1) == (path.read_bytes(), [])
    assert_close(by_path(path), run(load_model(path), FEED))
    for cut in (10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ModelError):
            load_model(path)


def test_a_weight_with_bytes_missing_is_refused(tmp_path):
    proto = proto_of(NET, WEIGHTS)
    tensor = proto.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-4]
    path = tmp_path / "short.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="tensor 'w1' do not fit its shape and type"):
        load_model(path)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 1 << 20, 1 << 33])
def test_field_headers_are_those_of_protobuf(length):
    from google.protobuf.internal import encoder

    assert field_header(9, length) == encoder.TagBytes(9, 2) + encoder._VarintBytes(length)
