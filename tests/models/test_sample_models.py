"""The shipped models from end to end: small enough, accurate enough, valid everywhere, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qcompress import Report, RunOptions, compress
from qcompress.runtime import Optimization, SessionSettings, open_session

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
LEAST_TIMES_SMALLER = {"digits_cnn": 3.5, "reviews_transformer": 3.3, "language_gru": 3.3}
LARGEST_DROP = 0.005
INTEGER_KERNELS = {"digits_cnn": 20, "reviews_transformer": 3, "language_gru": 0}
"""At least; a busy machine's times may leave out layers that gain little."""


FOUR_BITS = {"digits_cnn": 0.165}
"""Size ratio at most with 4 bits on average; in small files nodes, scales and biases weigh as much as a quarter of that."""

DROP_AT_FOUR_BITS = 0.01


def run(name: str, target: Path, recipe: str = "int8") -> Report:
    calib, evaluation = (str(SAMPLES / f"{name}.{part}.npz") for part in ("calib", "eval"))
    return compress(
        SAMPLES / f"{name}.onnx", target, recipe, calib, evaluation, options=RunOptions(threads=2, latency_seconds=0)
    )


@pytest.mark.parametrize("name", LEAST_TIMES_SMALLER)
def test_a_sample_model_keeps_what_it_can_do(name, tmp_path):
    target = tmp_path / "small.onnx"
    report = run(name, target)
    assert 1.0 / report.size.ratio >= LEAST_TIMES_SMALLER[name]
    assert report.accuracy is not None
    assert report.accuracy.drop is not None
    assert report.accuracy.drop.value <= LARGEST_DROP
    assert report.kernels is not None
    assert sum(report.kernels.integer.values()) >= INTEGER_KERNELS[name]
    onnx.checker.check_model(str(target), full_check=True)
    with np.load(SAMPLES / f"{name}.eval.npz") as data:
        feed = {key: data[key][:8] for key in data.files if key != "labels"}
    levels = [open_session(target, SessionSettings(optimization=level)).run(feed)["logits"] for level in Optimization]
    for logits in levels[1:]:
        assert np.array_equal(logits.argmax(axis=1), levels[0].argmax(axis=1))


def test_two_runs_write_the_same_bytes(tmp_path):
    for target in ("a.onnx", "b.onnx"):
        run("digits_cnn", tmp_path / target)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("name", FOUR_BITS)
def test_a_sample_model_at_four_bits_on_average(name, tmp_path):
    report = run(name, tmp_path / "small.onnx", "int4")
    assert report.exit_code == 0
    assert report.size.ratio <= FOUR_BITS[name]
    assert report.accuracy is not None
    assert report.accuracy.drop is not None
    assert report.accuracy.drop.value <= DROP_AT_FOUR_BITS
