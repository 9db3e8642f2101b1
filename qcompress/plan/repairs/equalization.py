"""Equalization: the rows of one weight and the columns of the next get equal ranges."""

from __future__ import annotations

from collections.abc import Sequence

from qcompress.plan.repairs.proposal import Evidence, Repair, judge, read_ranges, regions_of, rescaling, written_ranges
from qcompress.quantize.equalize import equalize_ranges
from qcompress.quantize.smooth import least_error


def equalization(group: Sequence[str], evidence: Evidence) -> list[Repair]:
    """Factors from the ranges of weights alone, for each tensor between two layers, where they help.

    Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019,
    arXiv:1906.04721, section 4.1.
    """
    repairs = []
    for region, samples in regions_of(group, evidence):
        before = written_ranges(region)
        if before is None:
            continue
        found = least_error({0.5: equalize_ranges(before, read_ranges(region))}, judge(region, samples, evidence))
        if found is not None:
            repairs.append(rescaling("equalization", group, region, found))
    return repairs
