"""Float arrays become codes and scales: affine quantization, codebooks, roundings and biases, on numpy arrays alone."""

from qcompress.quantize.affine import parameters, quantize, round_to_codes
from qcompress.quantize.bias import QuantizedBias, least_weight_scale, quantize_bias
from qcompress.quantize.clipping import search_clip
from qcompress.quantize.codebook import fit_codebook
from qcompress.quantize.entropy import code_entropy
from qcompress.quantize.evidence import Evidence, Gram, Need
from qcompress.quantize.fitted import output_error
from qcompress.quantize.hqq import quantize_hqq
from qcompress.quantize.layouts import Layout, from_rows, inputs_of, to_rows
from qcompress.quantize.narrow import narrow
from qcompress.quantize.packing import LEAST_HALVES, PLANES, pack, short_scales, unpack, with_short_scales
from qcompress.quantize.roundings import NEEDS, fit_weight
from qcompress.quantize.sparse import sparse_saves, without_zeros, zero_code, zero_share
from qcompress.quantize.stored import stored_bytes
from qcompress.quantize.weights import least_scales_kept, quantize_weight, scale_shape, shortened

__all__ = [
    "LEAST_HALVES",
    "NEEDS",
    "PLANES",
    "Evidence",
    "Gram",
    "Layout",
    "Need",
    "QuantizedBias",
    "code_entropy",
    "fit_codebook",
    "fit_weight",
    "from_rows",
    "inputs_of",
    "least_scales_kept",
    "least_weight_scale",
    "narrow",
    "output_error",
    "pack",
    "parameters",
    "quantize",
    "quantize_bias",
    "quantize_hqq",
    "quantize_weight",
    "round_to_codes",
    "scale_shape",
    "search_clip",
    "short_scales",
    "shortened",
    "sparse_saves",
    "stored_bytes",
    "to_rows",
    "unpack",
    "with_short_scales",
    "without_zeros",
    "zero_code",
    "zero_share",
]
