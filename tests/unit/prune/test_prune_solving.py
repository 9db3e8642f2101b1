"""Survivors solved again are least squares, however they are found, and masks found in stages are better than those found at once."""

import numpy as np
import pytest

from qcompress.prune import choose_mask, compensate, prune_weight, scores
from qcompress.prune.compensate import compensate_with
from qcompress.prune.conditioning import expected, pick_conditioning, row_error
from qcompress.prune.criteria.optimal_brain import stiffness_of
from qcompress.prune.solve import EXACT_INPUTS, solve_rows
from qcompress.quantize import Evidence, Gram, Layout
from qcompress.quantize.fitted import Conditioning, expected_share
from qcompress.types import Array, Criterion, Pattern, Prune


def correlated(rows: int, inputs: int, seed: int = 0, groups: int = 1) -> Array:
    """(groups, rows, inputs), a quarter as many causes as inputs."""
    random = np.random.default_rng(seed)
    causes = max(inputs // 4, 2)
    mixing = np.random.default_rng(99).standard_normal((groups, causes, inputs)) / np.sqrt(causes)
    return random.standard_normal((groups, rows, causes)) @ mixing + 0.3 * random.standard_normal((groups, rows, inputs))


def gram_of(x: Array) -> Array:
    return x.swapaxes(1, 2) @ x / x.shape[1]


def known(rows: int, inputs: int, groups: int = 1, layout: Layout = Layout.OUT_IN) -> Evidence:
    x = correlated(rows, inputs, 1, groups)
    held = rows // 4
    return Evidence(layout, groups, Gram(gram_of(x[:, held:]), gram_of(x[:, :held]), rows - held, held))


def weight_of(*shape: int) -> Array:
    return np.random.default_rng(5).standard_t(5, shape).astype(np.float32)


def textbook(target: Array, keep: Array, hessian: Array) -> Array:
    """Each row by itself: v_S = H_SS^-1 (H w)_S."""
    rows = np.zeros_like(target)
    for group, output in np.ndindex(target.shape[:2]):
        kept = np.flatnonzero(keep[group, output])
        wanted = hessian[group][kept] @ target[group, output]
        rows[group, output, kept] = np.linalg.solve(hessian[group][np.ix_(kept, kept)], wanted)
    return rows


@pytest.mark.parametrize("inputs", [9, EXACT_INPUTS, EXACT_INPUTS + 1, 120])
@pytest.mark.parametrize("groups", [1, 3])
def test_rows_are_least_squares(inputs: int, groups: int) -> None:
    hessian = gram_of(correlated(4 * inputs, inputs, 2, groups))
    target = np.random.default_rng(3).standard_normal((groups, 10, inputs))
    keep = np.random.default_rng(4).random(target.shape) > 0.5
    exact, found = textbook(target, keep, hessian), solve_rows(target, keep, hessian)
    assert (found[~keep] == 0.0).all()
    least, alone = row_error(target, exact, hessian), row_error(target, np.where(keep, target, 0.0), hessian)
    assert row_error(target, found, hessian) - least <= 0.005 * (alone - least)


def test_inputs_that_all_rows_lose_are_solved_at_once() -> None:
    hessian = gram_of(correlated(400, 90, 2, 2))
    target = np.random.default_rng(3).standard_normal((2, 10, 90))
    keep = np.broadcast_to(np.random.default_rng(4).random((2, 1, 90)) > 0.3, target.shape)
    np.testing.assert_allclose(solve_rows(target, keep, hessian), textbook(target, keep, hessian), atol=1e-9)


def test_inputs_of_very_different_sizes_are_solved_alike() -> None:
    sizes = 10.0 ** np.random.default_rng(1).uniform(-4, 4, 80)
    hessian = gram_of(correlated(320, 80, 2))
    target = np.random.default_rng(3).standard_normal((1, 10, 80))
    keep = np.random.default_rng(4).random(target.shape) > 0.5
    plain = solve_rows(target, keep, hessian)
    scaled = solve_rows(target / sizes, keep, hessian * sizes[:, None] * sizes)
    np.testing.assert_allclose(scaled * sizes, plain, rtol=1e-6, atol=1e-8)


def test_the_stiffness_is_that_of_the_inverse() -> None:
    hessian = gram_of(correlated(200, 30, 2, 2))
    expected = 1.0 / np.diagonal(np.linalg.inv(hessian), axis1=1, axis2=2)
    np.testing.assert_allclose(stiffness_of(hessian), expected, rtol=1e-8)


def test_optimal_brain_scores_are_what_is_lost_when_the_others_make_up_for_it() -> None:
    weight, gram = weight_of(1, 12), Gram(gram_of(correlated(500, 12, 2)), None, 500)
    found = scores(weight, Criterion.OPTIMAL_BRAIN, Evidence(Layout.OUT_IN, gram=gram))[0]
    hessian = expected(gram).apply(gram.fit)
    for index in range(12):
        keep = (np.arange(12) != index)[None, None]
        lost = row_error(weight[None], textbook(weight[None].astype(np.float64), keep, hessian), hessian)
        assert found[index] == pytest.approx(lost, rel=1e-6)


@pytest.mark.parametrize(("shape", "layout", "groups"), [((64, 160), Layout.OUT_IN, 1), ((160, 64), Layout.IN_OUT, 1)])
def test_compensation_halves_the_error_on_fresh_rows(shape: tuple[int, int], layout: Layout, groups: int) -> None:
    evidence, fresh = known(1200, 160, groups, layout), gram_of(correlated(4000, 160, 7))
    weight = weight_of(*shape)
    rows = weight if layout is Layout.OUT_IN else weight.T
    errors = []
    for again in (False, True):
        pruned, _ = prune_weight(weight, Prune(0.5, Criterion.WANDA, compensate=again), evidence)
        errors.append(row_error(rows[None], (pruned if layout is Layout.OUT_IN else pruned.T)[None], fresh))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block4"])
@pytest.mark.parametrize(("inputs", "groups"), [(9, 32), (120, 1)])
def test_masks_found_in_stages_are_better_on_fresh_rows(pattern: str, inputs: int, groups: int) -> None:
    shape, layout = ((groups, 1, 3, 3), Layout.CONV) if groups > 1 else ((48, inputs), Layout.OUT_IN)
    evidence, fresh = known(12 * inputs, inputs, groups, layout), gram_of(correlated(4000, inputs, 7, groups))
    weight = weight_of(*shape)
    prune = Prune(0.5, pattern=Pattern.parse(pattern))
    at_once = choose_mask(scores(weight, prune.criterion, evidence), prune, layout, groups)
    pruned, mask = prune_weight(weight, prune, evidence)
    firsts = slice(None, None, 4 if pattern == "block4" else 1)
    kept, kept_at_once = (values.reshape(groups, -1, inputs)[..., firsts] for values in (mask, at_once))
    assert np.count_nonzero(kept) == np.count_nonzero(kept_at_once)
    rows, staged, plain = (
        values.reshape(groups, -1, inputs) for values in (weight, pruned, compensate(weight, at_once, evidence))
    )
    assert row_error(rows, staged, fresh) < 0.99 * row_error(rows, plain, fresh)


def test_few_rows_are_not_believed() -> None:
    """With half as many rows as inputs, and inputs that have nothing to do with each other, survivors stay what they are."""
    x = np.random.default_rng(1).standard_normal((1, 80, 160))
    gram = Gram(gram_of(x[:, 20:]), gram_of(x[:, :20]), 60, 20)
    assert expected_share(gram) > 0.9
    target = np.random.default_rng(2).standard_normal((1, 20, 160))
    keep = np.random.default_rng(3).random(target.shape) > 0.5
    assert pick_conditioning(target, lambda groups, outputs, _: keep[groups][:, outputs], gram) is None


def test_inputs_that_were_hardly_seen_still_count() -> None:
    """Half of the inputs are silent in the samples to fit on, not in those held out."""
    x = correlated(400, 80, 1)
    x[:, 100:, 40:] *= 1e-3
    gram = Gram(gram_of(x[:, 100:]), gram_of(x[:, :100]), 300, 100)
    weight = weight_of(1, 32, 80)

    def mask_of(groups: Array, outputs: Array, hessian: Array) -> Array:
        moments = np.diagonal(hessian, axis1=1, axis2=2)[:, None]
        return choose_mask(weight**2 * moments, Prune(0.5), Layout.CONV)

    picked = pick_conditioning(weight, mask_of, gram)
    assert picked is not None
    assert picked.damp > 0.0


def test_an_aligned_target_is_what_survivors_aim_at() -> None:
    evidence = known(1200, 120)
    weight, target = weight_of(32, 120), weight_of(32, 120) * 1.5
    prune = Prune(0.4, Criterion.MAGNITUDE)
    pruned, mask = prune_weight(weight, prune, evidence, target=target)
    np.testing.assert_array_equal(pruned, compensate(target, mask, evidence))


def test_weights_without_evidence_keep_their_survivors() -> None:
    weight = weight_of(20, 30)
    for criterion in Criterion:
        pruned, mask = prune_weight(weight, Prune(0.5, criterion), Evidence(Layout.TABLE))
        assert np.count_nonzero(mask) == 300
        np.testing.assert_array_equal(pruned, np.where(mask, weight, 0.0))


def test_a_threshold_and_a_pattern_both_hold() -> None:
    values = np.array([[5.0, 1.0, 4.0, 3.0, 0.5, 0.2, 0.1, 2.0]])
    prune = Prune(0.0, Criterion.MAGNITUDE, Pattern.parse("2:4"), threshold=1.0)
    mask = choose_mask(values, prune, Layout.OUT_IN)
    np.testing.assert_array_equal(mask, [[True, False, True, False, False, False, False, True]])


def test_channels_are_not_chosen_for_one_weight() -> None:
    with pytest.raises(ValueError, match="group of layers"):
        choose_mask(np.ones((4, 4)), Prune(0.5, pattern=Pattern.parse("channel")), Layout.OUT_IN)


def test_rows_are_worked_on_in_pieces_with_shares_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, weight = known(900, 60), weight_of(40, 60)
    _, whole = prune_weight(weight, Prune(0.5), evidence)
    monkeypatch.setattr("qcompress.prune.stages._CHUNK", 60 * 7)
    monkeypatch.setattr("qcompress.prune.solve._CHUNK", 60 * 7)
    pruned, pieces = prune_weight(weight, Prune(0.5), evidence)
    assert np.count_nonzero(pieces) == np.count_nonzero(whole) == 1200
    assert (pruned[~pieces] == 0.0).all()


def test_what_is_worse_on_held_out_samples_is_not_kept() -> None:
    weight, mask = weight_of(20, 40), np.random.default_rng(2).random((20, 40)) > 0.5
    other = np.random.default_rng(3).standard_normal((40, 40))
    gram = Gram(gram_of(correlated(4000, 40, 1)), (other @ other.T)[None], 4000)
    found = compensate_with(weight, mask, Evidence(Layout.OUT_IN, gram=gram), Conditioning(0.005))
    np.testing.assert_array_equal(found, np.where(mask, weight, 0.0))


def test_what_does_not_divide_evenly_goes_where_it_counts_least() -> None:
    values = np.array([[9.0, 5.0, 7.0], [1.0, 2.0, 8.0], [6.0, 4.0, 3.0]])
    mask = choose_mask(values, Prune(4 / 9, Criterion.WANDA), Layout.OUT_IN)
    np.testing.assert_array_equal(mask, [[True, False, True], [False, False, True], [True, True, False]])
