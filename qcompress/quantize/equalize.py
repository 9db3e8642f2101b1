"""Factors that give the channels of a tensor like ranges, without data or from extremes."""

from __future__ import annotations

import numpy as np

from qcompress.types import Array

LEAST = 1e-5
"""Channels whose range is smaller than this share of the largest are dead, as far as the data tells."""

QUIET = 0.5
"""Channels count as having at least this share of the range that a tenth of the living channels stay below.

Other data may wake a channel that was dead or nearly so: it must not be made loud. Source: the floor of a tenth in NNCF's
smooth quantization (here it is over living channels only, of which networks with ReLU have few).
"""

LARGEST_EXPONENT = 10
"""Factors lie between 2^-10 and 2^10: an 8-bit range holds no more."""


def equalize_ranges(before: Array, after: Array) -> Array:
    """What to divide each channel by, so that the weights before and after it have equal ranges.

    s_i = sqrt(r1_i / r2_i), since then r1_i / s_i = r2_i s_i = sqrt(r1_i r2_i).

    Args:
        before: (channels,), largest magnitude of what writes the channel, or of the channel.
        after: (channels,), largest magnitude of what reads it.

    Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019,
    arXiv:1906.04721, equation 11.
    """
    return _factors(_floored(before), _floored(after), 0.5)


def smoothing_factors(activation: Array, weight: Array, alpha: float) -> Array:
    """What to divide each channel by, to move so much of its range into the weights that read it.

    s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), scaled so that their geometric mean is 1.

    Args:
        activation: (channels,), largest magnitude of each channel.
        weight: (channels,), largest magnitude of the weights that read it.
        alpha: 0 leaves all channels of the weights equal, 1 those of the activation.

    Source: Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438, equation 4.
    """
    return _factors(_not_quiet(activation), _floored(weight), alpha)


def _factors(first: Array, second: Array, alpha: float) -> Array:
    logs = alpha * np.log2(first) - (1.0 - alpha) * np.log2(second)
    return np.asarray(2.0 ** np.clip(logs - logs.mean(), -LARGEST_EXPONENT, LARGEST_EXPONENT))


def as_powers_of_two(factors: Array) -> Array:
    """Factors rounded to powers of two, by which float numbers are multiplied and divided without any error."""
    return np.asarray(2.0 ** np.rint(np.log2(np.asarray(factors, dtype=np.float64))))


def as_short_numbers(factors: Array) -> Array:
    """Factors rounded to one of eight values in each octave: 1, 1.125, 1.25 .. 1.875 times a power of two.

    Plans stay short, and the error is nearly that of the factors as they were: it was 1.2 to 1.6 times as large with powers of
    two (products of a language model with outliers), and 1.0 to 1.06 times with these.
    """
    values = np.asarray(factors, dtype=np.float64)
    octave = 2.0 ** np.floor(np.log2(values))
    return np.asarray(np.rint(values / octave * 8.0) / 8.0 * octave)


def _floored(ranges: Array) -> Array:
    values = np.abs(np.asarray(ranges, dtype=np.float64))
    largest = values.max(initial=0.0)
    return np.maximum(values, LEAST * largest) if largest > 0.0 else np.ones(values.shape)


def _not_quiet(ranges: Array) -> Array:
    values = _floored(ranges)
    living = values[values > LEAST * values.max(initial=0.0)]
    return np.maximum(values, QUIET * float(np.quantile(living, 0.1))) if living.size else values
