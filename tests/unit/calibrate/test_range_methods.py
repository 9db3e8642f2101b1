"""Each range method on distributions whose right answer is known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qcompress.calibrate import RANGE_METHODS, Histogram, TensorRecord, ranges
from qcompress.calibrate.ranges.entropy import _divergences
from qcompress.calibrate.ranges.moving_average import MOMENTUM, average_step
from qcompress.calibrate.ranges.percentile import quantile
from qcompress.recipe import RangeMethod
from qcompress.types import QuantScheme, TensorRange

UINT8 = QuantScheme.parse("uint8/asym")
UINT4 = QuantScheme.parse("uint4/asym")
INT8 = QuantScheme.parse("int8")


def record(values: np.ndarray) -> TensorRecord:
    values = np.asarray(values, np.float32)
    return TensorRecord(Histogram.empty().add(values), TensorRange(float(values.min()), float(values.max())))


def test_every_file_of_the_folder_is_in_the_table():
    files = {path.stem for path in Path(ranges.__file__).parent.glob("*.py")} - {"__init__", "record"}
    assert files == {method.value.replace("-", "_") for method in RANGE_METHODS}
    assert set(RANGE_METHODS) == set(RangeMethod)


def test_minmax_is_exact_and_contains_zero():
    assert RANGE_METHODS[RangeMethod.MINMAX](record([2.5, 3.25]), UINT8) == TensorRange(0.0, 3.25)
    assert RANGE_METHODS[RangeMethod.MINMAX](record([-1.5, -0.25]), UINT8) == TensorRange(-1.5, 0.0)


def test_moving_average_follows_slowly():
    first = average_step(None, -1.0, 2.0)
    second = average_step(first, -3.0, 12.0)
    assert first == TensorRange(-1.0, 2.0)
    assert second.high == pytest.approx(2.0 + MOMENTUM * 10.0)
    assert second.low == pytest.approx(-1.0 - MOMENTUM * 2.0)


def test_quantile_is_that_of_the_data_within_a_bin():
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    histogram = record(values).histogram
    for fraction in (0.0, 0.001, 0.5, 0.9, 0.9999, 1.0):
        assert quantile(histogram, fraction) == pytest.approx(np.quantile(values, fraction), abs=2 * histogram.width)


def test_percentile_cuts_one_outlier_in_a_million_and_both_ends_alike():
    values = np.concatenate([np.linspace(-1, 1, 1_000_000), [-100.0, 100.0]])
    found = RANGE_METHODS[RangeMethod.PERCENTILE](record(values), UINT8)
    assert found.high == pytest.approx(1.0, abs=0.2)
    assert found.low == pytest.approx(-1.0, abs=0.2)
    one_sided = RANGE_METHODS[RangeMethod.PERCENTILE](record(np.abs(values)), UINT8)
    assert one_sided.low == 0.0
    assert one_sided.high == pytest.approx(1.0, abs=0.2)


def test_mse_does_not_clip_uniform_values_nor_a_pile_at_the_end():
    uniform = np.random.default_rng(0).uniform(-1, 3, 50_000)
    relu6 = np.clip(np.random.default_rng(0).normal(0, 5, 50_000), 0, 6)
    assert RANGE_METHODS[RangeMethod.MSE](record(relu6), UINT8) == TensorRange(0.0, 6.0)
    found = RANGE_METHODS[RangeMethod.MSE](record(uniform), UINT8)
    assert found.low == pytest.approx(-1.0, abs=0.02)
    assert found.high == pytest.approx(3.0, abs=0.02)


def test_mse_finds_the_known_optimum_of_a_normal_distribution():
    values = np.random.default_rng(0).standard_normal(1_000_000)
    found = RANGE_METHODS[RangeMethod.MSE](record(values), UINT4)
    # Optimal uniform quantizer of 16 levels: step 0.3352 (Max, 1960, table II), so 15 steps span +-2.514.
    assert found.high == pytest.approx(2.514, abs=0.08)
    assert found.low == pytest.approx(-2.514, abs=0.08)


def test_mse_clips_one_outlier_on_its_own_side_only():
    values = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 500_000), [50.0]])
    found = RANGE_METHODS[RangeMethod.MSE](record(values), UINT8)
    # The least of 500,000 h^2 / 255^2 / 12 + (50 - h)^2 lies at h = 30.5.
    assert found.high == pytest.approx(30.5, abs=2.0)
    assert found.low == pytest.approx(-1.0, abs=0.1)


def test_mse_of_a_symmetric_scheme_clips_both_ends_alike():
    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 500_000), [80.0, -80.0]])
    found = RANGE_METHODS[RangeMethod.MSE](record(values), INT8)
    assert found.low == pytest.approx(-found.high)
    assert 3.0 < found.high < 40.0


def test_entropy_keeps_what_has_no_tail_and_cuts_a_long_one():
    generator = np.random.default_rng(0)
    uniform = RANGE_METHODS[RangeMethod.ENTROPY](record(generator.uniform(0, 1, 200_000)), UINT8)
    assert uniform.high > 0.97
    tail = np.concatenate([np.abs(generator.normal(0, 1, 500_000)), generator.uniform(5, 100, 50)])
    assert RANGE_METHODS[RangeMethod.ENTROPY](record(tail), UINT8).high < 30.0


def test_entropy_divergence_is_that_of_the_written_out_algorithm():
    counts = np.random.default_rng(1).integers(0, 50, 64).astype(np.float64)
    clips = np.arange(8, 65)
    fast = _divergences(counts, clips, 8)
    for clip, found in zip(clips, fast, strict=True):
        reference = counts[:clip].copy()
        reference[-1] += counts[clip:].sum()
        quantized = np.zeros(clip)
        edges = np.rint(np.arange(9) * (clip / 8)).astype(int)
        for start, end in pairwise(edges):
            occupied = counts[start:end] > 0
            quantized[start:end][occupied] = counts[start:end].sum() / max(occupied.sum(), 1)
        p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1e-9)
        if np.any((p > 0) & (q == 0)):
            continue  # the divergence is infinite; the fast one puts a floor there
        expected = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("method", RangeMethod)
@pytest.mark.parametrize("value", [0.0, 3.5, -3.5, 1e-40])
def test_constant_tensors_have_a_range(method, value):
    found = RANGE_METHODS[method](record(np.full(100, value)), UINT8)
    assert found.low == pytest.approx(min(float(np.float32(value)), 0.0))
    assert found.high == pytest.approx(max(float(np.float32(value)), 0.0))


def test_growth_doubles_the_width_of_bins():
    histogram = Histogram.empty().add(np.linspace(0, 1, 1000, dtype=np.float32))
    grown = histogram.add(np.array([1000.0], np.float32))
    assert grown.exponent > histogram.exponent
    assert grown.total == 1001
    assert grown.counts[:3].sum() == 1000
