"""Every way to choose the codes of a weight, what each wants to know, and the one function that calls them."""

from __future__ import annotations

import numpy as np

from qcompress.quantize.affine import quantize
from qcompress.quantize.clipping import search_clip
from qcompress.quantize.codebook import fit_codebook
from qcompress.quantize.evidence import Evidence, Need
from qcompress.quantize.fitted import Encoded, fit, fit_damped
from qcompress.quantize.hqq import quantize_hqq
from qcompress.quantize.narrow import narrow
from qcompress.types import Array, CodebookScheme, EncodedTensor, FloatScheme, QuantScheme, Rounding, Scheme

NEEDS: dict[Rounding, frozenset[Need]] = {
    Rounding.NEAREST: frozenset(),
    Rounding.CLIP: frozenset({Need.MOMENTS}),
    Rounding.GPTQ: frozenset({Need.GRAM}),
    Rounding.FITTED: frozenset({Need.GRAM}),
    Rounding.HQQ: frozenset(),
}
"""The evidence each rounding uses. Where it is missing, all inputs count alike, and GPTQ and FITTED become CLIP.

Symmetric schemes have no zero points for HQQ to fit: it becomes CLIP. Codebooks are always fitted to the weights; NEAREST and HQQ
weigh them alike, GPTQ and FITTED choose codes and scales on top. Float types know nearest rounding only.
"""


def fit_weight(
    weight: Array, scheme: Scheme, rounding: Rounding, evidence: Evidence, mask: Array | None = None
) -> EncodedTensor:
    """Store a weight under a scheme, its codes chosen by a rounding.

    Args:
        weight: any shape that fits the layout of the evidence.
        scheme: the granularity's axis is an axis of ``weight``.
        rounding: what it needs is in ``NEEDS``; what ``evidence`` does not have it does without.
        evidence: which axes are inputs, and what is known about the inputs.
        mask: shape of the weight, False where a number is pruned: it takes the code of 0, which every scheme has, and the others
            are rounded knowing it.

    Raises:
        ModelError: a weight is NaN, infinite or beyond the float type. The caller knows which weight it is.
    """
    if mask is not None:
        weight = np.where(mask, weight, np.zeros((), weight.dtype))
    if isinstance(scheme, FloatScheme):
        return narrow(weight, scheme)
    starts = _starts(weight, scheme, rounding, evidence, mask)
    if evidence.gram is None or weight.size == 0:
        return starts[0]
    if rounding is Rounding.GPTQ:
        return fit_damped(weight, starts, evidence, evidence.gram, mask)
    return fit(weight, starts, evidence, evidence.gram, mask) if rounding is Rounding.FITTED else starts[0]


def _starts(
    weight: Array,
    scheme: QuantScheme | CodebookScheme,
    rounding: Rounding,
    evidence: Evidence,
    mask: Array | None,
) -> tuple[Encoded, ...]:
    """What is stored without a Gram matrix; with one, where the steps begin and what they must beat."""
    moments = None if rounding in {Rounding.NEAREST, Rounding.HQQ} else evidence.moments(weight.shape)
    if isinstance(scheme, CodebookScheme):
        if mask is not None:  # 0 is a level anyway; the others lie where the survivors are
            moments = mask.astype(np.float32) if moments is None else np.where(mask, moments, 0.0)
        return (fit_codebook(weight, scheme, moments),)
    if rounding is Rounding.HQQ and not scheme.symmetric:
        return (quantize_hqq(weight, scheme),)
    nearest = quantize(weight, scheme)
    if rounding is Rounding.NEAREST:
        return (nearest,)
    clipped = quantize(weight, scheme, search_clip(weight, scheme, moments))
    return (clipped, nearest) if Need.GRAM in NEEDS[rounding] else (clipped,)
