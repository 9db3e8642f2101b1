"""Float arrays become codes and scales: affine quantization, clipping and biases, on numpy arrays alone."""

from qcompress.quantize.affine import parameters, quantize, round_to_codes
from qcompress.quantize.bias import QuantizedBias, least_weight_scale, quantize_bias
from qcompress.quantize.clipping import search_clip
from qcompress.quantize.packing import PLANES, pack, stored_bytes, unpack
from qcompress.quantize.weights import least_scales_kept, quantize_weight, scale_shape, shortened

__all__ = [
    "PLANES",
    "QuantizedBias",
    "least_scales_kept",
    "least_weight_scale",
    "pack",
    "parameters",
    "quantize",
    "quantize_bias",
    "quantize_weight",
    "round_to_codes",
    "scale_shape",
    "search_clip",
    "shortened",
    "stored_bytes",
    "unpack",
]
