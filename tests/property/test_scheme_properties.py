"""The notation of schemes reads back as what was written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.errors import RecipeError
from qcompress.types import PerBlock, PerChannel, PerTensor, QuantScheme

modest = settings(deadline=None, derandomize=True, max_examples=200)

GRANULARITIES = st.one_of(
    st.just(PerTensor()), st.just(PerChannel()), st.builds(PerBlock, size=st.integers(1, 4096), axis=st.just(-1))
)
SCHEMES = st.builds(QuantScheme, st.integers(2, 16), st.booleans(), st.booleans(), GRANULARITIES)


@modest
@given(SCHEMES)
def test_what_is_written_is_read_back(scheme):
    assert QuantScheme.parse(str(scheme)) == scheme


@modest
@given(st.text(max_size=12) | st.from_regex(r"u?int\d{0,3}(/[a-z]{0,7}\d{0,3}){0,2}", fullmatch=True))
def test_any_text_is_a_scheme_or_a_recipe_error(text):
    try:
        scheme = QuantScheme.parse(text)
    except RecipeError:
        return
    assert QuantScheme.parse(str(scheme)) == scheme


@modest
@given(SCHEMES)
def test_codes_fit_the_storage_type(scheme):
    limits = np.iinfo(scheme.storage)
    assert limits.min <= scheme.qmin <= scheme.midpoint <= scheme.qmax <= limits.max
    assert scheme.qmax - scheme.qmin == 2**scheme.bits - 1


@pytest.mark.parametrize(
    "text", ["", "int", "int1", "int17", "int8/", "int8/block", "int8/block0", "int8/row", "float8", "INT8"]
)
def test_what_is_no_scheme_is_refused(text):
    with pytest.raises(RecipeError):
        QuantScheme.parse(text)
