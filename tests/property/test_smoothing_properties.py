"""Properties of smoothing factors on arrays: ranges after scaling, powers of two, errors never above doing nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcompress.quantize.equalize import (
    LARGEST_EXPONENT,
    as_powers_of_two,
    as_short_numbers,
    equalize_ranges,
    smoothing_factors,
)
from qcompress.quantize.smooth import GAIN, ProductSamples, expected_error, least_error, product_error, search_smoothing
from qcompress.types import QuantScheme

deterministic = settings(deadline=None, derandomize=True, max_examples=60)
WEIGHTS, ACTIVATIONS = QuantScheme.parse("int8/channel"), QuantScheme.parse("uint8/asym")

magnitudes = st.floats(2.0**-4, 2.0**4)
ranges = arrays.arrays(np.float64, 8, elements=magnitudes)


@deterministic
@given(ranges, ranges)
def test_equalized_ranges_are_equal(before, after):
    factors = equalize_ranges(before, after)
    assert np.prod(factors) == pytest.approx(1.0)
    ratio = (before / factors) / (after * factors)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


@deterministic
@given(arrays.arrays(np.float64, 8, elements=st.floats(1.0, 1.9)), ranges, st.floats(0.0, 1.0))
def test_smoothing_moves_range_from_the_activation_to_the_weight(activation, weight, alpha):
    assert (np.abs(np.log2(smoothing_factors(activation, weight, alpha))) <= LARGEST_EXPONENT).all()
    assert np.ptp(np.log(activation / smoothing_factors(activation, weight, 1.0))) < 1e-9
    assert np.ptp(np.log(weight * smoothing_factors(activation, weight, 0.0))) < 1e-9


@deterministic
@given(arrays.arrays(np.float64, 20, elements=st.floats(1.0, 100.0)), st.floats(0.0, 1e-2))
def test_quiet_channels_are_not_made_loud(activation, quiet):
    activation[0] = quiet
    before = smoothing_factors(activation, np.ones(20), 1.0)
    assert (activation / before)[0] <= (activation / before)[1:].max()
    assert before[1:].min() / before[0] <= 2.0 + 1e-9


def test_dead_channels_get_no_extreme_factor():
    factors = smoothing_factors(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0]), 0.5)
    assert np.isfinite(factors).all()
    assert (factors >= 2.0**-LARGEST_EXPONENT).all()
    assert np.array_equal(smoothing_factors(np.zeros(3), np.zeros(3), 0.5), np.ones(3))


@deterministic
@given(
    arrays.arrays(np.float64, 8, elements=st.floats(2.0**-9, 2.0**9)),
    arrays.arrays(np.float32, 8, elements=st.floats(2.0**-60, 2.0**60, width=32)),
)
def test_powers_of_two_are_near_and_exact(factors, values):
    rounded = as_powers_of_two(factors)
    assert (np.abs(np.log2(rounded / factors)) <= 0.5 + 1e-12).all()
    assert np.array_equal(values / rounded.astype(np.float32) * rounded.astype(np.float32), values)


@deterministic
@given(arrays.arrays(np.float64, 8, elements=st.floats(2.0**-9, 2.0**9)))
def test_short_numbers_are_near_and_stay_as_they_are(factors):
    short = as_short_numbers(factors)
    assert (np.abs(short / factors - 1.0) <= 1.0 / 16.0).all()
    assert np.array_equal(as_short_numbers(short), short)
    assert np.array_equal(as_short_numbers(as_powers_of_two(factors)), as_powers_of_two(factors))


def test_powers_of_two_are_preferred_when_as_good():
    candidates = {0.5: np.array([1.3, 4.0])}
    same = least_error(candidates, lambda factors: 1.0 if (factors == 1.0).all() else 0.1)
    assert np.array_equal(same.factors, [1.0, 4.0])
    finer = least_error(candidates, lambda factors: float(np.abs(factors - [1.25, 4.0]).sum()) + 0.01)
    assert np.array_equal(finer.factors, [1.25, 4.0])


def outliers(seed: int, channels: int = 32, loud: float = 100.0, feeds: int = 3) -> ProductSamples:
    """Rows of which two channels are much larger than the others, as in transformers."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(feeds * 20, channels)).astype(np.float32)
    rows[:, [3, 7]] *= loud
    weights = [rng.normal(size=(channels, 16)).astype(np.float32) for _ in range(2)]
    weights[0][[3, 7]] /= loud
    weights[1][[3, 7]] /= loud
    parts = rows.reshape(feeds, 20, channels)
    return ProductSamples(rows, parts.min(axis=1), parts.max(axis=1), np.repeat(np.arange(feeds), 20), weights)


@deterministic
@given(st.integers(0, 1000), st.floats(1.0, 500.0))
def test_smoothing_is_taken_only_when_clearly_better_than_doing_nothing(seed, loud):
    samples = outliers(seed, loud=loud)
    outputs = [samples.rows @ weight for weight in samples.weights]
    found = search_smoothing(samples, WEIGHTS, ACTIVATIONS)
    before = product_error(samples, outputs, np.ones(32), WEIGHTS, ACTIVATIONS)
    if loud >= 20.0:
        assert found is not None
    if found is not None:
        assert found.error < GAIN * before
        assert found.before == before
        assert found.error == product_error(samples, outputs, found.factors, WEIGHTS, ACTIVATIONS)
        assert np.array_equal(found.factors, as_short_numbers(found.factors))


def test_smoothing_repairs_outliers_and_leaves_even_channels_alone():
    found = search_smoothing(outliers(0), WEIGHTS, ACTIVATIONS)
    assert found is not None
    assert found.error < 0.05 * found.before
    assert found.factors[3] > 4 * found.factors[0]
    assert search_smoothing(outliers(0, loud=1.0), WEIGHTS, ACTIVATIONS) is None


def test_nothing_multiplied_has_no_error():
    samples = outliers(0)
    empty = ProductSamples(np.zeros_like(samples.rows), samples.low, samples.high, samples.ranges, samples.weights)
    outputs = [empty.rows @ weight for weight in empty.weights]
    assert product_error(empty, outputs, np.ones(32), WEIGHTS, ACTIVATIONS) == 0.0


@deterministic
@given(st.integers(0, 1000), st.sampled_from([1, 4]))
def test_the_expected_error_is_about_the_real_one(seed, groups):
    rng = np.random.default_rng(seed)
    channels, outputs, count = 16, 32, 2000
    rows = rng.normal(size=(count, channels)) * rng.uniform(0.2, 2.0, channels)
    kernel = rng.normal(size=(groups, channels // groups, 1, outputs // groups))
    factors = as_powers_of_two(rng.uniform(0.5, 2.0, channels))
    low, high = rows.min(axis=0), rows.max(axis=0)
    wrong = 0.0
    for group in range(groups):
        part = slice(group * channels // groups, (group + 1) * channels // groups)
        scheme_rows = ProductSamples(
            rows[:, part].astype(np.float32),
            low[None, part],
            high[None, part],
            np.zeros(count, np.intp),
            [kernel[group, :, 0]],
        )
        if groups == 1:
            exact = [scheme_rows.rows @ kernel[0, :, 0]]
            share = product_error(scheme_rows, exact, factors, WEIGHTS, ACTIVATIONS)
            wrong = share * float(np.square(exact[0]).sum()) / count
    expected = expected_error(high - low, np.square(rows).mean(axis=0), kernel, factors)
    if groups == 1:
        assert 0.4 < wrong / expected < 2.5
    whole = np.zeros((1, channels, 1, outputs))
    for group in range(groups):
        own, out = channels // groups, outputs // groups
        whole[0, group * own : (group + 1) * own, 0, group * out : (group + 1) * out] = kernel[group, :, 0]
    # the same convolution written out without groups reads zeros too, whose rounding errors it counts
    assert expected <= expected_error(high - low, np.square(rows).mean(axis=0), whole, factors) * (1.0 + 1e-9)
