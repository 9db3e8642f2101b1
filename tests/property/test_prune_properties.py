"""Properties of masks and of what survivors become: exact shares, highest scores, never worse where judged, the same twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import grams, weights

from qcompress.errors import ModelError
from qcompress.prune import CRITERIA, choose_mask, compensate, prune_weight, scores, without_indices, without_inputs
from qcompress.prune.conditioning import row_error
from qcompress.quantize import Evidence, Gram, Layout, inputs_of, to_rows
from qcompress.types import Criterion, Pattern, Prune

modest = settings(deadline=None, derandomize=True, max_examples=100)


@st.composite
def cases(draw):
    """A weight, evidence, and a gradient or none."""
    weight, layout, groups = draw(weights(9))
    gram = draw(grams(inputs_of(weight.shape, layout, groups), groups)) if layout is not Layout.TABLE else None
    gradient = np.abs(np.random.default_rng(7).standard_normal(weight.shape)).astype(np.float32)
    return weight, Evidence(layout, groups, gram), gradient if draw(st.booleans()) else None


patterns = st.sampled_from(["unstructured", "2:4", "1:2", "4:8", "block2", "block5"]).map(Pattern.parse)
prunes = st.builds(Prune, st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.99]), st.sampled_from(list(Criterion)), patterns)


@modest
@given(cases(), st.sampled_from(list(Criterion)))
def test_scores_are_numbers_of_the_weights_shape(case, criterion):
    weight, evidence, gradient = case
    found = scores(weight, criterion, evidence, gradient)
    assert found.shape == weight.shape
    assert np.isfinite(found).all()
    assert (found >= 0.0).all()


@modest
@given(weights(9), st.floats(0.0, 0.999), st.sampled_from([Criterion.MAGNITUDE, Criterion.WANDA]))
def test_a_share_is_met_to_the_number(case, sparsity, criterion):
    weight, layout, groups = case
    mask = choose_mask(np.abs(weight), Prune(sparsity, criterion), layout, groups)
    assert mask.shape == weight.shape
    assert np.count_nonzero(~mask) == min(round(sparsity * weight.size), weight.size - 1)


@modest
@given(weights(9), st.floats(0.0, 0.999))
def test_what_stays_scores_highest(case, sparsity):
    weight, layout, groups = case
    mask = choose_mask(np.abs(weight), Prune(sparsity, Criterion.MAGNITUDE), layout, groups)
    assert np.abs(weight)[mask].min() >= np.abs(weight)[~mask].max(initial=0.0)
    by_rows = choose_mask(np.abs(weight), Prune(sparsity, Criterion.WANDA), layout, groups)
    rows, kept = (to_rows(values, layout, groups) for values in (np.abs(weight), by_rows))
    lowest_kept = np.where(kept, rows, np.inf).min(axis=-1)
    assert (lowest_kept >= np.where(kept, 0.0, rows).max(axis=-1)).all()
    counts = np.count_nonzero(~kept, axis=-1)
    assert counts.max() - counts.min() <= 1


@modest
@given(weights(9), st.sampled_from(["1:2", "2:4", "4:8"]).map(Pattern.parse))
def test_at_most_n_of_m_stay_and_they_score_highest(case, pattern):
    weight, layout, groups = case
    mask = choose_mask(np.abs(weight), Prune(pattern.sparsity, Criterion.MAGNITUDE, pattern), layout, groups)
    rows, kept = (to_rows(values, layout, groups) for values in (np.abs(weight), mask))
    for start in range(0, rows.shape[-1], pattern.of):
        run, here = rows[..., start : start + pattern.of], kept[..., start : start + pattern.of]
        assert (here.sum(axis=-1) == min(pattern.kept, run.shape[-1])).all()
        assert (np.where(here, run, np.inf).min(axis=-1) >= np.where(here, 0.0, run).max(axis=-1)).all()


@modest
@given(weights(9), st.sampled_from([0.3, 0.5, 0.7]), st.integers(2, 9))
def test_blocks_stay_or_go_as_a_whole(case, sparsity, size):
    weight, layout, groups = case
    mask = choose_mask(np.abs(weight), Prune(sparsity, Criterion.MAGNITUDE, Pattern(of=size)), layout, groups)
    kept = to_rows(mask, layout, groups)
    blocks = [kept[..., start : start + size] for start in range(0, kept.shape[-1], size)]
    assert all((block == block[..., :1]).all() for block in blocks)
    count = kept.size // kept.shape[-1] * len(blocks)
    assert sum(np.count_nonzero(~block[..., 0]) for block in blocks) == min(round(sparsity * count), count - 1)


@modest
@given(weights(9), st.floats(0.0, 3.0))
def test_below_the_threshold_everything_goes(case, threshold):
    weight, layout, groups = case
    mask = choose_mask(np.abs(weight), Prune(0.0, Criterion.MAGNITUDE, threshold=threshold), layout, groups)
    np.testing.assert_array_equal(mask, np.abs(weight) >= threshold)


@modest
@given(cases(), prunes)
def test_a_pruned_weight_has_zeros_where_its_mask_says(case, prune):
    weight, evidence, gradient = case
    pruned, mask = prune_weight(weight, prune, evidence, gradient)
    assert pruned.dtype == np.float32
    assert mask.dtype == np.bool_
    assert pruned.shape == mask.shape == weight.shape
    assert (pruned[~mask] == 0.0).all()
    assert np.isfinite(pruned).all()


@modest
@given(cases(), prunes)
def test_survivors_solved_again_are_never_worse_on_the_samples_that_judge_them(case, prune):
    weight, evidence, gradient = case
    mask = choose_mask(scores(weight, prune.criterion, evidence, gradient), prune, evidence.layout, evidence.groups)
    solved = compensate(weight, mask, evidence)
    alone = np.where(mask, weight, 0.0)
    if evidence.gram is None:
        np.testing.assert_array_equal(solved, alone)
        return
    target, rows, left = (to_rows(values, evidence.layout, evidence.groups) for values in (weight, solved, alone))
    bound = row_error(target, left, evidence.gram.judge)
    assert row_error(target, rows, evidence.gram.judge) <= bound * (1.0 + 1e-9)


@modest
@given(cases(), prunes)
def test_the_same_evidence_gives_the_same_weight(case, prune):
    weight, evidence, gradient = case
    (one, mask), (other, again) = (prune_weight(weight.copy(), prune, evidence, gradient) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(mask, again)


@modest
@given(weights(9), st.data())
def test_inputs_that_go_are_whole_columns(case, data):
    weight, layout, groups = case
    inputs = inputs_of(weight.shape, layout, groups)
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=groups * inputs, max_size=groups * inputs)))
    mask = without_inputs(gone, weight.shape, layout, groups)
    rows = to_rows(mask, layout, groups)
    np.testing.assert_array_equal(rows, np.broadcast_to(~gone.reshape(groups, 1, inputs), rows.shape))


def test_indices_of_an_axis_that_go():
    mask = without_indices(np.array([[0, 2]]), (2, 3, 2), 1)
    assert (~mask[:, [0, 2]]).all()
    assert mask[:, 1].all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("criterion", list(Criterion))
def test_weights_that_are_no_numbers_are_refused(value, criterion):
    weight = np.ones((4, 5), dtype=np.float32)
    weight[2, 3] = value
    with pytest.raises(ModelError):
        prune_weight(weight, Prune(0.5, criterion), Evidence(Layout.OUT_IN, gram=Gram(np.eye(5)[None], None, 5)))


def test_every_criterion_is_in_the_table():
    assert set(CRITERIA) == set(Criterion)
