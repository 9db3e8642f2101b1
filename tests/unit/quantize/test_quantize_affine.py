"""Affine codes: known values, ties, tiny and huge weights, and equality with the ONNX operators."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qcompress.errors import CalibrationError, ModelError
from qcompress.quantize import parameters, quantize, round_to_codes
from qcompress.types import PerBlock, PerChannel, PerTensor, QuantizedTensor, QuantScheme

ONNX_TYPES = {
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_operators(values: np.ndarray, quantized: QuantizedTensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values as the ONNX operators compute them from our scale and zero point."""
    scheme = quantized.scheme
    attributes = {}
    if not isinstance(scheme.granularity, PerTensor):
        attributes["axis"] = scheme.granularity.axis
    if isinstance(scheme.granularity, PerBlock):
        attributes["block_size"] = scheme.granularity.size
    element = ONNX_TYPES[f"{'' if scheme.signed else 'u'}int{scheme.bits}"]
    nodes = [
        helper.make_node("Cast", ["z"], ["zero_point"], to=element),
        helper.make_node("QuantizeLinear", ["x", "s", "zero_point"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "zero_point"], ["y"], **attributes),
        helper.make_node("Cast", ["q"], ["codes"], to=TensorProto.INT32),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("z", TensorProto.INT32, None),
    ]
    outputs = [
        helper.make_tensor_value_info("codes", TensorProto.INT32, None),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    model = helper.make_model(helper.make_graph(nodes, "qdq", inputs, outputs), opset_imports=[helper.make_opsetid("", 21)])
    codes, dequantized = ReferenceEvaluator(model).run(
        None, {"x": values, "s": quantized.scale, "z": quantized.zero_point.astype(np.int32)}
    )
    return codes, dequantized


@pytest.mark.parametrize("grain", ["", "/channel", "/block4"])
@pytest.mark.parametrize("symmetry", ["", "/asym"])
@pytest.mark.parametrize("kind", sorted(ONNX_TYPES))
def test_codes_and_values_equal_those_of_the_onnx_operators(kind, symmetry, grain):
    values = normal(8, 12) * 3 + 0.5
    quantized = quantize(values, QuantScheme.parse(kind + symmetry + grain).on_axis(1))
    codes, dequantized = by_operators(values, quantized)
    np.testing.assert_array_equal(quantized.codes, codes)
    np.testing.assert_array_equal(quantized.dequantize(), dequantized)


def test_symmetric_int8_spans_minus_127_to_127():
    quantized = quantize(np.array([-2.0, 0.0, 1.0, 2.0], np.float32), QuantScheme())
    assert quantized.codes.tolist() == [-127, 0, 64, 127]  # 63.5 rounds to the even 64
    assert quantized.scale == np.float32(2 / 127)
    assert quantized.zero_point == 0


def test_symmetric_int4_uses_all_sixteen_codes():
    quantized = quantize(np.linspace(-7.5, 7.5, 31, dtype=np.float32), QuantScheme(4))
    assert quantized.scale == 1.0
    assert sorted(set(quantized.codes.tolist())) == list(range(-8, 8))


@pytest.mark.parametrize(("bits", "lowest"), [(2, -2), (4, -8), (5, -16), (6, -31), (8, -127), (16, -32767)])
def test_the_smallest_code_is_left_out_from_6_bits_on_even_when_clipped(bits, lowest):
    values = np.array([-1.0, 0.3, 1.0], np.float32)
    assert quantize(values, QuantScheme(bits), clip=np.array(0.5)).codes.min() == lowest


def test_unsigned_symmetric_has_its_zero_in_the_middle():
    quantized = quantize(np.array([-1.0, 0.0, 1.0], np.float32), QuantScheme(8, signed=False))
    assert quantized.codes.tolist() == [1, 128, 255]
    assert quantized.codes.dtype == np.uint8


def test_asymmetric_uses_the_whole_range_of_a_positive_tensor():
    quantized = quantize(np.array([0.5, 1.0, 2.55], np.float32), QuantScheme.parse("uint8/asym"))
    assert quantized.zero_point == 0
    assert quantized.codes.tolist() == [50, 100, 255]


def test_ties_round_to_even():
    quantized = round_to_codes(np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), QuantScheme(), np.float32(1.0), np.int8(0))
    assert quantized.codes.tolist() == [0, 2, 2, 0, -2]


def test_values_outside_given_scales_saturate_without_a_warning():
    values = np.array([-3e38, 3e38], np.float32)
    assert round_to_codes(values, QuantScheme(), np.float32(1e-38), np.int8(0)).codes.tolist() == [-127, 127]


def test_shapes_of_scales_per_tensor_channel_and_block():
    values = normal(6, 10, 3)
    assert quantize(values, QuantScheme()).scale.shape == ()
    assert quantize(values, QuantScheme(granularity=PerChannel(1))).scale.shape == (10,)
    assert quantize(values, QuantScheme(granularity=PerChannel(-1))).scale.shape == (3,)
    assert quantize(values, QuantScheme(granularity=PerBlock(4, 1))).scale.shape == (6, 3, 3)


def test_a_partial_last_block_has_its_own_scale():
    values = np.array([[1.0, 2.0, 4.0, 8.0, 0.127]], np.float32)
    quantized = quantize(values, QuantScheme(granularity=PerBlock(4)))
    np.testing.assert_allclose(quantized.scale, [[8 / 127, 0.001]], rtol=1e-6)
    assert quantized.codes[0, 4] == 127


@pytest.mark.parametrize("kind", ["int8", "uint8/asym", "int4/block2", "int8/channel"])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-37, 1e-4])
def test_tiny_weights_do_not_become_zero(kind, magnitude):
    values = (np.array([[1.0, -0.5], [0.25, 1.0]]) * magnitude).astype(np.float32)
    dequantized = quantize(values, QuantScheme.parse(kind)).dequantize()
    np.testing.assert_allclose(dequantized, values, atol=0.07 * magnitude)


def test_float16_weights_below_0_008_do_not_become_zero():
    values = (normal(64, 64) * 0.002).clip(-0.0079, 0.0079).astype(np.float16)
    dequantized = quantize(values, QuantScheme()).dequantize()
    assert np.abs(dequantized - values.astype(np.float32)).max() <= 0.5001 * 0.0079 / 127


def test_denormal_weights_have_a_normal_scale():
    quantized = quantize(np.array([1e-45, -1e-42], np.float32), QuantScheme())
    assert quantized.scale >= np.finfo(np.float32).tiny


def test_a_group_of_zeros_stays_zero_and_leaves_the_others_alone():
    values = normal(3, 16)
    values[1] = 0.0
    quantized = quantize(values, QuantScheme(granularity=PerChannel(0)))
    assert quantized.scale[1] == 2.0**-14
    assert np.float16(quantized.scale[1]) == quantized.scale[1]
    np.testing.assert_array_equal(quantized.dequantize()[1], 0.0)
    np.testing.assert_array_equal(quantized.codes[0], quantize(values[0], QuantScheme()).codes)


def test_an_empty_weight_is_quantized_to_nothing():
    assert quantize(np.zeros((0, 4), np.float32), QuantScheme(granularity=PerChannel(1))).codes.shape == (0, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("kind", ["int8", "int8/channel", "int8/block2"])
def test_what_is_not_finite_in_float32_is_refused(kind, bad):
    values = np.ones((3, 5))
    values[1, 2] = bad
    with pytest.raises(ModelError, match="NaN or infinite"):
        quantize(values, QuantScheme.parse(kind))


def test_clip_shrinks_each_group_by_its_own_factor():
    values = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)
    quantized = quantize(values, QuantScheme(granularity=PerChannel(0)), clip=np.array([1.0, 0.5]))
    np.testing.assert_allclose(quantized.dequantize(), [[1.0, -1.0], [0.5, -0.5]], rtol=1e-6)


def test_scales_are_raised_to_the_least_scale():
    values = np.array([[1.27], [1.27e-9], [0.0]], np.float32)
    quantized = quantize(values, QuantScheme(granularity=PerChannel(0)), least_scale=np.full(3, 1e-3, np.float32))
    np.testing.assert_allclose(quantized.scale, [1e-2, 1e-3, 1e-3], rtol=1e-6)
    assert quantized.codes.ravel().tolist() == [127, 0, 0]


@pytest.mark.parametrize(
    ("low", "high", "kind", "scale", "zero_point"),
    [
        (0.0, 2.55, "uint8/asym", 0.01, 0),
        (-1.0, 1.55, "uint8/asym", 0.01, 100),
        (0.5, 2.55, "uint8/asym", 0.01, 0),  # widened to contain 0
        (-2.55, -1.0, "uint8/asym", 0.01, 255),
        (-1.0, 1.55, "int8/asym", 0.01, -28),
        (-1.0, 1.27, "int8", 0.01, 0),
        (-1.0, 1.27, "uint8", 0.01, 128),
        (0.0, 0.0, "uint8/asym", 1.0, 0),
        (-3e38, 3e38, "uint8/asym", 6e38 / 255, 128),
    ],
)
def test_parameters_of_activations(low, high, kind, scale, zero_point):
    scheme = QuantScheme.parse(kind)
    found, zero = parameters(low, high, scheme)
    assert found == pytest.approx(scale, rel=1e-6)
    assert zero == zero_point
    assert (found.dtype, zero.dtype) == (np.float32, scheme.storage)


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (0.0, np.inf), (1.0, -1.0)])
def test_ranges_that_are_none_are_refused(low, high):
    with pytest.raises(CalibrationError, match="cannot be quantized"):
        parameters(low, high, QuantScheme())
