"""The output error of products whose input and weights are quantized, and the factors per channel that make it least.

y = x W        error = || x W - Q(x / s) Q(s W) ||^2 / || x W ||^2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompress.quantize.affine import parameters, quantize
from qcompress.quantize.equalize import as_powers_of_two, as_short_numbers, smoothing_factors
from qcompress.types import Array, PerChannel, QuantScheme

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of a channel's range that are tried.

Source: Xiao et al., SmoothQuant, arXiv:2211.10438, section 5.1 (0.5 to 0.9 by model); 1 is right where every channel has
weights of its own, as in depthwise convolutions.
"""

GAIN = 0.75
"""Factors must leave less than this share of the error without them: even channels gain up to 0.8 on the rows at hand."""

AS_GOOD = 1.1
"""Powers of two, with which the model computes the same to the bit, are taken when their error is at most so many times."""


@dataclass(frozen=True, slots=True, eq=False)
class ProductSamples:
    """What products over one tensor are judged on.

    ``rows``: (positions, channels). ``low`` and ``high``: (ranges, channels), extremes of each channel, one row for every range
    that is taken. ``ranges``: (positions,), which of them a position is quantized with. ``weights``: each (channels, outputs).
    """

    rows: Array
    low: Array
    high: Array
    ranges: Array
    weights: Sequence[Array]

    @property
    def weight_ranges(self) -> Array:
        """(channels,): the largest magnitude of the weights of each channel."""
        return np.asarray(np.max([np.abs(weight).max(axis=1) for weight in self.weights], axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """Factors and what they do: ``error`` with them and ``before`` without, as shares of the outputs' energy."""

    factors: Array
    alpha: float
    error: float
    before: float


def search_smoothing(samples: ProductSamples, weights: QuantScheme, activations: QuantScheme) -> Smoothing | None:
    """The factors of least output error; None where none is clearly better than doing nothing.

    Args:
        samples: on which real products of rounded rows and weights are compared.
        weights: width and sign; every output has a scale of its own.
        activations: scheme of the input, one scale for each range of the samples.
    """
    outputs = [samples.rows @ weight for weight in samples.weights]
    largest = np.maximum(-samples.low, samples.high).max(axis=0)
    return least_error(
        {alpha: smoothing_factors(largest, samples.weight_ranges, alpha) for alpha in ALPHAS},
        lambda factors: product_error(samples, outputs, factors, weights, activations),
    )


def least_error(candidates: Mapping[float, Array], error: Callable[[Array], float]) -> Smoothing | None:
    """The candidate of least error in short numbers, or in powers of two when that is as good.

    None where none is clearly better than ones.
    """
    best: Smoothing | None = None
    before: float | None = None
    for alpha, candidate in candidates.items():
        factors = as_short_numbers(candidate)
        before = error(np.ones(factors.size)) if before is None else before
        found = error(factors)
        if found < GAIN * before and (best is None or found < best.error):
            best = Smoothing(factors, alpha, found, before)
    if best is None:
        return None
    exact = as_powers_of_two(candidates[best.alpha])
    found = error(exact)
    return Smoothing(exact, best.alpha, found, best.before) if found <= AS_GOOD * best.error else best


def product_error(
    samples: ProductSamples, outputs: Sequence[Array], factors: Array, weights: QuantScheme, activations: QuantScheme
) -> float:
    """The share of the outputs' energy that is error when rows divided and weights multiplied by the factors are rounded.

    Args:
        samples: rows, ranges and weights.
        outputs: of each weight, (positions, outputs), exact.
        factors: (channels,), positive.
        weights: width and sign; every output has a scale of its own.
        activations: scheme of the input.
    """
    rounded = round_rows(samples, factors, activations)
    scheme = QuantScheme(weights.bits, weights.signed, weights.symmetric, PerChannel(1))
    column = factors.astype(np.float32)[:, None]
    wrong = total = 0.0
    for weight, exact in zip(samples.weights, outputs, strict=True):
        difference = rounded @ quantize(weight * column, scheme).dequantize() - exact
        wrong += float(np.square(difference, dtype=np.float64).sum())
        total += float(np.square(exact, dtype=np.float64).sum())
    return wrong / total if total > 0.0 else 0.0


def round_rows(samples: ProductSamples, factors: Array, scheme: QuantScheme) -> Array:
    """(positions, channels): the rows divided by the factors, in steps of the range that each is quantized with."""
    low, high = (samples.low / factors).min(axis=1), (samples.high / factors).max(axis=1)
    scale, zero_point = parameters(low, high, scheme)
    scale, zero = scale[samples.ranges][:, None], zero_point[samples.ranges].astype(np.float32)[:, None]
    codes = np.rint(samples.rows / factors.astype(np.float32) / scale) + zero
    return np.asarray((np.clip(codes, scheme.qmin, scheme.qmax) - zero) * scale)


def expected_error(
    widths: Array, moments: Array, weight: Array, factors: Array, levels: tuple[float, float] = (255.0, 127.0)
) -> float:
    """The expected squared error of one position of a convolution's output, when rows of its input are not at hand.

    Rounding errors are taken as uniform and independent, inputs as uncorrelated:

        sum over o, j:  (s_j w_oj)^2 step_x^2 / 12  +  E[x_j^2] / s_j^2  step_w(o)^2 / 12

    Args:
        widths: (channels,), from the smallest to the largest value of each channel, 0 among them.
        moments: (channels,), E[x^2].
        weight: (groups, channels / group, kernel, outputs / group).
        factors: (channels,), positive.
        levels: steps in the range of the input and in the largest magnitude of a weight.
    """
    shape = weight.shape[:2]
    scaled = np.abs(weight) * factors.reshape(*shape, 1, 1)
    step = float((widths / factors).max()) / levels[0]
    steps = scaled.max(axis=(1, 2)) / levels[1]  # (groups, outputs / group)
    energy = (moments / factors**2).reshape(shape).sum(axis=1) * weight.shape[2]  # (groups,)
    return float(step**2 * np.square(scaled).sum() + (np.square(steps) * energy[:, None]).sum()) / 12.0
