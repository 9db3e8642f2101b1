"""GPTQ is what its paper says, and each step that makes up for errors lowers the error it is meant to lower."""

from itertools import pairwise

import numpy as np
import pytest

from qcompress.quantize import Evidence, Gram, Layout, quantize, search_clip
from qcompress.quantize.descent import descend, gptq, refit_scales
from qcompress.quantize.lattice import EVERY, lattice_of, rounded
from qcompress.types import PerBlock, PerChannel, PerTensor, QuantScheme


def inputs_and_weight(inputs: int = 48, outputs: int = 10, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(11)
    mixing = random.standard_normal((inputs // 4, inputs))
    x = random.standard_normal((rows, inputs // 4)) @ mixing + 0.5 * random.standard_normal((rows, inputs))
    return x.T @ x / rows, random.standard_normal((outputs, inputs)).astype(np.float32)


def start(weight: np.ndarray, scheme: QuantScheme):
    evidence = Evidence(Layout.OUT_IN)
    tensor = quantize(weight, scheme, search_clip(weight, scheme))
    lattice = lattice_of(tensor, evidence)
    return rounded(weight, tensor, lattice, evidence, EVERY), lattice


def textbook_gptq(weight: np.ndarray, hessian: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Algorithm 1 of arXiv:2210.17323 without blocks, largest diagonal first; codes -8..7; all arrays (outputs, inputs)."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    rest, codes = weight[:, order].astype(np.float64), np.empty(weight.shape)
    for k, column in enumerate(order):
        codes[:, column] = np.clip(np.rint(rest[:, k] / scale[:, column]), -8, 7)
        error = (rest[:, k] - codes[:, column] * scale[:, column]) / factor[k, k]
        rest[:, k:] -= np.outer(error, factor[k, k:])
    return codes


def test_gptq_gives_the_codes_of_the_published_algorithm():
    gram, weight = inputs_and_weight(inputs=150)  # more than two runs of inputs
    scheme = QuantScheme(4, granularity=PerBlock(32, 1))
    state, _ = start(weight, scheme)
    hessian = gram + 0.01 * np.diag(gram).mean() * np.eye(len(gram))
    scale = state.scale[state.grid.segments][:, 0].T
    gptq(state, hessian[None])
    np.testing.assert_array_equal(state.units[0].T, textbook_gptq(weight, hessian, scale))


@pytest.mark.parametrize(
    "granularity",
    [PerTensor(), PerChannel(0), PerChannel(1), PerBlock(16, 1), PerBlock(5, 1), PerBlock(4, 0)],
    ids=["tensor", "output", "input", "blocks of inputs", "partial blocks", "blocks of outputs"],
)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_every_step_lowers_the_error(granularity, symmetric):
    gram, weight = inputs_and_weight()
    state, lattice = start(weight, QuantScheme(4, symmetric, symmetric, granularity))
    hessian = gram[np.ix_(lattice.order, lattice.order)][None]
    errors = [state.error(hessian)]
    for step in (descend, refit_scales, descend, refit_scales):
        step(state, hessian, 1)
        errors.append(state.error(hessian))
    assert all(after < before for before, after in pairwise(errors)), errors


def test_scales_refitted_long_enough_are_the_least_squares_solution():
    gram, weight = inputs_and_weight()
    state, _ = start(weight, QuantScheme(4, granularity=PerBlock(12, 1)))
    refit_scales(state, gram[None], sweeps=300)
    for output in range(weight.shape[0]):
        columns = np.zeros((48, 4))
        for block in range(4):
            inside = slice(12 * block, 12 * block + 12)
            columns[inside, block] = state.units[0, inside, output]
        exact = np.linalg.solve(columns.T @ gram @ columns, columns.T @ gram @ weight[output])
        np.testing.assert_allclose(state.scale[:, 0, output], exact, rtol=1e-4)


def test_two_wrongs_make_a_right():
    """Two inputs that are always equal: rounding one up and the other down is exact, nearest rounding is not."""
    weight = np.array([[0.4, 0.4, 7.5]], dtype=np.float32)
    state, _ = start(weight, QuantScheme(4, granularity=PerTensor()))
    state.scale[:] = 1.0
    state.units[:] = np.rint(state.target)
    hessian = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 1.0]])[None]
    descend(state, hessian, 1)
    assert sorted(state.units[0, :2, 0].tolist()) == [0.0, 1.0]


def test_grouped_inputs_are_rounded_like_each_group_alone():
    gram, weight = inputs_and_weight(inputs=24, outputs=6)
    other, _ = inputs_and_weight(inputs=24, rows=100)
    scheme = QuantScheme(4, granularity=PerChannel(0))
    hessians = np.stack([gram, other]) + 0.05 * np.eye(24)
    tensor = quantize(weight, scheme)
    evidence = Evidence(Layout.CONV, groups=2, gram=Gram(hessians, None, 100))
    lattice = lattice_of(tensor, evidence)
    both = rounded(weight, tensor, lattice, evidence, EVERY)
    descend(both, hessians, 2)
    refit_scales(both, hessians)
    for group in range(2):
        alone = rounded(weight, tensor, lattice, evidence, EVERY, slice(group, group + 1))
        descend(alone, hessians[group : group + 1], 2)
        refit_scales(alone, hessians[group : group + 1])
        np.testing.assert_array_equal(alone.units[0], both.units[group])
        np.testing.assert_allclose(alone.scale[:, 0], both.scale[:, group], rtol=1e-6)
