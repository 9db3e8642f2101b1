"""Gram matrices against brute force: unfolded rows times the weight are what the runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qcompress.calibrate.gram import (
    GramAccumulator,
    PatchRows,
    Place,
    Sampling,
    VectorRows,
    Window,
    im2col_rows,
    rows_of,
    spaced,
)
from qcompress.errors import CalibrationError
from qcompress.graph import load_model
from qcompress.runtime import open_session
from qcompress.types import Array

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
CONVOLUTIONS = {
    "plain": ((2, 3, 9, 8), (4, 3, 3, 3), ""),
    "strided, padded unevenly": ((2, 3, 9, 8), (4, 3, 3, 2), "strides = [2, 3], pads = [1, 0, 2, 1]"),
    "dilated": ((1, 2, 12, 11), (4, 2, 3, 3), "dilations = [2, 3], pads = [2, 3, 2, 3]"),
    "same, upper": ((2, 3, 9, 8), (4, 3, 4, 3), 'auto_pad = "SAME_UPPER", strides = [2, 2]'),
    "same, lower": ((2, 3, 9, 8), (4, 3, 4, 3), 'auto_pad = "SAME_LOWER", strides = [2, 2]'),
    "valid": ((2, 3, 9, 8), (4, 3, 4, 3), 'auto_pad = "VALID"'),
    "grouped": ((2, 6, 7, 7), (4, 3, 3, 3), "group = 2, pads = [1, 1, 1, 1]"),
    "depthwise": ((2, 5, 7, 7), (5, 1, 3, 3), "group = 5, pads = [1, 1, 1, 1]"),
    "depthwise, twice as many": ((2, 3, 7, 7), (6, 1, 3, 3), "group = 3"),
    "in one dimension": ((2, 4, 15), (6, 2, 5), "group = 2, strides = [2], pads = [2, 2], dilations = [2]"),
    "in three dimensions": ((1, 2, 5, 6, 7), (3, 2, 3, 2, 3), "strides = [1, 2, 2], pads = [1, 0, 1, 1, 1, 1]"),
}


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(0.3, 1.0, shape).astype(np.float32)


def save(folder: Path, operator: str, x: Array, weight: Array) -> Path:
    def listed(shape: tuple[int, ...]) -> str:
        return ", ".join(map(str, shape))

    model = onnx.parser.parse_model(
        f"{HEADER} net (float[{listed(x.shape)}] x) => (float[{', '.join('abcde'[: x.ndim])}] y) {{ y = {operator} (x, w) }}"
    )
    model.graph.node[0].name = "layer"
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def gram_of(path: Path, x: Array, weight: Array, sampling: Sampling) -> tuple[Array, int]:
    (node,) = load_model(path).graph
    rows = rows_of(node, weight.shape)
    assert rows is not None
    accumulator = GramAccumulator(rows, sampling)
    accumulator.add(x, rows, Place(0, 1))
    found = accumulator.gram("x")
    assert found is not None
    return found.fit, found.rows


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_row_times_the_kernel_is_what_the_runtime_computes(name: str, tmp_path: Path) -> None:
    shape, kernel, attributes = CONVOLUTIONS[name]
    x, weight = drawn(*shape), drawn(*kernel)
    path = save(tmp_path, f"Conv <{attributes}>" if attributes else "Conv", x, weight)
    y = open_session(path).run({"x": x})["y"].astype(np.float64)
    gram, rows = gram_of(path, x, weight, Sampling(1, 0.0, rows=10**9))
    groups = gram.shape[0]
    assert rows == y.size // y.shape[1]
    flat = weight.reshape(groups, weight.shape[0] // groups, -1).astype(np.float64)
    expected = np.einsum("gok,gkl,gol->go", flat, gram, flat).ravel()  # E[y^2] of each output channel
    np.testing.assert_allclose(np.square(np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)).mean(1), expected, rtol=1e-5)
    pairs = np.einsum("gok,gkl,gpl->gop", flat, gram, flat)  # and of every pair of channels of a group
    outputs = np.moveaxis(y, 1, 0).reshape(groups, weight.shape[0] // groups, -1)
    np.testing.assert_allclose(np.matmul(outputs, outputs.transpose(0, 2, 1)) / rows, pairs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_chosen_rows_are_rows_of_all(name: str) -> None:
    shape, kernel, _ = CONVOLUTIONS[name]
    x, groups = drawn(*shape), shape[1] // kernel[1]
    window = Window(kernel[2:], pads=(1,) * 2 * len(kernel[2:]), auto_pad="NOTSET")
    total = PatchRows(window, groups, 1).count(x)
    every = im2col_rows(x, window, groups, np.arange(total))
    some = spaced(total, 7, 0.4)
    np.testing.assert_array_equal(im2col_rows(x, window, groups, some), every[:, some])


def test_padding_alone_is_a_row_of_zeros() -> None:
    window = Window((2, 2), pads=(2, 2, 0, 0))
    rows = im2col_rows(drawn(1, 1, 3, 3), window, 1, np.array([0]))
    np.testing.assert_array_equal(rows, np.zeros((1, 1, 4)))


@pytest.mark.parametrize(("operator", "shape", "kernel", "columns"), [
    ("MatMul", (2, 5, 7), (7, 3), 7),
    ("Gemm", (5, 7), (7, 3), 7),
    ("Gemm <transB = 1>", (5, 7), (3, 7), 7),
])  # fmt: skip
def test_products_read_the_vectors_of_their_input(
    operator: str, shape: tuple[int, ...], kernel: tuple[int, ...], columns: int, tmp_path: Path
) -> None:
    x, weight = drawn(*shape), drawn(*kernel)
    gram, rows = gram_of(save(tmp_path, operator, x, weight), x, weight, Sampling(1, 0.0))
    flat = x.reshape(-1, columns).astype(np.float64)
    assert rows == len(flat)
    np.testing.assert_allclose(gram, (flat.T @ flat / len(flat))[np.newaxis], rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_reads_pixels(groups: int, tmp_path: Path) -> None:
    x, weight = drawn(2, 4, 5, 5), drawn(4, 3, 2, 2)
    attributes = f"<group = {groups}, strides = [2, 2]>"  # stride = kernel: each pixel makes outputs of its own
    path = save(tmp_path, f"ConvTranspose {attributes}", x, weight)
    y = open_session(path).run({"x": x})["y"].astype(np.float64)
    gram, rows = gram_of(path, x, weight, Sampling(1, 0.0))
    assert rows == 50
    flat = weight.reshape(groups, 4 // groups, -1).astype(np.float64)
    expected = np.einsum("gko,gkl,glo->", flat, gram, flat)  # over all outputs that a pixel makes
    np.testing.assert_allclose(np.square(y).sum() / rows, expected, rtol=1e-5)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (turned,) = load_model(save(tmp_path, "Gemm <transA = 1>", drawn(7, 5), drawn(7, 3))).graph
    assert rows_of(turned, (7, 3)) is None
    (batched,) = load_model(save(tmp_path, "MatMul", drawn(2, 5, 7), drawn(2, 7, 3))).graph
    assert rows_of(batched, (2, 7, 3)) is None
    (through_transpose,) = load_model(save(tmp_path, "MatMul", drawn(5, 7), drawn(7, 3))).graph
    found = rows_of(through_transpose, (3, 7), transposed=True)
    assert found is not None
    assert found.columns == 7


def test_whole_samples_are_held_out_however_they_are_fed() -> None:
    x, rows = drawn(12, 30, 4), VectorRows(4)
    sampling = Sampling(12, 0.25, rows=90)
    together, apart = GramAccumulator(rows, sampling), GramAccumulator(rows, sampling)
    for start in range(0, 12, 6):
        together.add(x[start : start + 6], rows, Place(start, 6))
    for sample in range(12):
        apart.add(x[sample : sample + 1], rows, Place(sample, 1))
    ours, theirs = together.gram("x"), apart.gram("x")
    assert ours is not None
    assert theirs is not None
    assert ours.rows == theirs.rows == 90  # ten of each of the nine samples that are not held out
    assert ours.held_rows == theirs.held_rows == 30
    np.testing.assert_array_equal(ours.fit, theirs.fit)
    np.testing.assert_array_equal(np.asarray(ours.held), np.asarray(theirs.held))
    held = [sample for sample in range(12) if sampling.is_held(sample)]
    assert held == [3, 7, 11]
    every = GramAccumulator(rows, Sampling(12, 0.25, rows=10**9))
    every.add(x, rows, Place(0, 12))
    found = every.gram("x")
    assert found is not None
    assert found.held is not None
    flat = x[held].reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(found.held, (flat.T @ flat / len(flat))[np.newaxis], rtol=1e-12)


@pytest.mark.parametrize(("samples", "held"), [(1, []), (2, [1]), (3, [2]), (4, [3]), (9, [3, 7])])
def test_some_are_always_left_to_fit_on(samples: int, held: list[int]) -> None:
    assert [index for index in range(samples) if Sampling(samples).is_held(index)] == held


def test_rows_grow_with_the_columns_within_bounds() -> None:
    assert Sampling(1, 0.0).per_sample(9) == 2048
    assert Sampling(1, 0.0).per_sample(1000) == 8000
    assert Sampling(1, 0.0).per_sample(10_000) == 16384
    assert Sampling(64).per_sample(1000) * 48 >= 8000


def test_positions_do_not_fall_into_step_with_the_width() -> None:
    """14 of 14 x 14 positions are one column of the image, if every sample starts at the same place."""
    columns = {int(position) % 14 for sample in range(20) for position in spaced(196, 14, (sample * 0.618034) % 1.0)}
    assert len(columns) == 14


def test_nan_is_an_error_that_names_the_tensor() -> None:
    accumulator = GramAccumulator(VectorRows(2), Sampling(1))
    accumulator.add(np.array([[1.0, np.nan]], np.float32), VectorRows(2), Place(0, 1))
    with pytest.raises(CalibrationError, match="hidden"):
        accumulator.gram("hidden")


def test_no_rows_give_no_matrix() -> None:
    accumulator = GramAccumulator(VectorRows(2), Sampling(1))
    accumulator.add(np.zeros((0, 2), np.float32), VectorRows(2), Place(0, 1))
    assert accumulator.gram("x") is None


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_outputs_are_those_of_the_same_rows(name: str, tmp_path: Path) -> None:
    shape, kernel, attributes = CONVOLUTIONS[name]
    x, weight = drawn(*shape), drawn(*kernel)
    path = save(tmp_path, f"Conv <{attributes}>" if attributes else "Conv", x, weight)
    y = open_session(path).run({"x": x})["y"]
    (node,) = load_model(path).graph
    rows = rows_of(node, weight.shape)
    assert rows is not None
    chosen = spaced(rows.count(x), 9, 0.3)
    taken, found = rows.take(x, chosen), rows.outputs(x, y, chosen)
    assert found is not None
    flat = weight.reshape(taken.shape[0], -1, taken.shape[2])
    np.testing.assert_allclose(found, taken @ flat.transpose(0, 2, 1), rtol=1e-4, atol=1e-4)
    assert rows.outputs(x, y[..., :-1], chosen) is None


def test_products_give_their_outputs_row_by_row() -> None:
    x, y, rows = drawn(2, 5, 4), drawn(2, 5, 3), VectorRows(4)
    np.testing.assert_array_equal(rows.outputs(x, y, np.array([0, 7])), y.reshape(10, 3)[np.newaxis, [0, 7]])
    assert rows.outputs(x, y[:1], np.array([0])) is None


def test_what_is_lacking_beside_the_outputs_is_added_up() -> None:
    x, rows, should_be, is_ = drawn(8, 30, 4), VectorRows(4), drawn(8, 30, 3), drawn(8, 30, 3) * 0.9
    accumulator = GramAccumulator(rows, Sampling(8, 0.25, rows=10**9))
    for sample in range(8):
        piece = slice(sample, sample + 1)
        accumulator.add(x[piece], rows, Place(sample, 1), x[piece], (should_be[piece], is_[piece]))
    drift = accumulator.drift()
    assert drift is not None
    assert drift.beside is not None
    held = np.array([3, 7])
    for found, samples in zip((drift.beside.fit, drift.beside.held), (np.setdiff1d(np.arange(8), held), held), strict=True):
        given, lacking = x[samples].reshape(-1, 4).astype(float), (should_be - is_)[samples].reshape(-1, 3)
        np.testing.assert_allclose(found, (given.T @ lacking / len(given))[np.newaxis], rtol=1e-6, atol=1e-8)


def test_drift_is_what_the_inputs_have_lost() -> None:
    x, rows = drawn(8, 30, 4), VectorRows(4)
    exact = x + 0.1 * drawn(8, 30, 5)[..., :4]
    accumulator = GramAccumulator(rows, Sampling(8, 0.25, rows=10**9))
    for sample in range(8):
        piece = slice(sample, sample + 1)
        accumulator.add(x[piece], rows, Place(sample, 1), exact[piece])
    drift = accumulator.drift()
    assert drift is not None
    held = np.array([3, 7])
    fitted = np.setdiff1d(np.arange(8), held)
    for found, samples in ((drift.fit, fitted), (drift.held, held)):
        given, wanted = (array[samples].reshape(-1, 4).astype(np.float64) for array in (x, exact))
        np.testing.assert_allclose(found, (given.T @ (wanted - given) / len(given))[np.newaxis], rtol=1e-6, atol=1e-8)
    alone = GramAccumulator(rows, Sampling(8))
    alone.add(x, rows, Place(0, 8))
    assert alone.drift() is None
