"""Histograms do not depend on how data are split; every range method stays within the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompress.calibrate import RANGE_METHODS, Histogram, TensorRecord
from qcompress.calibrate.histogram import BINS
from qcompress.quantize.affine import parameters
from qcompress.recipe import RangeMethod
from qcompress.types import QuantScheme, TensorRange

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=FLOATS | st.floats(-1, 1, width=32) | st.just(0.0))
QUICK = settings(deadline=None, derandomize=True, max_examples=80)


def same(left: Histogram, right: Histogram) -> bool:
    fields = ("first", "exponent", "minimum", "maximum")
    return all(getattr(left, name) == getattr(right, name) for name in fields) and np.array_equal(left.counts, right.counts)


@QUICK
@given(VALUES, st.lists(st.integers(0, 200), max_size=5), st.randoms(use_true_random=False))
def test_the_histogram_does_not_depend_on_split_or_order(values, cuts, random):
    whole = Histogram.empty().add(values)
    parts = np.split(values, sorted(cuts))
    random.shuffle(parts)
    added = Histogram.empty()
    merged = Histogram.empty()
    for part in parts:
        added = added.add(part)
        merged = merged.merge(Histogram.empty().add(part))
    assert same(whole, added)
    assert same(whole, merged)


@QUICK
@given(VALUES, st.integers(1, 7))
def test_every_value_is_counted_in_a_bin_that_holds_it(values, weight):
    histogram = Histogram.empty().add(values, weight)
    assert histogram.total == weight * values.size
    assert histogram.minimum == values.min()
    assert histogram.maximum == values.max()
    expected, _ = np.histogram(values.astype(np.float64), histogram.edges)  # its last bin is closed, but nothing lies on it
    assert np.array_equal(histogram.counts, weight * expected)


@QUICK
@given(VALUES)
def test_bins_are_no_wider_than_they_must_be(values):
    histogram = Histogram.empty().add(values)
    spread = float(values.max()) - float(values.min())
    assert histogram.width * BINS > spread
    if spread > 1e-3 * float(np.abs(values).max()) > 0:
        assert histogram.width * BINS <= 4 * spread


@pytest.mark.parametrize("method", RangeMethod)
@pytest.mark.parametrize("scheme", ["uint8/asym", "int8", "uint4/asym", "int4", "int16"])
@settings(deadline=None, derandomize=True, max_examples=25)
@given(values=VALUES)
def test_every_method_stays_within_the_data_and_zero(method, scheme, values):
    histogram = Histogram.empty().add(values)
    record = TensorRecord(histogram, TensorRange(float(values.min()), float(values.max())))
    found = RANGE_METHODS[method](record, QuantScheme.parse(scheme))
    slack = 1e-9 * float(np.abs(values).max())
    assert min(histogram.minimum, 0.0) - slack <= found.low <= 0.0 <= found.high <= max(histogram.maximum, 0.0) + slack


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from(["uint8/asym", "int8", "uint4/asym", "uint3/asym"]))
def test_mse_is_never_worse_than_minmax_on_the_data_themselves(seed, text):
    generator = np.random.default_rng(seed)
    values = generator.standard_t(3, 5000).astype(np.float32) * generator.uniform(0.1, 10) + generator.normal()
    scheme = QuantScheme.parse(text)
    record = TensorRecord(Histogram.empty().add(values), TensorRange(float(values.min()), float(values.max())))

    def error(found: TensorRange) -> float:
        scale, zero = (value.astype(np.float64) for value in parameters(found.low, found.high, scheme))
        codes = np.clip(np.rint(values / scale) + zero, scheme.qmin, scheme.qmax)
        return float(((values - (codes - zero) * scale) ** 2).mean())

    clipped = error(RANGE_METHODS[RangeMethod.MSE](record, scheme))
    assert clipped <= 1.02 * error(RANGE_METHODS[RangeMethod.MINMAX](record, scheme))
