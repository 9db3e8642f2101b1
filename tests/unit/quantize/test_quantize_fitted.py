"""How far correlations are trusted, what is fallen back to, and HQQ for when there is no data."""

import numpy as np
import pytest

from qcompress.errors import CalibrationError
from qcompress.quantize import Evidence, Gram, Layout, fit_weight, output_error, quantize, quantize_hqq
from qcompress.quantize.fitted import Conditioning, expected_share
from qcompress.types import CodebookScheme, PerBlock, PerChannel, QuantScheme, Rounding


def gram_of(rows: int, causes: int, inputs: int = 40, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((causes, inputs))
    x = random.standard_normal((rows, causes)) @ mixing + 0.3 * random.standard_normal((rows, inputs))
    return (x.T @ x / rows)[None]


def weight(inputs: int = 40) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((16, inputs)).astype(np.float32)


def test_many_rows_with_few_causes_are_trusted_and_chance_is_not():
    assert expected_share(Gram(gram_of(4000, 8), None, 4000)) < 0.02
    independent = np.random.default_rng(2).standard_normal((60, 40))
    assert expected_share(Gram((independent.T @ independent / 60)[None], None, 60)) > 0.8
    assert expected_share(Gram(np.zeros((1, 40, 40)), None, 60)) == 1.0


def test_shrinking_keeps_the_diagonal_and_makes_it_positive_definite():
    gram = gram_of(5, 3)
    gram[0, 7] = gram[0, :, 7] = 0.0
    shrunk = Conditioning(share=0.25).apply(gram)
    np.testing.assert_allclose(np.diagonal(shrunk[0])[:7], np.diagonal(gram[0])[:7])
    np.testing.assert_allclose(shrunk[0, 0, 1:7], 0.75 * gram[0, 0, 1:7])
    assert np.linalg.eigvalsh(shrunk[0]).min() > 0.0
    assert np.linalg.eigvalsh(Conditioning(share=1.0).apply(np.zeros((2, 3, 3)))).min() == 1.0


def test_correlations_that_held_out_samples_contradict_are_not_used():
    scheme = QuantScheme(4, granularity=PerChannel(0))
    evidence = Evidence(Layout.OUT_IN, gram=Gram(gram_of(20, 2, seed=3), np.eye(40)[None], 60, 2000))
    clipped = fit_weight(weight(), scheme, Rounding.CLIP, evidence)
    fitted = fit_weight(weight(), scheme, Rounding.FITTED, evidence)
    assert output_error(weight(), fitted, evidence, np.eye(40)[None]) <= output_error(
        weight(), clipped, evidence, np.eye(40)[None]
    )


@pytest.mark.parametrize(
    "scheme",
    [QuantScheme(3, granularity=PerBlock(8, 1)), QuantScheme(3, False, False, PerChannel(0)), CodebookScheme(3)],
    ids=str,
)
def test_inputs_that_go_together_are_worth_a_lot(scheme):
    gram = Gram(gram_of(3000, 8), gram_of(1000, 8, seed=1), 3000, 1000)
    evidence = Evidence(Layout.OUT_IN, gram=gram)
    fresh = gram_of(5000, 8, seed=2)
    found = {
        rounding: output_error(weight(), fit_weight(weight(), scheme, rounding, evidence), evidence, fresh)
        for rounding in (Rounding.CLIP, Rounding.GPTQ, Rounding.FITTED)
    }
    assert found[Rounding.FITTED] < 0.95 * found[Rounding.GPTQ] < 0.5 * found[Rounding.CLIP]


def test_all_rows_are_used_once_the_share_is_picked():
    fit, held = gram_of(30, 8), gram_of(30, 8, seed=1)
    pooled = Gram(fit, held, 30, 90).pooled
    np.testing.assert_allclose(pooled, 0.25 * fit + 0.75 * held)
    assert Gram(fit, held, 30).pooled is fit


def test_inputs_that_are_no_numbers_are_refused():
    broken = gram_of(30, 8)
    broken[0, 3, 3] = np.nan
    with pytest.raises(CalibrationError, match="NaN"):
        Gram(np.eye(40)[None], broken, 30)


@pytest.mark.parametrize("granularity", [PerChannel(0), PerChannel(1), PerBlock(32, 1), PerBlock(7, 0)], ids=str)
def test_hqq_lowers_the_norm_it_is_made_for_in_every_group(granularity):
    values = np.random.default_rng(6).standard_t(4, (48, 96)).astype(np.float32)
    scheme = QuantScheme(4, False, False, granularity)
    nearest, hqq = quantize(values, scheme), quantize_hqq(values, scheme)
    assert hqq.scale.shape == nearest.scale.shape

    def norm(tensor) -> float:
        return float((np.abs(tensor.dequantize() - values) ** 0.7).sum())

    assert norm(hqq) < 0.99 * norm(nearest)


def test_hqq_saves_a_tensor_with_one_scale_and_outliers():
    values = np.random.default_rng(6).standard_normal((64, 64)).astype(np.float32)
    values[3, 4] = 60.0
    scheme = QuantScheme(4, False, False)

    def typical(tensor) -> float:
        return float(np.median(np.abs(tensor.dequantize() - values)))

    assert typical(quantize_hqq(values, scheme)) < 0.5 * typical(quantize(values, scheme))
