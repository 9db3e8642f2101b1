"""Weights made to fit the inputs that a layer really gets."""

from __future__ import annotations

import numpy as np
import pytest

from qcompress.quantize import Evidence, Gram, Layout
from qcompress.quantize.align import Beside, Drift, align
from qcompress.quantize.evidence import Means
from qcompress.types import Array

SHAPES = {
    Layout.IN_OUT: ((12, 7), 1),
    Layout.OUT_IN: ((7, 12), 1),
    Layout.CONV: ((8, 3, 2, 2), 2),
    Layout.CONV_TRANSPOSE: ((24, 3, 2), 2),
}

NO_MEANS = Means(np.zeros((1, 7)), None)


def moments(x: Array, moved: Array) -> tuple[Array, Array]:
    """E[x' x'T] and E[x' (x - x')T] of rows (groups, rows, inputs)."""
    turned = moved.transpose(0, 2, 1)
    return turned @ moved / x.shape[1], turned @ (x - moved) / x.shape[1]


def outputs(rows: Array, weight: Array, layout: Layout, groups: int) -> Array:
    """What the weight makes of the rows, written out for each layout."""
    if layout is Layout.IN_OUT:
        return rows[0] @ weight
    if layout is Layout.OUT_IN:
        return rows[0] @ weight.T
    if layout is Layout.CONV:
        return np.einsum("grk,gok->rgo", rows, weight.reshape(groups, weight.shape[0] // groups, -1))
    return np.einsum("grk,gko->rgo", rows, weight.reshape(groups, weight.shape[0] // groups, -1))


def grouped(found: Array) -> Array:
    """(groups, rows, outputs / group) of what ``outputs`` gives."""
    return found[np.newaxis] if found.ndim == 2 else found.transpose(1, 0, 2)


def drawn(layout: Layout, noise: float, count: int = 4000) -> tuple[Array, Array, Array]:
    shape, groups = SHAPES[layout]
    rng = np.random.default_rng(len(layout))
    mix = rng.normal(size=(12, 12)) + 1.0
    x = rng.normal(size=(groups, count, 12)) @ mix
    shrunk = x * rng.uniform(0.8, 1.1, 12) + noise * rng.normal(size=x.shape) + noise
    return x, shrunk, rng.normal(size=shape).astype(np.float32)


def evidence_of(layout: Layout, x: Array, moved: Array) -> tuple[Evidence, Drift]:
    cut = x.shape[1] * 3 // 4
    fit, fit_drift = moments(x[:, :cut], moved[:, :cut])
    held, held_drift = moments(x[:, cut:], moved[:, cut:])
    gram = Gram(fit, held, cut, x.shape[1] - cut)
    return Evidence(layout, SHAPES[layout][1], gram), Drift(fit_drift, held_drift)


@pytest.mark.parametrize("layout", SHAPES)
def test_outputs_come_back_to_what_they_were(layout: Layout) -> None:
    x, moved, weight = drawn(layout, 0.05, 8000)
    evidence, drift = evidence_of(layout, x[:, :4000], moved[:, :4000])
    aligned = align(weight, evidence, drift)
    assert aligned.shape == weight.shape
    assert aligned.dtype == np.float32
    fresh, groups = slice(4000, None), SHAPES[layout][1]
    wanted = outputs(x[:, fresh], weight, layout, groups)
    before = np.square(outputs(moved[:, fresh], weight, layout, groups) - wanted).mean()
    after = np.square(outputs(moved[:, fresh], aligned, layout, groups) - wanted).mean()
    assert after < 0.3 * before


@pytest.mark.parametrize("layout", SHAPES)
def test_what_is_lacking_beside_the_outputs_is_made_up_for(layout: Layout) -> None:
    x, _, weight = drawn(layout, 0.0, 8000)
    groups = SHAPES[layout][1]
    rng = np.random.default_rng(3)
    by_rows = grouped(outputs(x, weight, layout, groups))
    mix = rng.normal(size=(groups, 12, by_rows.shape[2]))
    lacking = x @ mix + 0.1 * rng.normal(size=by_rows.shape)  # r: nearly all of it follows from x
    fit, held = slice(0, 3000), slice(3000, 4000)
    evidence, drift = evidence_of(layout, x[:, :4000], x[:, :4000])
    beside = [x[:, part].transpose(0, 2, 1) @ lacking[:, part] / x[:, part].shape[1] for part in (fit, held)]
    aligned = align(weight, evidence, Drift(drift.fit, drift.held, beside=Beside(*beside, NO_MEANS)))
    change = grouped(outputs(x[:, 4000:], aligned, layout, groups)) - by_rows[:, 4000:]
    assert np.square(change - lacking[:, 4000:]).mean() < 0.05 * np.square(lacking[:, 4000:]).mean()


def test_what_is_lacking_in_another_shape_is_left_out() -> None:
    x, moved, weight = drawn(Layout.IN_OUT, 0.05)
    evidence, drift = evidence_of(Layout.IN_OUT, x, moved)
    broadcast = np.ones((1, 12, 1))
    with_it = align(weight, evidence, Drift(drift.fit, drift.held, beside=Beside(broadcast, broadcast, NO_MEANS)))
    np.testing.assert_array_equal(with_it, align(weight, evidence, drift))


def test_many_rows_give_the_least_squares_solution() -> None:
    x, moved, weight = drawn(Layout.IN_OUT, 0.5, 20000)
    evidence, drift = evidence_of(Layout.IN_OUT, x, moved)
    exact, *_ = np.linalg.lstsq(moved[0], x[0] @ weight.astype(np.float64), rcond=None)
    assert np.linalg.norm(align(weight, evidence, drift) - exact) < 0.2 * np.linalg.norm(weight - exact)


@pytest.mark.parametrize("count", [8, 16, 60])
def test_noise_is_not_fitted(count: int) -> None:
    """With fewer rows than it takes, the weight changes little or not at all."""
    x, _, weight = drawn(Layout.IN_OUT, 0.5, 4000 + count)
    moved = x + np.random.default_rng(count).normal(size=x.shape)
    evidence, drift = evidence_of(Layout.IN_OUT, x[:, :count], moved[:, :count])
    aligned = align(weight, evidence, drift)
    wanted = x[0, count:] @ weight
    before = np.square(moved[0, count:] @ weight - wanted).mean()
    assert np.square(moved[0, count:] @ aligned - wanted).mean() < 1.1 * before


def test_nothing_moved_or_nothing_held_out_leaves_the_weight_alone() -> None:
    x, moved, weight = drawn(Layout.IN_OUT, 0.5)
    evidence, drift = evidence_of(Layout.IN_OUT, x, x)
    np.testing.assert_array_equal(align(weight, evidence, drift), weight)
    evidence, drift = evidence_of(Layout.IN_OUT, x, moved)
    assert evidence.gram is not None
    alone = Evidence(Layout.IN_OUT, 1, Gram(evidence.gram.fit, None, 100))
    np.testing.assert_array_equal(align(weight, alone, drift), weight)


def test_an_input_that_is_hardly_ever_active_gets_no_weight_of_any_size() -> None:
    rng = np.random.default_rng(5)
    x, _, weight = drawn(Layout.IN_OUT, 0.5, 160)
    x = x.copy()
    x[:, :, 3] = 0.0
    x[:, ::16, 3] = 1e-3  # seen ten times, a thousandth of the others
    lacking = rng.normal(size=(1, 160, 7)) + 100.0 * x[:, :, 3:4]
    evidence, drift = evidence_of(Layout.IN_OUT, x, x)
    beside = [
        x[:, part].transpose(0, 2, 1) @ lacking[:, part] / x[:, part].shape[1] for part in (slice(0, 120), slice(120, 160))
    ]
    aligned = align(weight, evidence, Drift(drift.fit, drift.held, beside=Beside(beside[0], beside[1], NO_MEANS)))
    assert np.abs(aligned - weight)[3].max() < np.abs(weight).max()


def test_dead_inputs_do_no_harm() -> None:
    x, moved, weight = drawn(Layout.IN_OUT, 0.5)
    x, moved = x.copy(), moved.copy()
    x[:, :, 3] = moved[:, :, 3] = 0.0
    evidence, drift = evidence_of(Layout.IN_OUT, x, moved)
    aligned = align(weight, evidence, drift)
    assert np.isfinite(aligned).all()
    np.testing.assert_allclose(aligned[3], weight[3])
