"""The loss between float and compressed outputs: which yardstick, and what each of them gives."""

from __future__ import annotations

import numpy as np
import pytest

from qcompress.measure.loss import CHUNK, Likeness, OutputLoss, Yardstick, losses, yardstick
from qcompress.types import Array, TensorSignature

RNG = np.random.default_rng(0)
LOGITS = Yardstick(Likeness.LOGITS, 1)
PROBABILITIES = Yardstick(Likeness.PROBABILITIES, 1)
ANGLE = Yardstick(Likeness.ANGLE)
SCORES = RNG.normal(0.0, 4.0, (8, 20)).astype(np.float32)


def softmax(scores: Array) -> Array:
    weights = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def divergence_loss(first: Array, second: Array) -> Array:
    p, q = softmax(first), softmax(second)
    return 1.0 - np.exp(-np.sum(p * (np.log(p) - np.log(q)), axis=1) / 2)


def signature(name: str, *shape: int | str | None, dtype: str = "float32") -> TensorSignature:
    return TensorSignature(name, dtype, shape)


@pytest.mark.parametrize(
    ("what", "output", "expected"),
    [
        (signature("logits", "n", 20), SCORES, LOGITS),
        (signature("probs", "n", 20), softmax(SCORES).astype(np.float32), PROBABILITIES),
        (signature("y", "n", 20), SCORES * 0.01, ANGLE),
        (signature("p", "n", 1), softmax(SCORES)[:, :1].astype(np.float32), ANGLE),
        (signature("embedding", "n", 20), SCORES, ANGLE),
        (signature("logits", "n", "t", 20), SCORES[None], Yardstick(Likeness.LOGITS, 2)),
        (signature("classes", "n", 20, dtype="int64"), SCORES.astype(np.int64), Yardstick(Likeness.EQUALITY)),
    ],
    ids=["logits", "probabilities", "undecided", "one column", "by name", "positions", "integers"],
)
def test_the_yardstick_suits_the_output(what: TensorSignature, output: Array, expected: Yardstick) -> None:
    assert yardstick(what, [output, output]) == expected


def test_a_state_is_no_class_score_however_decided() -> None:
    assert yardstick(signature("cn", "n", 20), [SCORES], is_state=True) == ANGLE


def test_scores_are_compared_as_distributions() -> None:
    other = SCORES + RNG.normal(0.0, 0.5, SCORES.shape).astype(np.float32)
    assert np.allclose(losses(LOGITS, SCORES, other, 8), divergence_loss(SCORES, other), atol=1e-6)
    first, second = softmax(SCORES).astype(np.float32), softmax(other).astype(np.float32)
    assert np.allclose(losses(PROBABILITIES, first, second, 8), divergence_loss(SCORES, other), atol=1e-4)


def test_what_softmax_does_not_see_is_no_loss() -> None:
    assert losses(LOGITS, SCORES, SCORES + 100.0, 8).max() < 1e-4
    assert losses(ANGLE, SCORES, SCORES * 3.0, 8).max() < 1e-6


def test_large_vocabularies_are_compared_in_chunks() -> None:
    wide = np.tile(SCORES, (1, 1 + CHUNK // 100))  # more rows than fit into one chunk
    other = wide + RNG.normal(0.0, 0.5, wide.shape).astype(np.float32)
    assert wide.size > CHUNK
    assert np.allclose(losses(LOGITS, wide, other, 8), divergence_loss(wide, other), atol=1e-5)


def test_the_class_axis_of_a_map_is_the_second() -> None:
    scores = RNG.normal(0.0, 4.0, (2, 5, 3, 4)).astype(np.float32)
    other = scores.copy()
    other[1, :, 2, 3] = -scores[1, :, 2, 3]
    found = losses(LOGITS, scores, other, 2)
    assert found.shape == (24,)
    assert np.flatnonzero(found > 1e-6).tolist() == [23]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", [LOGITS, ANGLE], ids=["logits", "angle"])
def test_what_is_not_a_number_is_lost(how: Yardstick, bad: float) -> None:
    other = SCORES.copy()
    other[3, 4] = bad
    found = losses(how, SCORES, other, 8)
    assert found[3] == 1.0
    assert np.delete(found, 3).max() < 1e-6


@pytest.mark.parametrize("how", [LOGITS, ANGLE], ids=["logits", "angle"])
def test_where_float_itself_is_not_finite_nothing_is_compared(how: Yardstick) -> None:
    masked, other = SCORES.copy(), SCORES.copy()
    masked[:, 5:9] = -np.inf
    other[:, 5:9] = -1e9
    assert losses(how, masked, other, 8).max() < 1e-6


def test_zeros_where_probabilities_were_tiny_cost_little() -> None:
    probabilities = np.array([[0.98, 0.0199, 0.0001]], np.float32)
    assert losses(PROBABILITIES, probabilities, np.array([[0.98, 0.02, 0.0]], np.float32), 1)[0] < 0.002
    assert losses(PROBABILITIES, probabilities, np.zeros((1, 3), np.float32), 1)[0] > 0.3


def test_all_zero_another_shape_and_opposite_directions_are_total_losses() -> None:
    assert losses(ANGLE, SCORES, np.zeros_like(SCORES), 8).tolist() == [1.0] * 8
    assert losses(ANGLE, SCORES, SCORES[:, :5], 8).tolist() == [1.0]
    assert losses(ANGLE, SCORES, -SCORES, 8).tolist() == [1.0] * 8
    assert losses(ANGLE, np.zeros((2, 3)), np.zeros((2, 3)), 2).tolist() == [0.0, 0.0]


def test_integers_are_equal_or_not() -> None:
    first = np.arange(8).reshape(2, 4)
    second = first.copy()
    second[1, :2] = 9
    assert losses(Yardstick(Likeness.EQUALITY), first, second, 2).tolist() == [0.0, 0.5]


def test_batches_of_any_size_give_one_mean() -> None:
    other = SCORES + RNG.normal(0.0, 0.5, SCORES.shape).astype(np.float32)
    whole, parts = OutputLoss(LOGITS), OutputLoss(LOGITS)
    whole.add(SCORES, other, 8)
    for at in (0, 3, 5):
        end = {0: 3, 3: 5, 5: 8}[at]
        parts.add(SCORES[at:end], other[at:end], end - at)
    assert whole.mean == pytest.approx(parts.mean, abs=1e-7)
    assert OutputLoss(ANGLE).mean == 0.0
