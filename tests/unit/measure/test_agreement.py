import math

import ml_dtypes
import numpy as np
import pytest

from qcompress.measure.agreement import DECIDED, Agreement, class_axis, doubt
from qcompress.types import TensorSignature

SCORES = TensorSignature("logits", "float32", ("n", 4))


def compare(first, second, signature=SCORES, samples=None):
    output = Agreement(signature)
    output.add(first, second, len(first) if samples is None else samples)
    return output.result()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def confident(rng, *shape):
    return (rng.normal(size=shape) * 10).astype(np.float32)


def test_equal_outputs_agree_wholly(rng):
    scores = confident(rng, 20, 4)
    found = compare(scores, scores.copy())
    assert found.cosine is not None
    assert found.top1 is not None
    assert (found.cosine.value, found.cosine.low, found.cosine.high) == (1.0, 1.0, 1.0)
    assert (found.sqnr_db, found.max_abs_error, found.top1.value, found.lost_samples) == (None, 0.0, 1.0, 0)


def test_numbers_follow_their_definitions(rng):
    first = confident(rng, 50, 4)
    second = first + rng.normal(size=first.shape).astype(np.float32) * 3
    found = compare(first, second)
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    exact = np.float64(first) - np.float64(second)
    assert found.cosine is not None
    assert found.cosine.value == pytest.approx(cosines.mean(), rel=1e-5)
    assert found.cosine.high - found.cosine.low == pytest.approx(2 * 1.96 * cosines.std(ddof=1) / math.sqrt(50), rel=1e-3)
    assert found.sqnr_db == pytest.approx(10 * np.log10((np.float64(first) ** 2).sum() / (exact**2).sum()))
    assert found.max_abs_error == pytest.approx(np.abs(exact).max())
    assert found.top1 is not None
    assert found.top1.value == pytest.approx((first.argmax(1) == second.argmax(1)).mean())


def test_batches_add_up_to_the_whole(rng):
    first, second = confident(rng, 30, 4), confident(rng, 30, 4)
    parts = Agreement(SCORES)
    for begin, end in ((0, 7), (7, 8), (8, 30)):
        parts.add(first[begin:end], second[begin:end], end - begin)
    whole, found = compare(first, second), parts.result()
    assert found.cosine.value == pytest.approx(whole.cosine.value)
    assert found.sqnr_db == pytest.approx(whole.sqnr_db)
    assert found.top1.value == pytest.approx(whole.top1.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_lose_the_sample(rng, bad):
    first = confident(rng, 4, 4)
    second = first.copy()
    second[2, 1] = bad
    found = compare(first, second)
    assert found.lost_samples == 1
    assert found.cosine.value == pytest.approx(0.75)
    assert found.top1.value == pytest.approx(0.75)
    power = (np.float64(first) ** 2).sum(1)
    assert found.sqnr_db == pytest.approx(10 * np.log10(power.sum() / power[2]))


def test_where_the_float_model_masks_nothing_is_compared(rng):
    first = confident(rng, 6, 4)
    first[:, 0] = -np.inf
    second = first.copy()
    second[:3, 0] = -3e38
    found = compare(first, second)
    assert (found.lost_samples, found.cosine.value, found.top1.value, found.sqnr_db) == (0, 1.0, 1.0, None)


def test_another_shape_loses_every_sample(rng):
    found = compare(confident(rng, 5, 4), confident(rng, 5, 3))
    assert (found.lost_samples, found.cosine.value, found.sqnr_db) == (5, 0.0, 0.0)


def test_one_zero_output_has_cosine_zero():
    assert compare(np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)).cosine.value == 0.0
    assert compare(np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)).cosine.value == 1.0


def test_integers_are_counted_where_equal():
    first = np.array([[1, 2], [3, 4]])
    found = compare(first, np.array([[1, 2], [3, 9]]))
    assert found.cosine is None
    assert found.top1 is None
    assert found.equal.value == 0.75
    assert found.max_abs_error == 5.0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_float_type_is_compared(rng, dtype):
    first = confident(rng, 8, 4).astype(dtype)
    found = compare(first, first + dtype(0.5))
    assert found.cosine is not None
    assert 0.2 <= found.max_abs_error <= 0.8


def test_texts_are_compared():
    found = compare(np.array(["a", "b"], object), np.array(["a", "c"], object), TensorSignature("t", "str", ("n",)))
    assert found.equal.value == 0.5


def test_scalars_and_empty_outputs_do_no_harm():
    scalar = compare(np.float32(1.0).reshape(()), np.float32(2.0).reshape(()), TensorSignature("s", "float32", ()), 3)
    assert scalar.cosine.value == 1.0
    empty = compare(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32), samples=1)
    assert empty.cosine.value == 1.0


@pytest.mark.parametrize(
    ("name", "declared", "shape", "axis"),
    [
        ("logits", ("n", 10), (2, 10), 1),
        ("y", ("n", 1), (2, 1), None),
        ("y", ("n",), (2,), None),
        ("tags", ("n", "time", 59), (2, 7, 59), 2),
        ("boxes", (1, 84, 8400), (1, 84, 8400), None),
        ("last_hidden_state", ("n", "time", 384), (2, 7, 384), None),
        ("masks", ("n", 21, "h", "w"), (2, 21, 8, 8), None),
        ("segments", ("n", 21, "h", "w"), (2, 21, 8, 8), 1),
        ("segments", (1, 21, 8, 8), (1, 21, 8, 8), 1),
        ("alpha", (1, 1, 8, 8), (1, 1, 8, 8), None),
        ("kv.0", ("n", 9, "time", 64), (2, 9, 7, 64), None),
        ("unknown", None, (2, 10), 1),
    ],
)
def test_where_classes_can_be(name, declared, shape, axis):
    assert class_axis(TensorSignature(name, "float32", declared), np.zeros(shape, np.float32)) == axis


def test_representations_are_not_taken_for_scores(rng):
    hidden = rng.normal(size=(64, 384))
    logits = rng.normal(size=(64, 1000)) * 3
    logits[np.arange(64), rng.integers(0, 1000, 64)] += 14
    probabilities = np.full((64, 1000), 0.001)
    assert doubt(hidden, 1) > 0.9 > DECIDED
    assert doubt(logits, 1) < DECIDED
    assert doubt(probabilities, 1) == 0.0
    found = compare(hidden, hidden + 0.01, TensorSignature("y", "float32", ("n", 384)))
    assert found.top1 is None
    assert found.cosine is not None


def test_segmentation_maps_are_compared_along_channels(rng):
    first = confident(rng, 2, 5, 8, 8)
    second = first.copy()
    second[:, :, :4] = np.roll(first[:, :, :4], 1, axis=1)  # half of the rows answer another class
    found = compare(first, second, TensorSignature("map", "float32", ("n", 5, 8, 8)))
    assert found.top1.value == pytest.approx(0.5)
