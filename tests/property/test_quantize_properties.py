"""Properties every affine scheme keeps for every finite array, and clipping for every weight."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from qcompress.quantize import parameters, quantize, round_to_codes, search_clip
from qcompress.types import PerBlock, PerChannel, PerTensor, QuantScheme

modest = settings(deadline=None, derandomize=True, max_examples=150)

SHAPES = arrays_of.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=7)
HUGE = float(np.float32(1e38))
NUMBERS = st.floats(-HUGE, HUGE, width=32, allow_subnormal=True) | st.floats(-2, 2, width=32)


@st.composite
def cases(draw, widths=tuple(range(2, 17))):
    """A weight and a scheme with an axis of it."""
    values = draw(arrays_of.arrays(np.float32, SHAPES, elements=NUMBERS))
    axis = draw(st.integers(-values.ndim, values.ndim - 1))
    granularity = draw(st.sampled_from([PerTensor(), PerChannel(axis), PerBlock(draw(st.integers(1, 5)), axis)]))
    return values, QuantScheme(draw(st.sampled_from(widths)), draw(st.booleans()), draw(st.booleans()), granularity)


@modest
@given(cases())
def test_error_is_at_most_half_a_step(case):
    values, scheme = case
    quantized = quantize(values, scheme)
    step = quantized.spread(quantized.scale).astype(np.float64)
    error = np.abs(quantized.dequantize().astype(np.float64) - values)
    rounding = np.abs(values) * 2.0**-22  # of the scale, the quotient and the product
    assert (error <= 0.5 * step + rounding).all()


@modest
@given(cases())
def test_codes_are_in_range_in_the_storage_type_and_of_the_same_shape(case):
    values, scheme = case
    quantized = quantize(values, scheme)
    assert quantized.codes.shape == quantized.dequantize().shape == values.shape
    assert quantized.codes.dtype == quantized.zero_point.dtype == scheme.storage
    assert quantized.codes.min() >= scheme.qmin
    assert quantized.codes.max() <= scheme.qmax
    assert scheme.qmin <= quantized.zero_point.min() <= quantized.zero_point.max() <= scheme.qmax


@modest
@given(cases())
def test_scales_are_normal_and_zero_is_exact(case):
    values, scheme = case
    values[(0,) * values.ndim] = 0.0
    quantized = quantize(values, scheme)
    assert quantized.scale.dtype == np.float32
    assert np.isfinite(quantized.scale).all()
    assert (quantized.scale >= np.finfo(np.float32).tiny).all()
    assert (quantized.dequantize()[values == 0.0] == 0.0).all()


@modest
@given(cases())
def test_what_was_quantized_is_quantized_to_the_same_codes(case):
    values, scheme = case
    once = quantize(values, scheme)
    again = round_to_codes(once.dequantize(), scheme, once.scale, once.zero_point)
    np.testing.assert_array_equal(again.codes, once.codes)


@modest
@given(cases(widths=(6, 7, 8)))
def test_narrow_symmetric_schemes_find_their_own_scale_again(case):
    values, scheme = case
    scheme = QuantScheme(scheme.bits, scheme.signed, True, scheme.granularity)
    once = quantize(values, scheme)
    extremes = np.abs(once.codes.astype(int) - scheme.midpoint).max()
    if isinstance(scheme.granularity, PerTensor) and extremes == scheme.qmax - scheme.midpoint:
        np.testing.assert_array_equal(quantize(once.dequantize(), scheme).codes, once.codes)


@modest
@given(cases())
def test_groups_are_quantized_as_if_alone(case):
    values, scheme = case
    whole = quantize(values, scheme)
    if isinstance(scheme.granularity, PerTensor):
        return
    size = scheme.granularity.size if isinstance(scheme.granularity, PerBlock) else 1
    axis = scheme.granularity.axis
    moved, codes = np.moveaxis(values, axis, 0), np.moveaxis(whole.codes, axis, 0)
    for start in range(0, len(moved), size):
        part, found = moved[start : start + size], codes[start : start + size]
        if isinstance(scheme.granularity, PerChannel):
            np.testing.assert_array_equal(quantize(part, scheme.per_tensor()).codes, found)
            continue
        part, found = part.reshape(len(part), -1), found.reshape(len(part), -1)
        for column in range(part.shape[1]):
            alone = quantize(part[:, column], scheme.per_tensor())
            np.testing.assert_array_equal(alone.codes, found[:, column])


@modest
@given(NUMBERS, NUMBERS, st.integers(2, 16), st.booleans(), st.booleans())
def test_ranges_of_activations_are_covered(first, second, bits, signed, symmetric):
    scheme = QuantScheme(bits, signed, symmetric)
    low, high = min(first, second), max(first, second)
    scale, zero_point = parameters(low, high, scheme)
    step = float(scale)
    reach = [(code - int(zero_point)) * step for code in (scheme.qmin, scheme.qmax)]
    tolerance = 0.5 * step + 1e-6 * max(abs(low), abs(high))
    assert np.isfinite(scale)
    assert scale > 0
    assert reach[0] - tolerance <= min(low, 0.0)
    assert reach[1] + tolerance >= max(high, 0.0)


@st.composite
def weights(draw):
    """A weight of ordinary numbers, a scheme and an importance that broadcasts to it."""
    values, scheme = draw(cases(widths=(2, 3, 4, 8)))
    values = np.clip(values, -1e6, 1e6)
    sides = [draw(st.sampled_from([1, side])) for side in values.shape]
    importance = draw(arrays_of.arrays(np.float64, sides, elements=st.floats(0, 1e6, allow_subnormal=False)))
    return values, scheme, draw(st.sampled_from([None, importance]))


@modest
@given(weights())
def test_clipping_is_never_worse_than_the_whole_range(case):
    values, scheme, importance = case
    factors = search_clip(values, scheme, importance)
    assert factors.shape == quantize(values, scheme).scale.shape
    assert ((factors >= 0.39) & (factors <= 1.5)).all()
    weight = 1.0 if importance is None else importance

    def error(clip):
        return (weight * (quantize(values, scheme, clip).dequantize().astype(np.float64) - values) ** 2).sum()

    assert error(factors) <= error(None) * (1 + 1e-6)
