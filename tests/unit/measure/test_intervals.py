import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.measure.intervals import RunningMean, median_interval


def test_running_mean_agrees_with_numpy():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    running = RunningMean()
    for value in values:
        running.add(float(value))
    found = running.interval()
    error = values.std(ddof=1) / math.sqrt(400) * 1.959963984540054
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == (pytest.approx(values.mean() - error), pytest.approx(values.mean() + error))


def test_one_value_has_no_interval():
    running = RunningMean()
    running.add(2.0)
    assert running.interval().low is None


def test_intervals_stay_within_possible_values():
    running = RunningMean()
    for value in (0.0, 1.0, 1.0):
        running.add(value)
    found = running.interval(0.0, 1.0)
    assert (found.low, found.high) == (pytest.approx(2 / 3 - 1.96 / 3, abs=1e-3), 1.0)


@pytest.mark.parametrize(("count", "rank"), [(5, None), (6, 1), (10, 2), (20, 6), (25, 8), (100, 40)])
def test_order_statistics_of_the_published_tables(count, rank):
    found = median_interval(list(range(1, count + 1)))
    if rank is None:
        assert found.low is None
    else:
        assert (found.low, found.high) == (rank, count - rank + 1)


def test_the_interval_of_the_median_covers_it_as_often_as_promised():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        found = median_interval(rng.exponential(1.0, 31).tolist())
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= math.log(2) <= found.high
    assert 930 <= hits <= 995


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_median_lies_inside(values):
    found = median_interval(values)
    assert found.value == pytest.approx(float(np.median(values)))
    if found.low is not None and found.high is not None:
        assert min(values) <= found.low <= found.value <= found.high <= max(values)
