"""Smoothing: large channels of an activation are divided, the weights that read them multiplied."""

from __future__ import annotations

from collections.abc import Sequence

from qcompress.plan.repairs.proposal import Evidence, Repair, judge, read_ranges, regions_of, rescaling
from qcompress.quantize.equalize import smoothing_factors
from qcompress.quantize.smooth import ALPHAS, least_error


def smoothing(group: Sequence[str], evidence: Evidence) -> list[Repair]:
    """Factors of least output error for each tensor the group reads, where they are clearly better than none.

    Source: Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438, section 4; the exponent is chosen by output error.
    """
    repairs = []
    for region, samples in regions_of(group, evidence):
        weights = read_ranges(region)
        candidates = {alpha: smoothing_factors(samples.largest, weights, alpha) for alpha in ALPHAS}
        found = least_error(candidates, judge(region, samples, evidence))
        if found is not None:
            repairs.append(rescaling("smoothing", group, region, found))
    return repairs
