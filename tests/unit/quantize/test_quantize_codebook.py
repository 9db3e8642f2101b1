"""Codebooks: 0 is exact, levels follow the weights and the inputs that matter, powers of two are powers of two."""

import numpy as np
import pytest

from qcompress.errors import ModelError
from qcompress.quantize import fit_codebook, quantize, search_clip
from qcompress.quantize.levels import bins_of, lloyd, nearest_levels, power_levels
from qcompress.types import CodebookScheme, parse_scheme


def weight(seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    sizes = np.exp(0.5 * random.standard_normal((40, 1)))
    return (random.standard_t(5, (40, 300)) * sizes).astype(np.float32)


def error(values: np.ndarray, tensor) -> float:
    return float(np.square(tensor.dequantize() - values, dtype=np.float64).sum())


@pytest.mark.parametrize(
    ("codebook", "integers", "share"), [("codebook16/channel", "int4/channel", 0.7), ("codebook16", "int4", 0.5)]
)
def test_sixteen_fitted_levels_beat_sixteen_even_ones(codebook, integers, share):
    scheme = parse_scheme(integers)
    even = quantize(weight(), scheme, search_clip(weight(), scheme))
    assert error(weight(), fit_codebook(weight(), CodebookScheme.parse(codebook))) < share * error(weight(), even)


def test_a_weight_of_few_values_is_exact():
    values = np.random.default_rng(0).choice([-1.5, -0.25, 0.0, 0.5, 4.0], (7, 11)).astype(np.float32)
    tensor = fit_codebook(values, CodebookScheme(4))
    np.testing.assert_allclose(tensor.dequantize(), values, rtol=1e-6)


@pytest.mark.parametrize(
    "notation", ["codebook16", "codebook16/channel", "codebook4/channel", "log4", "log2/channel", "log8"]
)
def test_zeros_stay_zeros_and_dead_channels_have_a_scale(notation):
    values = weight()
    values[3] = 0.0
    values[:, 7] = 0.0
    tensor = fit_codebook(values, CodebookScheme.parse(notation))
    assert 0.0 in tensor.levels
    assert (tensor.dequantize()[3] == 0.0).all()
    assert (tensor.dequantize()[:, 7] == 0.0).all()
    assert (tensor.scale > 0.0).all()


def test_what_inputs_meet_is_fitted_best():
    values, importance = weight(), np.ones((1, 300))
    values[:, ::10] *= 0.2
    importance[0, ::10] = 1e3
    plain = np.square(fit_codebook(values, CodebookScheme(3)).dequantize() - values)
    weighted = np.square(fit_codebook(values, CodebookScheme(3), importance).dequantize() - values)
    assert (weighted * importance).sum() < 0.5 * (plain * importance).sum()


def test_channels_of_any_axis_have_their_own_scale():
    values = weight()
    first = fit_codebook(values, CodebookScheme.parse("codebook16/channel"))
    second = fit_codebook(np.ascontiguousarray(values.T), CodebookScheme.parse("codebook16/channel").on_axis(1))
    assert first.scale.shape == second.scale.shape == (40,)
    np.testing.assert_array_equal(first.dequantize(), second.dequantize().T)


def test_powers_of_two_fill_every_code():
    np.testing.assert_array_equal(power_levels(2), [-2.0, 0.0, 1.0, 2.0])
    for bits in range(2, 9):
        levels = power_levels(bits)
        assert len(levels) == 1 << bits
        assert (np.diff(levels) > 0.0).all()
        assert set(np.frexp(np.abs(levels[levels != 0.0]))[0].tolist()) == {0.5}
        assert (np.abs(levels[levels != 0.0]) >= np.finfo(np.float32).tiny).all()


def test_powers_of_two_times_a_scale_are_exact():
    values = np.array([[0.3, -0.6, 1.2, 0.0, 2.4]], dtype=np.float32)
    np.testing.assert_allclose(fit_codebook(values, CodebookScheme.parse("log4")).dequantize(), values, rtol=1e-6)


def test_lloyd_lowers_the_error_and_keeps_the_order():
    numbers = np.sort(np.random.default_rng(2).standard_normal(5000))
    bins = bins_of(numbers)
    mass, moment = np.bincount(bins, minlength=8192).astype(float), np.bincount(bins, numbers, 8192)
    levels = np.linspace(-1, 1, 9)
    moved = lloyd(mass, moment, levels)

    def squares(of: np.ndarray) -> float:
        return float(np.square(numbers - of[nearest_levels(of, numbers)]).sum())

    assert squares(moved) < 0.6 * squares(levels)
    assert (np.diff(moved) > 0.0).all()
    assert 0.0 in moved


def test_large_weights_are_worked_on_in_pieces_with_the_same_result(monkeypatch):
    whole = [fit_codebook(weight(), CodebookScheme.parse(text)) for text in ("codebook16", "codebook16/channel", "log4")]
    monkeypatch.setattr("qcompress.quantize.codebook._CHUNK", 1000)
    pieces = [fit_codebook(weight(), CodebookScheme.parse(text)) for text in ("codebook16", "codebook16/channel", "log4")]
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one.dequantize(), other.dequantize(), rtol=1e-5)


@pytest.mark.parametrize("notation", ["codebook16", "log4/channel"])
def test_nan_is_refused(notation):
    values = weight()
    values[1, 2] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        fit_codebook(values, CodebookScheme.parse(notation))
