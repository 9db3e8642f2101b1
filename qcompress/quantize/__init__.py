"""Float arrays become codes and scales: affine quantization, clipping and biases, on numpy arrays alone."""

from qcompress.quantize.affine import fake_quantize, parameters, quantize, round_to_codes
from qcompress.quantize.bias import QuantizedBias, least_weight_scale, mean_output_shift, quantize_bias
from qcompress.quantize.clipping import search_clip
from qcompress.quantize.weights import quantize_weight, scale_shape, shortened

__all__ = [
    "QuantizedBias",
    "fake_quantize",
    "least_weight_scale",
    "mean_output_shift",
    "parameters",
    "quantize",
    "quantize_bias",
    "quantize_weight",
    "round_to_codes",
    "scale_shape",
    "search_clip",
    "shortened",
]
