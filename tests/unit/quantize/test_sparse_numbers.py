"""Numbers taken apart into a mask and those that are not zero, and what that saves."""

import numpy as np
import pytest

from qcompress.quantize import sparse_saves, stored_bytes, without_zeros, zero_code, zero_share
from qcompress.quantize.affine import quantize
from qcompress.quantize.sparse import SPARSE_NODES
from qcompress.types import CodebookScheme, CodebookTensor, FloatScheme, NarrowTensor, QuantScheme, parse_scheme


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float32"])
def test_numbers_come_back_from_mask_and_values(dtype, share):
    rng = np.random.default_rng(3)
    zero = 7 if dtype == "uint8" else 0
    numbers = rng.integers(8, 100, (13, 7)).astype(dtype)
    kept = rng.random(numbers.shape) >= share
    numbers[~kept] = zero
    mask, values = without_zeros(numbers, kept, zero)
    bits = np.unpackbits(mask, bitorder="little")[: numbers.size].astype(np.int64)
    assert values.dtype == numbers.dtype
    assert np.array_equal(values[np.cumsum(bits) * bits].reshape(numbers.shape), numbers)


def test_the_code_of_zero_is_one_or_none():
    weight = np.array([[0.5, 0.0, -0.25], [2.0, 0.0, 1.0]], np.float32)
    assert zero_code(quantize(weight, QuantScheme.parse("int8/channel"))) == 0
    assert zero_code(quantize(weight, QuantScheme.parse("uint8/asym"))) == 28
    assert zero_code(quantize(weight, QuantScheme.parse("uint8/asym/channel"))) is None
    assert zero_code(NarrowTensor(weight, FloatScheme("float32"))) == 0
    codes = np.zeros((2, 3), np.uint8)
    for levels, code, share in (([-1, 0, 1, 2], 1, 0.0), ([-1, -0.5, 1, 2], None, 0.0), ([0, 1, 2, 3], 0, 1.0)):
        encoded = CodebookTensor(codes, np.array(levels, np.float32), np.float32(1), CodebookScheme(2))
        assert zero_code(encoded) == code
        assert zero_share(encoded) == share
    for scheme in ("int8/channel", "uint8/asym/channel", "uint4/asym"):
        assert zero_share(quantize(weight, QuantScheme.parse(scheme))) == pytest.approx(1 / 3)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16, 32])
def test_sparse_storage_is_taken_where_it_saves_more_than_its_nodes(bits):
    elements = 80_000
    dense = elements * bits // 8
    for kept in range(0, elements + 1, 8_000):
        saved = sparse_saves(elements, kept, bits)
        exact = dense - elements // 8 - (kept + 1) * bits / 8
        assert saved == pytest.approx(exact, abs=bits) or (saved == 0 and exact < dense / 32 + SPARSE_NODES + bits)
        assert saved == 0 or saved > SPARSE_NODES
    assert sparse_saves(elements, elements, bits) == 0
    assert sparse_saves(64, 0, bits) == 0
    assert sparse_saves(0, 0, bits) == 0


@pytest.mark.parametrize("text", ["int8/channel", "int4/channel", "uint4/asym", "codebook16", "float16", "float32"])
def test_planned_bytes_fall_with_the_share_that_is_kept(text):
    scheme = parse_scheme(text)
    planned = [stored_bytes((128, 500), scheme, kept=kept) for kept in (1.0, 0.99, 0.6, 0.5, 0.2)]
    assert planned[0] == planned[1] == stored_bytes((128, 500), scheme)
    assert planned[1] > planned[2] > planned[3] > planned[4]
    assert planned[0] - planned[3] == pytest.approx(64_000 * (scheme.bits / 2 - 1) / 8, abs=scheme.bits)
    assert stored_bytes((128, 500), scheme, by_rows=True, kept=0.2) == stored_bytes((128, 500), scheme, by_rows=True)
