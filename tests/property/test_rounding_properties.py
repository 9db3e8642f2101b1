"""Properties of every rounding: never worse than nearest where it is judged, codes in range, the same twice, and no warnings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import grams, weights

from qcompress.errors import ModelError
from qcompress.quantize import Evidence, Gram, Layout, fit_weight, from_rows, output_error, to_rows
from qcompress.quantize.evidence import Need
from qcompress.quantize.layouts import importance_of, inputs_of
from qcompress.quantize.roundings import NEEDS
from qcompress.types import (
    CodebookScheme,
    CodebookTensor,
    FloatScheme,
    Levels,
    PerBlock,
    PerChannel,
    PerTensor,
    QuantizedTensor,
    QuantScheme,
    Rounding,
)

modest = settings(deadline=None, derandomize=True, max_examples=120)


@st.composite
def cases(draw):
    """A weight, a scheme on one of its axes, and evidence."""
    weight, layout, groups = draw(weights(6))
    axis = draw(st.integers(0, weight.ndim - 1))
    if draw(st.booleans()):
        granularity = draw(st.sampled_from([PerTensor(), PerChannel(axis), PerBlock(draw(st.integers(1, 4)), axis)]))
        scheme = QuantScheme(draw(st.integers(2, 8)), draw(st.booleans()), draw(st.booleans()), granularity)
    else:
        shared = draw(st.sampled_from([PerTensor(), PerChannel(axis)]))
        scheme = CodebookScheme(draw(st.integers(2, 8)), draw(st.sampled_from(list(Levels))), shared)
    gram = draw(grams(inputs_of(weight.shape, layout, groups), groups)) if layout is not Layout.TABLE else None
    return weight, scheme, Evidence(layout, groups, gram)


@modest
@given(weights(6))
def test_rows_become_the_weight_again(case):
    weight, layout, groups = case
    rows = to_rows(weight, layout, groups)
    assert rows.shape[0] == groups
    assert rows.shape[2] == inputs_of(weight.shape, layout, groups)
    np.testing.assert_array_equal(from_rows(rows, weight.shape, layout, groups), weight)


@modest
@given(weights(6))
def test_importance_belongs_to_the_input_that_a_weight_multiplies(case):
    weight, layout, groups = case
    inputs = inputs_of(weight.shape, layout, groups)
    moments = np.arange(1.0, 1.0 + groups * inputs).reshape(groups, inputs)
    each = np.broadcast_to(importance_of(moments, weight.shape, layout, groups), weight.shape)
    rows = to_rows(each, layout, groups)
    np.testing.assert_array_equal(rows, np.broadcast_to(moments[:, None], rows.shape))


@modest
@given(cases(), st.sampled_from(list(Rounding)))
def test_what_is_stored_is_as_documented(case, rounding):
    weight, scheme, evidence = case
    tensor = fit_weight(weight, scheme, rounding, evidence)
    assert tensor.scheme == scheme
    assert tensor.codes.shape == weight.shape
    assert tensor.scale.dtype == np.float32
    assert np.isfinite(tensor.scale).all()
    assert (tensor.scale >= np.finfo(np.float32).tiny).all()
    if isinstance(tensor, QuantizedTensor):
        assert tensor.codes.dtype == tensor.zero_point.dtype == scheme.storage
        assert tensor.zero_point.shape == tensor.scale.shape
        assert scheme.qmin <= tensor.codes.min() <= tensor.codes.max() <= scheme.qmax
    elif isinstance(tensor, CodebookTensor):
        assert tensor.codes.dtype == np.uint8
        assert tensor.levels.dtype == np.float32
        assert tensor.levels.shape == (1 << scheme.bits,)
        assert (np.diff(tensor.levels) >= 0.0).all()
        assert tensor.codes.max() < 1 << scheme.bits
    dequantized = tensor.dequantize()
    assert dequantized.shape == weight.shape
    assert np.isfinite(dequantized).all()


@modest
@given(cases(), st.sampled_from([Rounding.GPTQ, Rounding.FITTED]))
def test_no_rounding_is_worse_than_clipping_or_nearest_on_the_samples_that_judge_it(case, rounding):
    weight, scheme, evidence = case
    if evidence.gram is None:
        return
    judge = evidence.gram.judge if rounding is Rounding.FITTED else evidence.gram.fit
    found = output_error(weight, fit_weight(weight, scheme, rounding, evidence), evidence, judge)
    others = [Rounding.CLIP] if isinstance(scheme, CodebookScheme) else [Rounding.CLIP, Rounding.NEAREST]
    for other in others:
        bound = output_error(weight, fit_weight(weight, scheme, other, evidence), evidence, judge)
        assert found <= bound * (1.0 + 1e-6)


@modest
@given(cases(), st.sampled_from(list(Rounding)))
def test_the_same_evidence_gives_the_same_codes(case, rounding):
    weight, scheme, evidence = case
    one, other = (fit_weight(weight.copy(), scheme, rounding, evidence) for _ in range(2))
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scale, other.scale)


@modest
@given(cases())
def test_the_output_error_is_that_of_the_rows(case):
    """tr((Q - W) x x^T (Q - W)^T) / n is the mean over rows of the squared error of all outputs."""
    weight, scheme, evidence = case
    if evidence.gram is None:
        return
    inputs = inputs_of(weight.shape, evidence.layout, evidence.groups)
    x = np.random.default_rng(1).standard_normal((evidence.groups, 7, inputs))
    tensor = fit_weight(weight, scheme, Rounding.NEAREST, evidence)
    difference = tensor.dequantize().astype(np.float64) - weight
    outputs = x @ to_rows(difference, evidence.layout, evidence.groups).swapaxes(1, 2)
    expected = np.square(outputs).sum() / 7
    found = output_error(weight, tensor, evidence, x.swapaxes(1, 2) @ x / 7)
    slack = 1e-12 * float(np.square(weight, dtype=np.float64).sum()) * inputs  # values are products of float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=slack)


@modest
@given(weights(6), st.sampled_from([FloatScheme("bfloat16"), FloatScheme("float16")]))
def test_narrow_floats_are_the_nearest(case, scheme):
    weight, layout, groups = case
    weight = weight / max(float(np.abs(weight).max()), 1e-30)
    tensor = fit_weight(weight, scheme, Rounding.NEAREST, Evidence(layout, groups))
    precision = 2.0**-8 if scheme.dtype == "bfloat16" else 2.0**-11
    assert (np.abs(tensor.dequantize() - weight) <= np.abs(weight) * precision * 1.001 + 2.0**-25).all()


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize(
    "scheme", [QuantScheme(4), QuantScheme(4, False, False), CodebookScheme(4), FloatScheme("float16")], ids=str
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(rounding, scheme, value):
    weight = np.ones((4, 5), dtype=np.float32)
    weight[2, 3] = value
    with pytest.raises(ModelError):
        fit_weight(weight, scheme, rounding, Evidence(Layout.OUT_IN, gram=Gram(np.eye(5)[None], None, 5)))


def test_every_rounding_says_what_it_needs():
    assert set(NEEDS) == set(Rounding)
    assert all(needs <= set(Need) for needs in NEEDS.values())


def test_rows_are_worked_on_in_pieces_with_the_same_result(monkeypatch):
    random = np.random.default_rng(4)
    x = random.standard_normal((3, 90, 12)) @ random.standard_normal((3, 12, 12))
    gram = Gram(x.swapaxes(1, 2) @ x / 90, None, 90)
    weight = random.standard_normal((21, 3, 2, 2)).astype(np.float32)
    evidence = Evidence(Layout.CONV, 3, gram)
    scheme = QuantScheme(3, granularity=PerChannel(0))
    whole = fit_weight(weight, scheme, Rounding.FITTED, evidence)
    monkeypatch.setattr("qcompress.quantize.lattice.CHUNK", 30)
    pieces = fit_weight(weight, scheme, Rounding.FITTED, evidence)
    np.testing.assert_array_equal(whole.codes, pieces.codes)
    np.testing.assert_allclose(whole.scale, pieces.scale, rtol=1e-6)
