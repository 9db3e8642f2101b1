"""Narrow floats: rounded to even, refused beyond the range."""

import ml_dtypes
import numpy as np
import pytest

from qcompress.errors import ModelError
from qcompress.quantize import narrow
from qcompress.types import FloatScheme


def test_ties_go_to_the_even_number():
    values = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8], dtype=np.float32)  # bfloat16 has steps of 2^-7 there
    tensor = narrow(values, FloatScheme("bfloat16"))
    assert tensor.values.dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(tensor.dequantize(), np.float32([1.0, 1 + 2.0**-6, -1.0]))
    half = narrow(np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11], dtype=np.float32), FloatScheme())
    np.testing.assert_array_equal(half.values, np.float16([1.0, 1 + 2.0**-9]))


@pytest.mark.parametrize(("dtype", "large"), [("float16", 65_520.0), ("bfloat16", 3.4e38)])
def test_what_would_become_infinite_is_refused(dtype, large):
    with pytest.raises(ModelError, match=dtype):
        narrow(np.array([0.5, -large], dtype=np.float32), FloatScheme(dtype))


def test_the_largest_numbers_are_kept():
    assert narrow(np.array([65_519.0]), FloatScheme()).dequantize().tolist() == [65_504.0]
    assert narrow(np.array([1e38], dtype=np.float32), FloatScheme("bfloat16")).dequantize()[0] == pytest.approx(
        1e38, rel=0.004
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ModelError, match="NaN or infinite"):
        narrow(np.array([1.0, value]), FloatScheme("bfloat16"))
