"""Entropy of codes against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qcompress.quantize import code_entropy, quantize
from qcompress.types import FloatScheme, NarrowTensor, QuantizedTensor, QuantScheme

INT8 = QuantScheme()


def coded(codes: list[int]) -> QuantizedTensor:
    return QuantizedTensor(np.array(codes, np.int8), np.float32(1.0), np.int8(0), INT8)


@pytest.mark.parametrize(
    ("codes", "bits"), [([3, 3, 3], 0.0), ([1, -1], 1.0), ([0, 0, 0, 1], 0.811278), ([-128, 127, 0, 5], 2.0), ([], 0.0)]
)
def test_entropy_of_counts(codes: list[int], bits: float) -> None:
    assert code_entropy(coded(codes)) == pytest.approx(bits, abs=1e-6)


def test_never_more_than_the_width() -> None:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    for width in (2, 3, 4, 8):
        entropy = code_entropy(quantize(weight, QuantScheme(width)))
        assert entropy is not None
        assert 0.4 * width < entropy <= width


def test_narrow_floats_are_no_codes() -> None:
    assert code_entropy(NarrowTensor(np.zeros(4, np.float16), FloatScheme())) is None
