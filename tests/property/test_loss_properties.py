"""Losses of any outputs: 0 for the same, never outside [0, 1], and larger for more noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qcompress.measure.loss import Likeness, Yardstick, losses

FLOATS = st.floats(-1e4, 1e4, width=32)
ANY = st.floats(width=32)
HOWS = [
    Yardstick(Likeness.LOGITS, 1),
    Yardstick(Likeness.PROBABILITIES, 1),
    Yardstick(Likeness.ANGLE),
    Yardstick(Likeness.EQUALITY),
]
how_param = pytest.mark.parametrize("how", HOWS, ids=lambda how: how.likeness.value)


@how_param
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=30)
def test_the_same_outputs_lose_nothing(how: Yardstick, data: st.DataObject) -> None:
    output = data.draw(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=FLOATS))
    assert np.all(losses(how, output, output.copy(), len(output)) == 0.0)


@how_param
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_losses_lie_between_0_and_1_whatever_comes(how: Yardstick, data: st.DataObject) -> None:
    shape = data.draw(array_shapes(min_dims=2, max_dims=4, max_side=5))
    first, second = (data.draw(arrays(np.float32, shape, elements=ANY)) for _ in range(2))
    found = losses(how, first, second, shape[0])
    assert np.all((found >= 0.0) & (found <= 1.0))


@pytest.mark.parametrize("how", HOWS[:3], ids=lambda how: how.likeness.value)
@given(seed=st.integers(0, 1000))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_more_noise_loses_more_on_average(how: Yardstick, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, noise = rng.normal(0.0, 3.0, (2, 200, 20))
    if how.likeness is Likeness.PROBABILITIES:
        scores, noise = np.exp(scores), np.abs(noise) * 2.0
        scores /= scores.sum(1, keepdims=True)
        noise /= noise.sum(1, keepdims=True)
    steps = [float(losses(how, scores, scores + level * noise, 200).mean()) for level in (0.01, 0.1, 0.4, 1.5)]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1] / 4
