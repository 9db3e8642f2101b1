"""Pruned numbers stay exactly 0 through every rounding, and knowing that costs nothing where rounding is judged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.prune import prune_weight
from qcompress.quantize import Evidence, Gram, Layout, fit_weight, inputs_of, output_error
from qcompress.types import (
    CodebookScheme,
    Criterion,
    FloatScheme,
    Levels,
    PerBlock,
    PerChannel,
    PerTensor,
    Prune,
    QuantizedTensor,
    QuantScheme,
    Rounding,
)

modest = settings(deadline=None, derandomize=True, max_examples=120)


@st.composite
def cases(draw):
    """A weight, a mask (whole groups of which may be pruned), a scheme and evidence."""
    layout = draw(st.sampled_from([Layout.IN_OUT, Layout.OUT_IN, Layout.CONV, Layout.CONV_TRANSPOSE, Layout.TABLE]))
    convolution = layout in {Layout.CONV, Layout.CONV_TRANSPOSE}
    groups = draw(st.integers(1, 3)) if convolution else 1
    shape = [draw(st.integers(1, 8)) for _ in range(3 if convolution else 2)]
    shape[0] *= groups
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    weight = (random.standard_t(4, shape) * 10.0 ** draw(st.integers(-8, 8))).astype(np.float32)
    weight[random.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0.0
    mask = random.random(shape) >= draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    mask[: draw(st.integers(0, shape[0]))] = False
    axis = draw(st.integers(0, len(shape) - 1))
    grain = draw(st.sampled_from([PerTensor(), PerChannel(axis), PerBlock(draw(st.integers(1, 4)), axis)]))
    if draw(st.booleans()) or isinstance(grain, PerBlock):
        scheme = QuantScheme(draw(st.integers(2, 8)), draw(st.booleans()), draw(st.booleans()), grain)
    else:
        scheme = CodebookScheme(draw(st.integers(2, 5)), draw(st.sampled_from(list(Levels))), grain)
    gram = None
    if layout is not Layout.TABLE and draw(st.booleans()):
        inputs = inputs_of(weight.shape, layout, groups)
        x = random.standard_normal((2, groups, 20, inputs)) @ random.standard_normal((groups, inputs, inputs))
        fit, held = x.swapaxes(-1, -2) @ x / 20
        gram = Gram(fit, held if draw(st.booleans()) else None, 20, 20)
    return weight, mask, scheme, Evidence(layout, groups, gram)


@modest
@given(cases(), st.sampled_from(list(Rounding)))
def test_pruned_numbers_stay_exactly_zero(case, rounding):
    weight, mask, scheme, evidence = case
    tensor = fit_weight(weight, scheme, rounding, evidence, mask)
    assert (tensor.dequantize()[~mask] == 0.0).all()
    assert np.isfinite(tensor.dequantize()).all()
    assert (tensor.scale > 0.0).all()
    if isinstance(tensor, QuantizedTensor):
        zero_points = np.broadcast_to(tensor.spread(tensor.zero_point), weight.shape)
        np.testing.assert_array_equal(tensor.codes[~mask], zero_points[~mask])


@modest
@given(cases(), st.sampled_from([Rounding.GPTQ, Rounding.FITTED]))
def test_rounding_that_knows_the_mask_is_never_worse_than_clipping(case, rounding):
    weight, mask, scheme, evidence = case
    if evidence.gram is None:
        return
    pruned = np.where(mask, weight, np.float32(0.0))
    judge = evidence.gram.judge if rounding is Rounding.FITTED else evidence.gram.fit
    found, clipped = (
        output_error(pruned, fit_weight(weight, scheme, chosen, evidence, mask), evidence, judge)
        for chosen in (rounding, Rounding.CLIP)
    )
    assert found <= clipped * (1.0 + 1e-6)


@modest
@given(cases(), st.sampled_from(list(Rounding)))
def test_a_mask_that_keeps_everything_changes_nothing(case, rounding):
    weight, mask, scheme, evidence = case
    one, other = (fit_weight(weight, scheme, rounding, evidence, given) for given in (None, np.ones_like(mask)))
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scale, other.scale)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_floats_lose_what_is_pruned(dtype):
    weight = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    mask = np.random.default_rng(1).random((6, 9)) > 0.5
    tensor = fit_weight(weight, FloatScheme(dtype), Rounding.NEAREST, Evidence(Layout.OUT_IN), mask)
    assert (tensor.dequantize()[~mask] == 0.0).all()
    np.testing.assert_allclose(tensor.dequantize()[mask], weight[mask], rtol=2.0**-8)


@pytest.mark.parametrize(
    "scheme", [QuantScheme(4, granularity=PerChannel(0)), QuantScheme(8, granularity=PerChannel(0))], ids=str
)
def test_knowing_the_mask_beats_zeros_put_back_afterwards(scheme):
    random = np.random.default_rng(3)
    mixing = random.standard_normal((24, 96)) / 5.0
    x, fresh = (
        random.standard_normal((rows, 24)) @ mixing + 0.3 * random.standard_normal((rows, 96)) for rows in (800, 2000)
    )
    weight = random.standard_t(5, (32, 96)).astype(np.float32)
    gram = Gram((x[200:].T @ x[200:] / 600)[None], (x[:200].T @ x[:200] / 200)[None], 600, 200)
    evidence = Evidence(Layout.OUT_IN, gram=gram)
    pruned, mask = prune_weight(weight, Prune(0.5, Criterion.OPTIMAL_BRAIN), evidence)
    knowing = fit_weight(pruned, scheme, Rounding.FITTED, evidence, mask).dequantize()
    unaware = np.where(mask, fit_weight(pruned, scheme, Rounding.FITTED, evidence).dequantize(), 0.0)
    errors = [float(np.square(fresh @ (values - weight).T).sum()) for values in (knowing, unaware)]
    assert errors[0] < errors[1]


def layer_of(seed: int) -> tuple[np.ndarray, Evidence]:
    """A weight, (32, 96), and inputs that go together, so that rounding would make use of any number it may."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((2000, 24)) @ random.standard_normal((24, 96)) / 5.0 + 0.1 * random.standard_normal(
        (2000, 96)
    )
    gram = Gram((x[500:].T @ x[500:] / 1500)[None], (x[:500].T @ x[:500] / 500)[None], 1500, 500)
    return random.standard_t(5, (32, 96)).astype(np.float32), Evidence(Layout.OUT_IN, gram=gram)


@pytest.mark.parametrize("rounding", [Rounding.GPTQ, Rounding.FITTED])
@pytest.mark.parametrize(
    "scheme",
    [
        QuantScheme(3, granularity=PerChannel(0)),
        QuantScheme(4, False, False, PerBlock(32, 1)),
        QuantScheme(4, granularity=PerChannel(1)),
        CodebookScheme(4, granularity=PerChannel(0)),
        CodebookScheme(4, granularity=PerChannel(1)),
    ],
    ids=str,
)
def test_numbers_that_would_be_of_use_stay_zero_as_well(scheme, rounding):
    weight, evidence = layer_of(11)
    pruned, mask = prune_weight(weight, Prune(0.5), evidence)
    free = fit_weight(pruned, scheme, rounding, evidence).dequantize()
    assert np.count_nonzero(free[~mask]) > 20  # else this says nothing
    tensor = fit_weight(pruned, scheme, rounding, evidence, mask)
    assert (tensor.dequantize()[~mask] == 0.0).all()
    assert np.count_nonzero(tensor.dequantize()[mask]) > 0.7 * np.count_nonzero(mask)


def test_levels_of_a_codebook_lie_where_survivors_are():
    weight, evidence = layer_of(12)
    mask = np.abs(weight) > np.quantile(np.abs(weight), 0.9)
    pruned, scheme = np.where(mask, weight, np.float32(0.0)), CodebookScheme(4, granularity=PerChannel(0))
    knowing, unaware = (fit_weight(pruned, scheme, Rounding.NEAREST, evidence, given).dequantize() for given in (mask, None))
    assert np.square(knowing - pruned).sum() < 0.9 * np.square(unaware - pruned).sum()
    knowing, unaware = (fit_weight(pruned, scheme, Rounding.CLIP, evidence, given) for given in (mask, None))
    assert not np.array_equal(knowing.levels, unaware.levels)


def test_the_mask_follows_inputs_that_are_put_in_another_order():
    """Scales of kernel positions: inputs that share one are not neighbours, and are sorted before rounding."""
    weight, evidence = layer_of(13)
    conv = Evidence(Layout.CONV, gram=evidence.gram)
    pruned, mask = prune_weight(weight.reshape(32, 12, 8), Prune(0.5), conv)
    scheme = QuantScheme(3, granularity=PerChannel(2))
    clipped, tensor = (fit_weight(pruned, scheme, rounding, conv, mask) for rounding in (Rounding.CLIP, Rounding.FITTED))
    assert (tensor.dequantize()[~mask] == 0.0).all()
    judge = evidence.gram.judge
    assert output_error(pruned, tensor, conv, judge) < 0.5 * output_error(pruned, clipped, conv, judge)
