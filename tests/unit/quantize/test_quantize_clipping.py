"""Clipping: outliers are cut when they are unimportant, and memory stays small on big weights."""

import tracemalloc

import numpy as np
import pytest

from qcompress.errors import ModelError
from qcompress.quantize import quantize, search_clip
from qcompress.quantize.clipping import _first_least
from qcompress.types import PerBlock, PerChannel, PerTensor, QuantScheme

INT4 = QuantScheme(4)


def with_outlier() -> np.ndarray:
    values = np.random.default_rng(3).standard_normal((4, 256)).astype(np.float32)
    values[2, 7] = 9.0
    return values


def test_only_the_channel_with_an_outlier_is_cut_hard():
    factors = search_clip(with_outlier(), QuantScheme(4, granularity=PerChannel(0)))
    assert factors.shape == (4,)
    assert factors[2] < factors[[0, 1, 3]].min()


def test_an_important_outlier_is_kept():
    scheme = QuantScheme(4, granularity=PerChannel(0))
    importance = np.ones((1, 256))
    importance[0, 7] = 1e4
    factor = search_clip(with_outlier(), scheme, importance)[2]
    quantized = quantize(with_outlier(), scheme, search_clip(with_outlier(), scheme, importance))
    assert factor == pytest.approx(7.5 / 7)  # 9.0 becomes the code 7 exactly
    assert quantized.dequantize()[2, 7] == pytest.approx(9.0)


def test_what_no_input_meets_costs_nothing_and_ties_keep_the_whole_range():
    scheme = QuantScheme(4, granularity=PerChannel(0))
    assert search_clip(with_outlier(), scheme, np.zeros((1, 256))).tolist() == [1.0] * 4
    assert search_clip(np.zeros((3, 5), np.float32), scheme).tolist() == [1.0] * 3


def test_the_scale_of_the_importance_does_not_matter():
    importance = np.random.default_rng(0).random((1, 256))
    chosen = [search_clip(with_outlier(), INT4, importance * factor) for factor in (1.0, 2.0**300, 2.0**-300)]
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_the_least_weighted_error_of_the_grid(seed):
    generator = np.random.default_rng(seed)
    values = generator.standard_t(3, (4, 64)).astype(np.float32)
    importance = np.exp(2.0 * generator.standard_normal((1, 64)))
    errors = {
        factor: (importance * np.square(quantize(values, INT4, np.array(factor)).dequantize() - values)).sum()
        for factor in (*np.linspace(1.0, 0.4, 31), *np.linspace(0.36, 0.08, 8), 7.5 / 7)
    }
    assert search_clip(values, INT4, importance) == pytest.approx(min(errors, key=errors.get))


def test_a_gain_within_rounding_keeps_the_preferred_factor():
    errors = np.array([[1.0, 1.0], [1.0 - 1e-6, 0.9], [1.0 + 1e-6, 0.9]])
    assert _first_least(errors).tolist() == [0, 1]


@pytest.mark.parametrize(
    "granularity",
    [PerTensor(), PerChannel(0), PerChannel(1), PerChannel(2), PerBlock(8, 0), PerBlock(5, 1), PerBlock(4, -1)],
)
@pytest.mark.parametrize("shape", [(48, 40, 3), (12, 70, 90)])
def test_factors_do_not_depend_on_how_the_weight_is_cut_into_chunks(granularity, shape, monkeypatch):
    values = np.random.default_rng(5).standard_t(4, shape).astype(np.float32)
    importance = np.random.default_rng(6).random((shape[0], 1, shape[2]))
    scheme = QuantScheme(4, granularity=granularity)
    whole = search_clip(values, scheme, importance)
    assert whole.shape == quantize(values, scheme).scale.shape
    monkeypatch.setattr("qcompress.quantize.groups._CHUNK", 1000)
    np.testing.assert_array_equal(search_clip(values, scheme, importance), whole)


def test_a_vector_can_be_cut_into_blocks():
    assert search_clip(with_outlier()[2], QuantScheme(4, granularity=PerBlock(100))).shape == (3,)


def test_memory_beyond_the_weight_is_a_fraction_of_it():
    values = np.zeros((4096, 1024), np.float32)
    values[:, ::7] = 1.0
    importance = np.ones((1, 1024))
    tracemalloc.start()
    search_clip(values, QuantScheme(8, granularity=PerChannel(0)), importance)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 4


def test_a_weight_that_is_not_finite_is_refused():
    with pytest.raises(ModelError):
        search_clip(np.array([1.0, np.nan], np.float32), INT4)


def test_few_codes_for_many_heavy_tailed_weights_are_cut_very_hard():
    values = np.random.default_rng(8).standard_t(5, (3, 4608)).astype(np.float32)
    scheme = QuantScheme(2, granularity=PerChannel(0))
    factors = search_clip(values, scheme)
    assert (factors < 0.4).all()

    def error(clip: np.ndarray) -> float:
        return float(np.square(quantize(values, scheme, clip).dequantize() - values).sum())

    assert error(factors) < 0.7 * error(np.full(3, 0.4))
