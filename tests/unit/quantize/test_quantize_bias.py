"""Biases: int32 codes that fit, nearly dead channels, and the exact mean error of linear layers."""

import numpy as np
import pytest

from qcompress.errors import ModelError
from qcompress.quantize import least_weight_scale, quantize, quantize_bias
from qcompress.types import PerChannel, QuantScheme

INPUT_SCALE = np.float32(0.02)


def test_codes_count_in_products_of_the_scales():
    bias = np.array([0.5, -0.25, 0.0], np.float32)
    quantized = quantize_bias(bias, INPUT_SCALE, np.array([0.01, 0.02, 0.03], np.float32))
    assert quantized is not None
    assert quantized.codes.tolist() == [2500, -625, 0]
    assert quantized.codes.dtype == np.int32
    assert quantized.zero_point.dtype == np.int32
    assert quantized.zero_point.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(quantized.scale, INPUT_SCALE * np.array([0.01, 0.02, 0.03], np.float32))
    np.testing.assert_allclose(quantized.dequantize(), bias, atol=3e-4)


def test_one_weight_scale_serves_all_channels():
    quantized = quantize_bias(np.array([0.5, -0.25], np.float32), INPUT_SCALE, np.float32(0.01))
    assert quantized is not None
    assert quantized.scale.shape == quantized.zero_point.shape == ()


@pytest.mark.parametrize(
    "weight_scale",
    [1e-9, 1e-37, 1e-45],  # a code beyond the room, a denormal product, a product of 0
)
def test_a_bias_that_does_not_fit_is_left_to_the_caller(weight_scale):
    assert quantize_bias(np.array([100.0], np.float32), INPUT_SCALE, np.array([weight_scale], np.float32)) is None


def test_a_scale_that_overflows_is_left_to_the_caller():
    assert quantize_bias(np.array([1.0], np.float32), np.float32(1e30), np.array([1e30], np.float32)) is None


def test_nearly_dead_channels_get_room_for_their_bias():
    weight = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    weight[1] *= 1e-12
    weight[2] = 0.0
    bias = np.array([0.5, 0.5, -80000.0], np.float32)
    scheme = QuantScheme(granularity=PerChannel(0))
    plain = quantize(weight, scheme)
    assert quantize_bias(bias, INPUT_SCALE, plain.scale) is None

    roomy = quantize(weight, scheme, least_scale=least_weight_scale(bias, INPUT_SCALE))
    quantized = quantize_bias(bias, INPUT_SCALE, roomy.scale)
    assert quantized is not None
    assert roomy.scale[0] == plain.scale[0]
    np.testing.assert_allclose(quantized.dequantize(), bias, rtol=1e-3)
    largest_input = 127 * INPUT_SCALE * np.ones(16)
    error = (weight - roomy.dequantize()) @ largest_input
    assert abs(error[1]) < 1e-5 * bias[1]


def test_a_channel_without_bias_asks_for_a_normal_product_of_scales():
    least = least_weight_scale(np.zeros(2, np.float32), INPUT_SCALE)
    assert quantize_bias(np.zeros(2, np.float32), INPUT_SCALE, least) is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bias_that_is_not_finite_is_refused(bad):
    with pytest.raises(ModelError):
        quantize_bias(np.array([bad], np.float32), INPUT_SCALE, np.float32(1.0))
    with pytest.raises(ModelError):
        least_weight_scale(np.array([bad], np.float32), INPUT_SCALE)
